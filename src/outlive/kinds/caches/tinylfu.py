"""Which values stay: W-TinyLFU, bounded in entries and in bytes at every moment.

    new ──▶ window ──▶ admitted? ──▶ probation ──asked for again──▶ protected
            (recent)      │            │   ▲                          │
                          ▼            ▼   └────── its oldest ◀───────┘
                         gone         gone

What leaves the window is admitted when it was asked for more often than what would have to go for
it, all of it together: so a scan passes through the window and leaves the rest alone, and one huge
value cannot empty the cache. How often an absent key was asked for is in the sketch; a present one
knows it itself. All counts are halved when ten times as many questions as entries were asked.

The window begins as a hundredth and is moved by what the hit rate says: larger where recency pays,
smaller where frequency does.

A hit is noted in a list and carried out later, sixty-four together, so it costs little. Room is
made before anything is put in. Expired values are not searched for: they count as never asked for,
so they are the first to go.

Einziger, Friedman, Manes (2017); the climbing window: Einziger, Eytan, Friedman, Manes (2018).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from itertools import chain, islice
from typing import Any, Literal

from msgspec import Struct

from outlive.kinds.caches.rule import Bounds
from outlive.kinds.caches.sketch import COUNT_MAX, Sketch

ENTRY_BYTES = 400
"""What an entry costs beside its key and value: the object, its places in tables."""
TOUCHED_MAX = 64
SAMPLES = 10
"""Questions for each entry between two agings."""
PROTECTED = 0.8
WINDOW, WINDOW_MIN, WINDOW_MAX = 0.01, 0.01, 0.95
STEP, STEP_MIN, STEP_FADES = 0.0625, 0.005, 0.98
RESTART = 0.05
"""A change of the hit rate at which the window begins to move in large steps again."""
LUCKY_MASK = 127
"""One of so many is admitted though it was asked for no more often than the victim: whoever knows
the hash cannot keep a value in for ever."""
LUCKY_COUNT = 6

Cause = Literal["not admitted", "evicted", "too large", "replaced", "invalidated", "dropped"]
Segment = Literal["window", "probation", "protected", ""]


class Entry(Struct, gc=True):
    """One value; the policy reads and writes the first five fields only."""

    key: Hashable
    size: int
    """Bytes, with its key and what it costs."""
    expires: float = 0.0
    """When it is of no use any more: it goes first."""
    count: int = 0
    segment: Segment = ""
    value: Any = None
    is_plain: bool = True
    """Whether the value itself may be handed out; else it is JSON, read at each call."""
    fresh_until: float = 0.0
    """Until then it may be served without another thought."""
    refresh_at: float = 0.0
    ends: float = 0.0
    """The end of its life."""
    asked: float = 0.0
    checked: float = 0.0
    """When its stamps were known to be these: never later than that."""
    stamps: tuple[int, ...] = ()
    origin: int = 0
    """When its load began, by the store's clock; 0 where it is not shared."""
    began: float = 0.0
    """The same by this instance's clock."""


class TinyLFU:
    """Entries within `bounds`; `now` comes as a parameter."""

    __slots__ = (
        "_before",
        "_best",
        "_entries",
        "_main",
        "_protected",
        "_protected_bytes",
        "_questions",
        "_sketch",
        "_step",
        "_touched",
        "_window",
        "_window_bytes",
        "_window_part",
        "bounds",
        "bytes",
        "gone",
        "hits",
        "misses",
    )  # fmt: skip

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.bytes = 0
        self.hits = self.misses = 0
        self.gone: Counter[Cause] = Counter()
        self._entries: dict[Hashable, Entry] = {}
        self._window: OrderedDict[Hashable, Entry] = OrderedDict()
        self._main: OrderedDict[Hashable, Entry] = OrderedDict()
        self._protected: OrderedDict[Hashable, Entry] = OrderedDict()
        self._window_bytes = self._protected_bytes = 0
        self._sketch = Sketch(bounds.entries)
        self._touched: list[Entry] = []
        self._questions = 0
        self._window_part, self._step = WINDOW, STEP
        self._before = (0, 0)
        self._best = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def some(self, limit: int) -> list[Entry]:
        """At most `limit` entries, those that were put first before the others; tells the policy
        nothing."""
        return list(islice(self._entries.values(), limit))

    @property
    def find(self) -> Any:
        """Look an entry up without telling the policy: `dict.get`."""
        return self._entries.get

    def hit(self, entry: Entry) -> None:
        """`entry` was asked for, and served."""
        self.hits += 1
        self._touched.append(entry)
        if len(self._touched) >= TOUCHED_MAX:
            self.settle()

    def miss(self) -> None:
        """A key was asked for that is not here."""
        self.misses += 1

    def put(self, entry: Entry, now: float) -> Cause | None:
        """Keep `entry`, whose size is known; gives why not, or None.

        The bounds hold before, during and after. What was there under its key goes.
        """
        self.settle()
        old = self._entries.get(entry.key)
        if old is not None:
            entry.count = old.count
            self._remove(old, "replaced")
        else:
            entry.count = self._sketch.count(entry.key)
        entry.count = min(entry.count + 1, COUNT_MAX)
        if entry.size > min(self.bounds.value_bytes + ENTRY_BYTES, self.bounds.bytes):
            self._sketch.remember(entry.key, entry.count)
            self.gone["too large"] += 1
            return "too large"
        entries, most = self._window_bounds()
        is_large = entry.size > most
        coming, bytes = (0, 0) if is_large else (1, entry.size)
        while self._window and (
            len(self._window) + coming > entries or self._window_bytes + bytes > most
        ):
            _, oldest = self._window.popitem(last=False)
            self._window_bytes -= oldest.size
            del self._entries[oldest.key]
            self.bytes -= oldest.size
            self._admit(oldest, now)
        if is_large:
            return self._admit(entry, now)
        self._shrink_main(now, entry.size)
        entry.segment = "window"
        self._window[entry.key] = self._entries[entry.key] = entry
        self._window_bytes += entry.size
        self.bytes += entry.size
        return None

    def drop(self, key: Hashable, cause: Cause) -> bool:
        """Let go of a key; whether it was there."""
        found = self._entries.get(key)
        if found is None:
            return False
        self._remove(found, cause)
        return True

    def clear(self, cause: Cause) -> None:
        """Let go of all."""
        for entry in self:
            self._remove(entry, cause)

    def settle(self) -> None:
        """Carry out the hits that were noted."""
        touched, self._touched = self._touched, []
        for entry in touched:
            if entry.count < COUNT_MAX:
                entry.count += 1
            where = entry.segment
            if where == "window":
                self._window.move_to_end(entry.key)
            elif where == "protected":
                self._protected.move_to_end(entry.key)
            elif where == "probation":
                self._promote(entry)
        if self.hits + self.misses - self._questions >= SAMPLES * self.bounds.entries:
            self._age()

    # --- segments ---------------------------------------------------------------------------------

    def _window_bounds(self) -> tuple[int, int]:
        """Entries and bytes of the window."""
        part, bounds = self._window_part, self.bounds
        return max(1, int(bounds.entries * part)), max(1, int(bounds.bytes * part))

    def _admit(self, entry: Entry, now: float) -> Cause | None:
        """Put `entry`, which is nowhere, into the main part, or let go of it."""
        entries, most = self._window_bounds()
        room = self.bounds.entries - entries - len(self._main) - len(self._protected)
        left = self.bounds.bytes - most - (self.bytes - self._window_bytes)
        victims: list[Entry] = []
        weight = 0
        for victim in chain(self._main.values(), self._protected.values()):
            if room >= 1 and left >= entry.size:
                break
            weight += victim.count if victim.expires > now else 0
            if weight >= entry.count and not self._is_lucky(entry, weight):
                return self._refuse(entry)
            victims.append(victim)
            room += 1
            left += victim.size
        if room < 1 or left < entry.size:
            return self._refuse(entry)
        for victim in victims:
            self._remove(victim, "evicted")
        entry.segment = "probation"
        self._main[entry.key] = self._entries[entry.key] = entry
        self.bytes += entry.size
        return None

    def _refuse(self, entry: Entry) -> Cause:
        entry.segment = ""
        self._sketch.remember(entry.key, entry.count)
        self.gone["not admitted"] += 1
        return "not admitted"

    def _is_lucky(self, entry: Entry, weight: int) -> bool:
        if entry.count < LUCKY_COUNT or weight > COUNT_MAX:
            return False
        return (hash(entry.key) ^ self.misses) & LUCKY_MASK == 0

    def _promote(self, entry: Entry) -> None:
        del self._main[entry.key]
        self._protected[entry.key] = entry
        self._protected_bytes += entry.size
        entry.segment = "protected"
        entries, most = self._window_bounds()
        allowed = PROTECTED * (self.bounds.entries - entries)
        allowed_bytes = PROTECTED * (self.bounds.bytes - most)
        while len(self._protected) > max(1, allowed) or (
            self._protected_bytes > allowed_bytes and len(self._protected) > 1
        ):
            _, oldest = self._protected.popitem(last=False)
            self._protected_bytes -= oldest.size
            oldest.segment = "probation"
            self._main[oldest.key] = oldest

    def _remove(self, entry: Entry, cause: Cause) -> None:
        key = entry.key
        del self._entries[key]
        self.bytes -= entry.size
        if entry.segment == "window":
            del self._window[key]
            self._window_bytes -= entry.size
        elif entry.segment == "probation":
            del self._main[key]
        else:
            del self._protected[key]
            self._protected_bytes -= entry.size
        entry.segment = ""
        self._sketch.remember(key, entry.count)
        self.gone[cause] += 1

    def _shrink_main(self, now: float, size: int) -> None:
        """Make room for `size` more where the window has grown and the main part is too large."""
        while self._main or self._protected:
            if len(self) < self.bounds.entries and self.bytes + size <= self.bounds.bytes:
                return
            oldest = next(iter((self._main or self._protected).values()))
            self._remove(oldest, "evicted")

    # --- ageing, and the size of the window -------------------------------------------------------

    def _age(self) -> None:
        self._sketch.age()
        for entry in self._entries.values():
            entry.count //= 2
        questions = self.hits + self.misses
        hits, before = self._before
        asked = questions - before
        rate = (self.hits - hits) / asked if asked else 0.0
        self._before, self._questions = (self.hits, questions), questions
        change, self._best = rate - self._best, rate
        if abs(change) >= RESTART:
            self._step = STEP if self._step > 0 else -STEP
        if change < 0:
            self._step = -self._step
        if abs(self._step) < STEP_MIN:
            return
        part = self._window_part + self._step
        self._window_part = min(WINDOW_MAX, max(WINDOW_MIN, part))
        self._step *= STEP_FADES
