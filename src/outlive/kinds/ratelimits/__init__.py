"""Rate limits: how much a caller may use, how fast, and how much at once.

Not to be confused with `kinds.processes.limits`, which says how many processes of a type go at
once: those wait in line, what is over a rate limit is refused.

    quota    so much in so long, for a key: used up by `hit`, it comes back with time
             quiet ──hit──> used ──time──> quiet         over the limit: refused, and nothing used
    slot     one of so many at once: held until it is released, or its lease ends
             free ──acquire──> held ──release | due──> free

    quotas.py      what is declared           algorithms.py   how use is counted
    answers.py     what is answered           deciding.py     the decisions, on cells
    slots.py       slots, the same
    counters.py    what the `limits` library counts, by its own strategies

A key's use is one cell; it is due at most a second after it says nothing any more, and then it is
dropped. Several quotas are decided as one: all are charged or none. Not promised: see
docs/ratelimits.md, which says for each store and scope how much more than allowed can pass, and
when.
"""

from __future__ import annotations

from outlive.kinds.ratelimits.answers import Answer, Standing
from outlive.kinds.ratelimits.deciding import RATELIMITS, Hit, Refund, Reset
from outlive.kinds.ratelimits.quotas import Keys, Quota, Terms, Use
from outlive.kinds.ratelimits.slots import Acquire, Release, Slots

__all__ = [
    "RATELIMITS",
    "Acquire",
    "Answer",
    "Hit",
    "Keys",
    "Quota",
    "Refund",
    "Release",
    "Reset",
    "Slots",
    "Standing",
    "Terms",
    "Use",
]
