"""Breakers: stop calling what is down, and retry within a budget.

    rule.py      what is declared about a dependency: rates, windows, probes, the retry budget
    windows.py   what one instance has seen of it lately: counts, in memory
    standing.py  what all instances know of it: the cell, its commands, and what they decide
    budget.py    how much retrying is still allowed here

                  rate reached, or an operator              due passed, and a probe asked
       closed ────────────────────────────────▶ open ─────────────────────────▶ half-open
         ▲  ▲                                     ▲                               │   │
         │  └──────────── reset ──────────────────┴───────── a probe failed ──────┘   │
         └──────────────────────────────── enough probes went well ───────────────────┘

All of it is pure: time comes as a parameter, `runtime/breakers.py` carries it out.
"""
