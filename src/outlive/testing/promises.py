"""P1 to P14, the promises of outlive: which oracle looks for a violation of which.

The oracles over what a store says of processes are in `oracles.py`; here are those over what
clients did with cells, over what is left behind, and the table of all. A promise without an oracle
says why, in one sentence, and nobody counts it as looked for.

A `Deed` is what a client did with one cell, and how it came out for it:

    ok        it was told so
    failed    it was told that nothing was written
    unknown   it was not told, or was told that nobody knows

Cells have versions that are never reused, and the store says them. So the order in which writes
took effect is no guess, and linearizability need not be searched for: it is checked in one pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal

from msgspec import Struct

from outlive.testing import oracles

Outcome = Literal["ok", "failed", "unknown"]


class Deed(Struct, frozen=True):
    """One operation of a client on one cell; times are of one clock of the run, in any unit."""

    key: str
    kind: Literal["read", "write"]
    value: str
    """What was read (empty: nothing there), or was to be written: unique over the run."""
    version: int
    """Of what was read or written; 0 for an absent cell, or where it was not told."""
    required: int
    """Of a write: the version it replaces."""
    began: int
    ended: int
    outcome: Outcome


def p2_pairs_agree(pairs: Iterable[tuple[str, str, str]]) -> list[str]:
    """Cells that are written in pairs by one batch say the same; `pairs`: name and both values."""
    return [f"P2: the cells of {name} say {a!r} and {b!r}" for name, a, b in pairs if a != b]


def p3_cells_are_linearizable(deeds: Iterable[Deed]) -> list[str]:
    """There is one order of the deeds on each cell that everybody saw, and it fits real time."""
    found: list[str] = []
    by_key: dict[str, list[Deed]] = {}
    for deed in deeds:
        by_key.setdefault(deed.key, []).append(deed)
    for key, some in by_key.items():
        found += [f"P3: cell {key}: {flaw}" for flaw in _flaws_of_cell(some)]
    return found


def _flaws_of_cell(deeds: list[Deed]) -> list[str]:
    flaws: list[str] = []
    values: dict[int, str] = {}
    for deed in deeds:
        if deed.outcome != "ok" or not deed.version:
            continue
        if values.setdefault(deed.version, deed.value) != deed.value:
            flaws.append(f"version {deed.version} says {values[deed.version]} and {deed.value}")
    writes = [deed for deed in deeds if deed.kind == "write" and deed.outcome == "ok"]
    for required, count in Counter(deed.required for deed in writes).items():
        if count > 1:
            flaws.append(f"version {required} was replaced {count} times")
    known = {deed.value for deed in deeds if deed.kind == "write"} | {""}
    flaws += [
        f"{deed.value} was read and nobody wrote it"
        for deed in deeds
        if deed.kind == "read" and deed.outcome == "ok" and deed.value not in known
    ]
    flaws += _flaws_of_order(deeds, told := [deed for deed in deeds if deed.outcome == "ok"])
    newest, at = 0, 0
    by_end = sorted(told, key=lambda deed: deed.ended)
    for deed in sorted(told, key=lambda deed: deed.began):
        while at < len(by_end) and by_end[at].ended < deed.began:
            newest, at = max(newest, by_end[at].version), at + 1
        if deed.version < newest or (deed.kind == "write" and deed.required < newest):
            flaws.append(f"version {deed.version} was seen after version {newest}")
    return flaws


def _flaws_of_order(deeds: list[Deed], told: list[Deed]) -> list[str]:
    """What is wrong with who replaced whom: of a write that was told, and of one that was read."""
    flaws: list[str] = []
    made: dict[str, int] = {}
    for deed in told:
        if deed.version and made.setdefault(deed.value, deed.version) != deed.version:
            flaws.append(
                f"{deed.value} was written as version {made[deed.value]} and as {deed.version}"
            )
    versions = sorted(set(made.values()))
    for deed in deeds:
        if deed.kind == "write" and (version := made.get(deed.value)):
            before = bisect_left(versions, version) - 1
            if before >= 0 and versions[before] > deed.required:
                flaws.append(
                    f"version {version} replaced {deed.required}, and {versions[before]} was there"
                )
    return flaws


def p6_claimed_work_ends_once(
    wanted: Collection[str], waiting: Collection[str], finished: Iterable[str]
) -> list[str]:
    """All of the `wanted` work is finished, once each, and none of it still waits."""
    counts = Counter(finished)
    found = [f"P6: {name} was accepted and is not done" for name in wanted if not counts[name]]
    found += [f"P6: {name} was done {count} times" for name, count in counts.items() if count > 1]
    return found + [f"P6: {name} is done and still waits" for name in waiting if counts[name]]


def p9_readers_saw_the_journal(
    facts: oracles.Facts, tails: Mapping[int, Iterable[Any]]
) -> list[str]:
    """What was read of each shard while it was written is how its journal begins."""
    found = []
    for shard, tail in tails.items():
        seen = [(event.seq, event.stream, event.n, event.chain) for event in tail]
        there = [(e.seq, e.stream, e.n, e.chain) for e in facts.tails[shard][: len(seen)]]
        if seen != there:
            found.append(f"P9: a reader of shard {shard} did not see its journal")
        if any(later[0] != earlier[0] + 1 for earlier, later in pairwise(seen)):
            found.append(f"P9: a reader of shard {shard} skipped")
    return found


def p12_nothing_is_left(
    name: str, counted: Mapping[str, int], most: Mapping[str, int]
) -> list[str]:
    """Each thing that is `counted` of the node `name` is at most as many as it may be."""
    return [
        f"P12: {name} has {count} {what}, at most {most[what]}"
        for what, count in counted.items()
        if count > most[what]
    ]


def p13_unknown_is_unknown(deeds: Iterable[Deed]) -> list[str]:
    """Nobody was told that nothing was written of what can be read."""
    deeds = list(deeds)
    seen = {deed.value for deed in deeds if deed.kind == "read" and deed.outcome == "ok"}
    return [
        f"P13: {deed.value} was refused and is written"
        for deed in deeds
        if deed.kind == "write" and deed.outcome == "failed" and deed.value in seen
    ]


PROMISES: Mapping[str, tuple[Callable[..., list[str]], ...] | str] = {
    "P1": (oracles.p1_acknowledged_is_durable,),
    "P2": (oracles.p2_rows_agree, p2_pairs_agree),
    "P3": (p3_cells_are_linearizable,),
    "P4": (oracles.p4_one_effective_holder,),
    "P5": (oracles.p5_one_answer_per_key, oracles.p5_one_effect_per_key),
    "P6": (oracles.p6_work_ends_once, p6_claimed_work_ends_once),
    "P7": (oracles.p7_journal_grammar,),
    "P8": (oracles.p8_nothing_is_stuck,),
    "P9": (oracles.p9_tails_are_dense, p9_readers_saw_the_journal),
    "P10": (oracles.p10_chain_verifies,),
    "P11": "There are no connections to be resumed yet.",
    "P12": (p12_nothing_is_left,),
    "P13": (p13_unknown_is_unknown,),
    "P14": "Two releases do not fit into one process: tests with real processes do this.",
}
"""What looks for a violation of each promise, or why nothing does."""
