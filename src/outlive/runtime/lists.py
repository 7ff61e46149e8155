"""Lists of processes, newest first, page by page: one look-up, and a bound on what is looked at.

A process is found by two marks, its status and its type, and by one for each of its tags; each ends
with the time of its start. A search is looked up by one of them, and what else is asked for is
compared with the cells. The whole list is merged from those of all types (which do not change while
they are read), so that no third mark must be written for every process.

    one mark          it
    several           the one whose first rows reach back farthest: it names the fewest
    none              the types of all processes, merged

A page ends when it is full, when there is nothing more, or when `ROWS_MAX` rows were looked at for
one mark; its cursor is the place where looking ended, so that the next page goes on from there.
"""

from __future__ import annotations

from msgspec import Struct

from outlive.kinds.processes import Summary, summary_of
from outlive.kinds.processes.cells import space_of
from outlive.kinds.processes.search import Page, Search
from outlive.model import Cell
from outlive.store import Store

PAGE_MAX = 200
MORE_ROWS = 3
"""Rows of the first look-up above those asked for: the one at the cursor, the one that says whether
there are more, and the last, which others may share their time with."""
ROWS = 500
"""Rows of one look-up behind the first."""
ROWS_MAX = 5_000
"""Rows looked at by one page, for each mark; but all that began in one microsecond."""


class _Look(Struct):
    """How far a mark was read: all that began at `down_to` or later was looked at."""

    mark: str
    prefix: str
    found: list[Summary]
    down_to: int
    rows: int
    last: int = 0
    """How many rows the last look-up gave, of those it asked for."""
    asked: int = 0

    @property
    def at_end(self) -> bool:
        return self.last < self.asked


async def newest(
    store: Store, search: Search, limit: int, cursor: str = "", rows_max: int = ROWS_MAX
) -> Page:
    """A page of at most `limit` (1 to `PAGE_MAX`) processes of which `search` holds."""
    limit = max(1, min(limit, PAGE_MAX))
    before, _, last = cursor.partition("_")
    low, high = search.bounds()
    place = (int(before), last) if before.isdigit() else (high, "~")
    spaces = [space_of(shard) for shard in range(store.shards)]
    reading = _Reading(store, spaces, search, low, min(high, place[0]), place)
    marks = search.marks() or [("process.type", f"{type} ") for type in await _types(store, spaces)]
    looks = [await reading.begin(mark, prefix, limit + MORE_ROWS) for mark, prefix in marks]
    if search.marks():
        looks = [min(looks, key=lambda look: (not look.at_end, look.down_to, look.rows))]
    for look in looks:
        while not look.at_end and len(look.found) <= limit and look.rows < rows_max:
            await reading.go_on(look)
    down_to = max((look.down_to for look in looks if not look.at_end), default=0)
    lines = [line for look in looks for line in look.found if line.started >= down_to]
    lines.sort(key=lambda line: (line.started, line.id), reverse=True)
    if len(lines) > limit or (len(lines) == limit and down_to):
        end = lines[limit - 1]
        return Page(lines[:limit], f"{end.started:016d}_{end.id}")
    return Page(lines, f"{down_to:016d}" if down_to else "", bounded=bool(down_to))


class _Reading(Struct):
    """The rows of marks in a range of starts, behind a cursor, as far as a search holds of them."""

    store: Store
    spaces: list[str]
    search: Search
    low: int
    high: int
    place: tuple[int, str]

    async def begin(self, mark: str, prefix: str, rows: int) -> _Look:
        look = _Look(mark, prefix, [], self.high + 1, 0)
        await self._read(look, self.high, rows)
        return look

    async def go_on(self, look: _Look) -> None:
        await self._read(look, look.down_to - 1, ROWS)

    async def _read(self, look: _Look, high: int, rows: int) -> None:
        """Read on, from starts at `high` downwards. What began in the same microsecond is read
        whole, however much it is."""
        while True:
            lines = await self.store.select(
                self.spaces, look.mark, f"{look.prefix}{self.low:016d}",
                f"{look.prefix}{high:016d}", rows, newest=True,
            )  # fmt: skip
            look.last, look.asked = len(lines), rows
            times = [int(value[-16:]) for value, _ in lines]
            if look.at_end or times[0] != times[-1]:
                break
            rows *= 4
        look.rows += len(lines)
        if not look.at_end:  # more may have begun when the last of these did
            look.down_to = times[-1] + 1
        for time, (_, cell) in zip(times, lines, strict=True):
            if look.at_end or time >= look.down_to:
                line = self._line(cell)
                if line is not None:
                    look.found.append(line)

    def _line(self, cell: Cell) -> Summary | None:
        """A line of the list, unless the search does not hold of it, or an earlier page has it."""
        line = summary_of(cell)
        if (line.started, line.id) >= self.place:
            return None
        return line if self.search.holds(line) else None


async def _types(store: Store, spaces: list[str]) -> list[str]:
    """The types of all processes in the store, also those that nobody declares any more: found by
    leaping from one to the next."""
    found: list[str] = []
    while lines := await store.select(
        spaces, "process.type", f"{found[-1]}!" if found else "", "~", 1
    ):
        found.append(lines[0][0].rpartition(" ")[0])
    return found
