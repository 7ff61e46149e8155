"""Whether transactions that append to lists and read them can have happened one at a time.

Each appended element is its own proof: a list that somebody read says in which order its elements
were appended, and what the reader had not seen yet. From that follow, between any two transactions,
the orders that must hold:

    ww   A appended the element before that of B
    wr   B read an element that A appended last
    rw   A did not see yet what B appended
    rt   A had been answered when B began (strictly serializable: real time counts)

A cycle among them is a history that no order explains. Without a cycle there is one: any order that
keeps them. So the check is exact, and takes time in proportion to the history.

    aborted read      an element of a transaction that was told it did not happen
    lost, invented    a list that contradicts a longer one; an element nobody appended
    read ahead        a transaction that saw its own elements before it appended them
    G0                a cycle of ww                 G1c        of ww and wr
    G-single          with one rw                   G2         with several
    -realtime         as well with rt

The streams of a journal are such lists, and `histories` reads several of one moment.

Reference: Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental
observations", 2020; Adya, "Weak consistency", 1999
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

from msgspec import Struct

from outlive.testing.history import Operation, in_order, shown

Edge = Literal["ww", "wr", "rw", "rt"]
TRANSACTION = "transaction"
"""The name of what is judged here: ("transaction", ((stream, element), …), (stream, …)), answered
with ((stream, (element, …)), …): what the streams held before it appended."""


class Anomaly(Struct, frozen=True):
    """What cannot have happened, and the operations that show it."""

    name: str
    text: str
    window: tuple[Operation, ...]

    def __str__(self) -> str:
        return f"P3: {self.name}: {self.text}\n{shown(self.window)}"


class _Told(Struct):
    """What was said about one list."""

    writers: dict[Hashable, int]
    readers: list[tuple[tuple[Hashable, ...], int]]


def anomalies(operations: Iterable[Operation]) -> list[Anomaly]:
    """What no order of the transactions explains; empty when one does."""
    told = [o for o in in_order(operations) if o.name == TRANSACTION]
    streams: dict[str, _Told] = {}
    found: list[Anomaly] = []
    for number, operation in enumerate(told):
        for stream, element in operation.asked[1]:
            of_stream = streams.setdefault(stream, _Told({}, []))
            if element in of_stream.writers:
                raise ValueError(f"{element} was appended to {stream} twice: nothing follows then")
            of_stream.writers[element] = number
        if operation.outcome == "ok":
            for stream, elements in operation.answered or ():
                streams.setdefault(stream, _Told({}, [])).readers.append((elements, number))
    happened = {number for number, operation in enumerate(told) if operation.outcome == "ok"}
    orders: dict[str, tuple[Hashable, ...]] = {}
    for stream, of_stream in sorted(streams.items()):
        longest = max((elements for elements, _ in of_stream.readers), key=len, default=())
        orders[stream] = longest
        found += _contradictions(told, stream, of_stream, longest)
        happened |= {of_stream.writers[e] for e in longest if e in of_stream.writers}
    if found:
        return found
    edges = _edges(told, streams, orders, happened)
    return [_anomaly(told, cycle, edges) for cycle in _cycles(edges)]


def _contradictions(
    told: Sequence[Operation], stream: str, of_stream: _Told, longest: tuple[Hashable, ...]
) -> list[Anomaly]:
    """What one list says against itself."""
    found = []
    reader = next((number for read, number in of_stream.readers if read is longest), 0)
    if len(set(longest)) < len(longest):
        twice = next(element for element in longest if longest.count(element) > 1)
        text = f"{stream} has {twice} twice"
        found.append(Anomaly("duplicate", text, (told[reader],)))
    for element in longest:
        writer = of_stream.writers.get(element)
        if writer is None:
            text = f"{stream} has {element}, which nobody appended"
            found.append(Anomaly("invented", text, (told[reader],)))
        elif told[writer].outcome == "fail":
            text = f"{stream} has {element}, of which was said that it was not appended"
            found.append(Anomaly("aborted read", text, (told[writer], told[reader])))
    for elements, number in of_stream.readers:
        if any(of_stream.writers.get(element) == number for element in elements):
            text = f"{stream} was read with what was about to be appended"
            found.append(Anomaly("read ahead", text, (told[number],)))
        if elements != longest[: len(elements)]:
            text = f"{stream} was {_brief(elements)} and was {_brief(longest)}"
            found.append(Anomaly("lost or reordered", text, (told[number], told[reader])))
            break
    return found


def _brief(elements: tuple[Hashable, ...]) -> str:
    words = [str(element) for element in elements]
    return "[" + " ".join(words if len(words) < 12 else [*words[:3], "…", *words[-6:]]) + "]"


# --- the graph ------------------------------------------------------------------------------------

_Edges = dict[int, dict[int, Edge]]


def _edges(
    told: Sequence[Operation],
    streams: dict[str, _Told],
    orders: dict[str, tuple[Hashable, ...]],
    happened: set[int],
) -> _Edges:
    """What must be before what, each pair once: the strongest reason stands."""
    edges: _Edges = {number: {} for number in sorted(happened)}

    def before(one: int, other: int, why: Edge) -> None:
        if one != other:
            edges[one].setdefault(other, why)

    for stream, of_stream in streams.items():
        order, writers = orders[stream], of_stream.writers
        unread = [n for e, n in writers.items() if n in happened and e not in set(order)]
        for one, other in pairwise(order):
            before(writers[one], writers[other], "ww")
        for number in unread:
            if order:
                before(writers[order[-1]], number, "ww")
        for elements, reader in of_stream.readers:
            if elements:
                before(writers[elements[-1]], reader, "wr")
            if len(elements) < len(order):
                before(reader, writers[order[len(elements)]], "rw")
            else:
                for number in unread:
                    before(reader, number, "rw")
    for one, other in _real_time(told, happened):
        before(one, other, "rt")
    return edges


def _real_time(told: Sequence[Operation], happened: set[int]) -> Iterable[tuple[int, int]]:
    """Who was answered before who began, without what follows from the others."""
    moments: list[tuple[int, int, int]] = []
    for number in happened:
        operation = told[number]
        moments.append((operation.began, 0, number))
        if operation.ended is not None:
            moments.append((operation.ended, 1, number))
    last: set[int] = set()
    preceding: dict[int, set[int]] = {}
    for _, is_end, number in sorted(moments):
        if is_end:
            last = (last - preceding[number]) | {number}
        else:
            preceding[number] = set(last)
            for one in sorted(last):
                yield one, number


def _cycles(edges: _Edges) -> Iterable[list[int]]:
    """A shortest cycle of each knot of the graph, by fewest rw edges first, then by length."""
    for knot in _knots(edges):
        kinds: tuple[tuple[Edge, ...], ...] = (
            ("ww",),
            ("ww", "wr"),
            ("ww", "wr", "rt"),
            ("ww", "wr", "rw"),
            ("ww", "wr", "rw", "rt"),
        )
        for allowed in kinds:
            cycle = _shortest(edges, knot, frozenset(allowed))
            if cycle:
                yield cycle
                break


def _shortest(edges: _Edges, knot: set[int], allowed: frozenset[str]) -> list[int]:
    best: list[int] = []
    for start in sorted(knot):
        came: dict[int, int] = {}
        queue = deque([start])
        while queue and start not in came:
            one = queue.popleft()
            for other, why in edges[one].items():
                if why in allowed and other in knot and other not in came:
                    came[other] = one
                    queue.append(other)
        if start in came:
            cycle = [start]
            while came[cycle[-1]] != start:
                cycle.append(came[cycle[-1]])
            if not best or len(cycle) < len(best):
                best = cycle[::-1]
            if len(best) == 2:
                break
    return best


def _knots(edges: _Edges) -> Iterable[set[int]]:
    """The strongly connected parts of more than one node (Tarjan, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in edges:
        if root in index:
            continue
        work = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            for other in following:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(edges[other])))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    part = set[int]()
                    while node not in part:
                        part.add(stack.pop())
                    on_stack -= part
                    if len(part) > 1:
                        yield part


def _anomaly(told: Sequence[Operation], cycle: list[int], edges: _Edges) -> Anomaly:
    """The cycle in words."""
    pairs = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    kinds: list[Any] = [edges[one][other] for one, other in pairs]
    back = kinds.count("rw")
    name = "G2" if back > 1 else "G-single" if back else "G1c" if "wr" in kinds else "G0"
    if "rt" in kinds:
        name += "-realtime"
    labels = {number: f"T{place}" for place, number in enumerate(sorted(cycle), 1)}
    text = " ".join(f"{labels[one]} -{edges[one][other]}->" for one, other in pairs)
    window = tuple(told[number] for number in sorted(cycle))
    return Anomaly(name, f"{text} {labels[cycle[0]]}", window)
