"""Whether what clients were told of a cell can have happened one thing at a time.

A history is linearizable when each operation can be given one moment between its beginning and its
end, so that the answers are those of a single client doing them in that order. The search goes
through the history once, and keeps every state the cell may be in:

    begin of X    X is pending
    end of X      X must have had its moment: each kept state is tried as it is, and after every
                  order of pending operations that ends with X (just in time, never earlier)
    no state left the history is not linearizable, and X is where it shows

Keys are judged apart, because a history is linearizable when each of its keys is. What is kept is
(state, which pending ones had their moment), each once. An operation of unknown outcome stays
pending for ever; of two equal states the one that used fewer of them is kept, because whatever the
other can do, it can do too. So unknown outcomes do not multiply.

    Cells       read, put and drop (at a version or whatever there is), claim
    Registers   read, write, compare and set

Not seen by `Cells`: a claim that gives nothing although a cell is due, and cells of one batch as
one moment (`appends.py` sees that of streams).

References: Wing and Gong, "Testing and verifying concurrent objects", 1993; Lowe, "Testing for
linearizability", 2017 (just in time, and the memo); Horn and Kroening, "Faster linearizability
checking via P-compositionality", 2015 (a key at a time)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from outlive.testing.history import Operation, by_key, in_order, shown

STATES_MAX = 200_000
"""States kept at one moment: more than this cannot be decided here."""


class TooWide(Exception):
    """The history has too many operations at one time to be decided."""


class Model(Protocol):
    """What a single client would see: a state, and what each operation makes of it."""

    def start(self) -> Hashable:
        """The state in which nothing has happened."""
        ...

    def anything(self) -> Hashable:
        """A state of which nothing is known: it agrees with whatever is seen first."""
        ...

    def after(self, state: Any, operation: Operation) -> Hashable | None:
        """The state after `operation`, answered as it was; None when it cannot be."""
        ...

    def telling(self, operations: Sequence[Operation]) -> list[Operation]:
        """Those that say something of the state, or can have made it what somebody saw."""
        ...

    def changes(self, operation: Operation) -> bool:
        """Whether it can have changed the state."""
        ...

    def is_over(self, state: Any, operation: Operation) -> bool:
        """Whether it can happen neither in this state nor in any that follows."""
        ...


class Violation(Struct, frozen=True):
    """A history of one key that cannot have happened one thing at a time."""

    key: str
    window: tuple[Operation, ...]
    """The smallest part of the history that was found not to be linearizable from any state (from
    nothing, when `whole`)."""
    culprit: Operation
    """Whose end leaves no state."""
    whole: bool

    def __str__(self) -> str:
        start = "from nothing" if self.whole else "from any state"
        many = f"{len(self.window)} operations"
        return (
            f"P3: {self.key}: {many} cannot have happened one at a time {start}:\n"
            f"{shown(self.window, self.culprit)}"
        )


class Cell(Struct, frozen=True):
    """What may be true of a cell: `value` None when it is absent.

    Of what an unknown outcome wrote, the version is not known until somebody sees it (`UNSEEN`);
    the same of its deadline after a claim.
    """

    value: Hashable | None
    version: int
    due: int | None
    top: int
    """The highest version that was seen so far: the next one is above it."""


UNSEEN = -1
ANY_DUE = -2
"""A deadline of which not even is known whether there is one."""
ANYTHING = "\0anything"


class Cells:
    """Cells of a store, as `recording.py` writes them.

    asked                           answered when ok               when it fails
    ("read",)                       ("absent",) or ("cell", value, version, due)
    ("put", value, due, version)    (version,)                     (found version,) or nothing
    ("drop", version)               ()                             (found version,) or nothing
    ("claim", hold_micros)          ("cell", value, version, due)

    `version` None: whatever there is. 0: there is none.
    """

    def start(self) -> Cell:
        return Cell(None, 0, None, 0)

    def anything(self) -> Cell:
        return Cell(ANYTHING, UNSEEN, ANY_DUE, 0)

    def telling(self, operations: Sequence[Operation]) -> list[Operation]:
        """A put of unknown outcome whose value nobody saw tells nothing, unless somebody met a
        version of which nobody knows who made it; such puts are told apart by nothing then."""
        told = _that_say_something(operations)
        seen = [o.answered for o in told if o.answered and o.answered[0] == "cell"]
        values = {answer[1] for answer in seen}
        known = {answer[2] for answer in seen} | {None, 0}
        met = set[Any]()
        for operation in told:
            if operation.name not in ("put", "drop"):
                continue
            answer = operation.answered or ()
            if operation.outcome == "fail":
                met.update(answer)
            else:
                met.add(_wanted(operation))
                known.update(answer)
        found = []
        for operation in told:
            _, *rest = operation.asked
            if operation.answered or operation.name != "put" or rest[0] in values:
                found.append(operation)
            elif met - known:
                found.append(replace(operation, asked=("put", "\0unseen", *rest[1:])))
        return found

    def is_over(self, state: Cell, operation: Operation) -> bool:
        wanted = _wanted(operation)
        past = wanted is not None and 0 < wanted <= state.top
        return past and state.version != wanted

    def changes(self, operation: Operation) -> bool:
        return operation.outcome != "fail" and operation.name != "read"

    def after(self, state: Cell, operation: Operation) -> Cell | None:
        asked, answered = operation.asked, operation.answered
        if operation.outcome == "fail":
            return self._refused(state, operation)
        match operation.name:
            case "read":
                return _sees(state, answered)
            case "put":
                held = _at(state, asked[3])
                if held is None:
                    return None
                if answered is None:
                    return Cell(asked[1], UNSEEN, asked[2], held.top)
                version = answered[0]
                return Cell(asked[1], version, asked[2], version) if version > held.top else None
            case "drop":
                held = _at(state, asked[1])
                return None if held is None else Cell(None, 0, None, held.top)
            case "claim":
                return _claimed(state, asked[1], answered)
        raise ValueError(f"a cell does not know {operation.name}")

    def _refused(self, state: Cell, operation: Operation) -> Cell | None:
        """A conflict names the version that was found, which is not the one that was wanted."""
        assert operation.answered is not None
        found = operation.answered[0]
        return None if found == _wanted(operation) else _at(state, found)


def _wanted(operation: Operation) -> int | None:
    """The version that an operation asks for."""
    place = {"put": 3, "drop": 1}.get(operation.name)
    return None if place is None else operation.asked[place]


def _at(state: Cell, version: int | None) -> Cell | None:
    """`state`, with what is learnt from its being at `version`; None when it cannot be."""
    if version is None or version == state.version:
        return state
    if version == 0:
        free = state.value == ANYTHING and state.version == UNSEEN
        return Cell(None, 0, None, state.top) if free else None
    if state.version == UNSEEN and version > state.top:
        return Cell(state.value, version, state.due, version)
    return None


def _sees(state: Cell, answered: tuple[Any, ...] | None) -> Cell | None:
    """`state`, with what is learnt from reading it; None when this cannot be read from it."""
    assert answered is not None
    if answered[0] == "absent":
        return _at(state, 0)
    _, value, version, due = answered
    held = None if state.value is None else _at(state, version)
    if held is None or held.value not in (value, ANYTHING):
        return None
    fits = held.due in (due, ANY_DUE) or (held.due == UNSEEN and due is not None)
    return Cell(value, version, due, held.top) if fits else None


def _claimed(state: Cell, hold: int, answered: tuple[Any, ...] | None) -> Cell | None:
    """A claim moves version and deadline of a cell whose deadline has passed; never its value."""
    if state.value is None or state.due is None:
        return None
    if answered is None:
        return Cell(state.value, UNSEEN, UNSEEN, state.top)
    _, value, version, due = answered
    passed = state.due <= due - hold  # what is not known yet is below zero
    if not passed or state.value not in (value, ANYTHING) or version <= state.top:
        return None
    return Cell(value, version, due, version)


class Registers:
    """Registers: ("read",) answered (value,), ("write", value), ("compare", old, new), which fails
    with the value that was found when it is another one."""

    def start(self) -> Hashable:
        return 0

    def anything(self) -> Hashable:
        return ANYTHING

    def telling(self, operations: Sequence[Operation]) -> list[Operation]:
        """What a write of unknown outcome wrote and nobody met tells nothing."""
        told = _that_say_something(operations)
        met = {value for o in told if o.answered for value in o.answered}
        met |= {o.asked[1] for o in told if o.name == "compare"}
        return [o for o in told if o.outcome != "unknown" or o.asked[-1] in met]

    def is_over(self, state: Hashable, operation: Operation) -> bool:
        return False

    def changes(self, operation: Operation) -> bool:
        return operation.outcome != "fail" and operation.name != "read"

    def after(self, state: Hashable, operation: Operation) -> Hashable | None:
        asked = operation.asked
        match operation.name:
            case "read":
                assert operation.answered is not None
                value: Hashable = operation.answered[0]
                return value if state in (value, ANYTHING) else None
            case "write":
                written: Hashable = asked[1]
                return written
            case "compare" if operation.outcome == "fail":
                found: Hashable = (operation.answered or (state,))[0]
                return found if found != asked[1] and state in (found, ANYTHING) else None
            case "compare":
                new: Hashable = asked[2]
                return new if state in (asked[1], ANYTHING) else None
        raise ValueError(f"a register does not know {operation.name}")


def _that_say_something(operations: Iterable[Operation]) -> list[Operation]:
    """Without refusals that say nothing, and looks that were not answered."""
    return [
        operation
        for operation in operations
        if (operation.answered is not None or operation.outcome == "unknown")
        and not (operation.answered is None and operation.name == "read")
    ]


# --- the search -----------------------------------------------------------------------------------


def violations(operations: Iterable[Operation], model: Model) -> list[Violation]:
    """What cannot have happened one thing at a time, key by key; empty when all of it can.

    Raises `TooWide` when too many operations overlap.
    """
    found = []
    for key, of_key in sorted(by_key(operations).items()):
        if culprit_of(of_key, model) is not None:
            found.append(smallest(key, of_key, model))
    return found


def culprit_of(
    operations: Iterable[Operation], model: Model, state: Hashable | None = None
) -> Operation | None:
    """The operation of one key whose end leaves no state; None when all can have happened.

    `state`: where it starts, nothing if none is given.
    """
    start = model.start() if state is None else state
    told = in_order(model.telling(list(operations)))
    ends: list[tuple[int, int, int]] = []
    for number, operation in enumerate(told):
        ends.append((operation.began, 0, number))
        if operation.ended is not None:
            ends.append((operation.ended, 1, number))
    search = _Search(model, start)
    for _, is_end, number in sorted(ends):
        operation = told[number]
        if not is_end:
            search.begin(number, operation)
        elif not search.end(number):
            return operation
    return None


_Moved = frozenset[int]
_Used = frozenset[tuple[int, int]]
_Kept = dict[tuple[Hashable, _Moved], list[_Used]]


class _Search:
    """Every state that is possible now, with the pending operations that led to it.

    `_kept`: (state, those that must end and had their moment) -> the smallest sets of unknown ones
    that were used for it. Unknown ones that asked the same are of one sort, and are used in turn:
    (sort, 0), (sort, 1) …
    """

    def __init__(self, model: Model, start: Hashable) -> None:
        self._model = model
        self._pending: dict[int, Operation] = {}
        self._unknown: dict[int, Operation] = {}
        self._sorts: dict[Hashable, int] = {}
        self._counts: dict[int, int] = {}
        self._kept: _Kept = {(start, frozenset()): [frozenset()]}

    def begin(self, number: int, operation: Operation) -> None:
        if operation.ended is not None:
            self._pending[number] = operation
            return
        same = (operation.asked, operation.outcome, operation.answered)
        sort = self._sorts.setdefault(same, len(self._sorts))
        self._unknown[sort] = operation
        self._counts[sort] = self._counts.get(sort, 0) + 1

    def end(self, number: int) -> bool:
        """Whether a state is left in which the operation had its moment."""
        kept: _Kept = {}
        reached: _Kept = {}
        work: list[tuple[Hashable, _Moved, _Used]] = []

        def reach(state: Hashable, moved: _Moved, used: _Used) -> None:
            if _keep(reached, state, moved, used):
                work.append((state, moved, used))

        for (state, moved), uses in self._kept.items():
            for used in uses:
                if number in moved:
                    _keep(kept, state, moved - {number}, used)
                else:
                    reach(state, moved, used)
        after = self._model.after
        while work:
            state, moved, used = work.pop()
            for other, operation in self._pending.items():
                if other not in moved and (then := after(state, operation)) is not None:
                    if other == number:
                        _keep(kept, then, moved, used)
                    else:
                        reach(then, moved | {other}, used)
            for sort, operation in self._unknown.items():
                turn = _turn(sort, used)
                if turn < self._counts[sort] and (then := after(state, operation)) is not None:
                    reach(then, moved, used | {(sort, turn)})
            if len(reached) > STATES_MAX:
                raise TooWide(f"more than {STATES_MAX} states at {self._pending[number]}")
        del self._pending[number]
        self._kept = kept
        self._settle_unknown()
        return bool(kept)

    def _settle_unknown(self) -> None:
        """Look no more at unknown ones that were used on every way, or cannot be used any more."""
        if not self._unknown:
            return
        ways = [used for uses in self._kept.values() for used in uses]
        states = {state for state, _ in self._kept}
        gone: dict[int, int] = {}
        for sort, operation in self._unknown.items():
            if all(self._model.is_over(state, operation) for state in states):
                gone[sort] = self._counts[sort]
            elif always := min((_turn(sort, used) for used in ways), default=0):
                gone[sort] = always
        if not gone:
            return
        for sort, count in gone.items():
            self._counts[sort] -= count
            if not self._counts[sort]:
                del self._unknown[sort], self._counts[sort]
        kept: _Kept = {}
        for (state, moved), uses in self._kept.items():
            for used in uses:
                left = ((sort, turn - gone.get(sort, 0)) for sort, turn in used)
                _keep(kept, state, moved, frozenset(each for each in left if each[1] >= 0))
        self._kept = kept


def _turn(sort: int, used: _Used) -> int:
    """How many of a sort were used."""
    turn = 0
    while (sort, turn) in used:
        turn += 1
    return turn


def _keep(kept: _Kept, state: Hashable, moved: _Moved, used: _Used) -> bool:
    """Keep this way to `state` unless a kept one used no more; those that used more are let go."""
    uses = kept.setdefault((state, moved), [])
    if any(other <= used for other in uses):
        return False
    uses[:] = [other for other in uses if not used <= other]
    uses.append(used)
    return True


# --- the smallest window --------------------------------------------------------------------------


def smallest(key: str, operations: Sequence[Operation], model: Model) -> Violation:
    """The violation in the operations of one key, cut down to what a person can read.

    Ends where it first shows, begins as late as it still shows from any state, and leaves out what
    only looked and is not needed.
    """
    culprit = culprit_of(operations, model)
    assert culprit is not None and culprit.ended is not None
    end = culprit.ended
    told = [
        operation if operation.ended is not None and operation.ended <= end else _open(operation)
        for operation in in_order(model.telling(operations))
        if operation.began <= end
    ]
    begins = sorted({operation.began for operation in told})
    low, high = -1, len(begins) - 1  # the later it begins, the less it can show
    while low < high:
        middle = (low + high + 1) // 2
        if culprit_of(_since(told, begins[middle], model), model, model.anything()) is not None:
            low = middle
        else:
            high = middle - 1
    whole = low < 0
    start = model.start() if whole else model.anything()
    rest = told if whole else _since(told, begins[low], model)
    for operation in list(rest):
        if not model.changes(operation):
            without = [other for other in rest if other is not operation]
            if culprit_of(without, model, start) is not None:
                rest = without
    shows = culprit_of(rest, model, start)
    assert shows is not None
    return Violation(key, tuple(rest), shows, whole)


def _open(operation: Operation) -> Operation:
    """`operation` without its end: it may have had its moment, and if so it was answered thus."""
    return replace(operation, ended=None)


def _since(told: Iterable[Operation], begin: int, model: Model) -> list[Operation]:
    """What is left of `told` from `begin` on; what was under way then may have had its moment."""
    rest = []
    for operation in told:
        if operation.began >= begin:
            rest.append(operation)
        elif (operation.ended is None or operation.ended >= begin) and model.changes(operation):
            rest.append(_open(operation))
    return rest
