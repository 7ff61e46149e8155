"""Metrics of what an application calls, caches and answers, and how a family is written.

Labels are the names that the code declares, and outcomes: no host, no key, no tag. A dependency
counts all of its parts together, so a partner with many hosts costs no more lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from outlive.kinds.breakers.standing import STATES

if TYPE_CHECKING:
    from outlive.app import Outlive

_COUNTED = {
    "limits": ("outlive_ratelimit_hits", "limiter", "Hits, by what was said."),
    "slots": ("outlive_slots", "slots", "Slots asked for, by what was said."),
    "sessions": ("outlive_sessions", "", "Requests, by what became of their session."),
    "requests": ("outlive_idempotency_keys", "", "Idempotency keys, by what was said."),
}
"""Name of the family, the label of a name, and its help."""

Row = tuple[tuple[tuple[str, str], ...], float]
"""Labels and a value."""


def lines_of_dependencies(app: Outlive) -> Iterator[str]:
    """What was called, refused and retried, and how it stands as this instance knows it."""
    calls: list[Row] = []
    tries: list[Row] = []
    states: list[Row] = []
    alone: list[Row] = []
    for name, found in sorted(app.dependencies.items()):
        counts = found.counts()
        of = ("dependency", name)
        calls += [((of, ("outcome", what)), counts[what]) for what in ("passed", "refused")]
        tries += [
            ((of, ("outcome", "made")), found.purse.spent),
            ((of, ("outcome", "refused")), found.purse.refused),
        ]
        states += [((of, ("state", state)), counts[state]) for state in STATES]
        alone.append(((of,), counts["alone"]))
    total, gauge = "counter", "gauge"
    name = "outlive_dependency"
    yield from _family(f"{name}_calls", total, "Calls, by what the breaker said.", calls)
    yield from _family(f"{name}_retries", total, "Retries and hedges, by the budget.", tries)
    yield from _family(f"{name}_parts", gauge, "The whole and its parts, by state.", states)
    yield from _family(f"{name}_alone", gauge, "Parts that decide without the store.", alone)


def lines_of_caches(app: Outlive) -> Iterator[str]:
    """What was asked, loaded and let go of, and what is kept."""
    asked: list[Row] = []
    loads: list[Row] = []
    seconds: list[Row] = []
    gone: list[Row] = []
    sizes: list[Row] = []
    entries: list[Row] = []
    for name, found in sorted(app.caches.items()):
        counts, policy = found.counts, found.policy
        of = ("cache", name)
        outcomes = (
            ("hit", policy.hits), ("joined", counts.joined), ("miss", policy.misses),
            ("stale", counts.stale),
        )  # fmt: skip
        asked += [((of, ("outcome", what)), count) for what, count in outcomes]
        done = counts.loads - counts.failed
        outcomes = (
            ("done", done), ("failed", counts.failed), ("found", counts.found),
            ("unkept", counts.unkept),
        )  # fmt: skip
        loads += [((of, ("outcome", what)), count) for what, count in outcomes]
        seconds.append(((of,), counts.load_seconds))
        gone += [((of, ("cause", cause)), count) for cause, count in sorted(policy.gone.items())]
        sizes.append(((of,), policy.bytes))
        entries.append(((of,), len(policy)))
    total, gauge = "counter", "gauge"
    yield from _family("outlive_cache_asked", total, "Questions, by how they were met.", asked)
    yield from _family("outlive_cache_loads", total, "Loads, by outcome.", loads)
    yield from _family("outlive_cache_load_seconds", total, "Seconds spent in loads.", seconds)
    yield from _family("outlive_cache_gone", total, "Values let go of, by cause.", gone)
    yield from _family("outlive_cache_bytes", gauge, "Bytes kept in memory.", sizes)
    yield from _family("outlive_cache_entries", gauge, "Values kept in memory.", entries)


def lines_of_requests(app: Outlive) -> Iterator[str]:
    """What limits, slots, sessions and idempotency keys have decided here; those of one name are
    added up."""
    for kind, (metric, label, told) in _COUNTED.items():
        sums: dict[str, Counter[str]] = {}
        for made in app.declared(kind):
            sums.setdefault(_name_of(kind, made), Counter()).update(made.counts)
        rows: list[Row] = []
        for name, found in sorted(sums.items()):
            named = ((label, name),) if label else ()
            rows += [((*named, ("outcome", what)), found[what]) for what in sorted(found)]
        yield from _family(metric, "counter", told, rows)


def _name_of(kind: str, made: Any) -> str:
    """What the code calls a limiter or slots; sessions and keys have no name."""
    if kind == "limits":
        return ",".join(quota.name for quota in made.quotas)
    return str(made.slots.name) if kind == "slots" else ""


def _family(name: str, kind: str, told: str, rows: list[Row]) -> Iterator[str]:
    if rows:
        yield from head(name, kind, told)
    sample = f"{name}_total" if kind == "counter" else name
    for labels, value in rows:
        listed = ",".join(f'{label}="{escape(said)}"' for label, said in labels)
        shown = str(value) if isinstance(value, int) else f"{value:.6f}"
        yield f"{sample}{{{listed}}} {shown}"


def head(name: str, kind: str, told: str) -> Iterator[str]:
    """The lines that introduce a family."""
    yield f"# TYPE {name} {kind}"
    yield f"# HELP {name} {told}"


def escape(value: str) -> str:
    """A label's value as OpenMetrics wants it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
