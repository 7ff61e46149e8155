"""Caches: fast copies that say how wrong they may be.

    rule.py      what is declared: the class, the bounds, how long values live
    sketch.py    how often a key was asked for, also when it is not kept
    tinylfu.py   which values stay in memory: bounded in entries and bytes
    shared.py    what the instances share: stamps, leases and values in cells
    entries.py   a plain cache for a framework that names its keys itself

    class                   a value may be served while                             stale by at most
    exact                   its stamps, read at this very call, are those it was    nothing
                            loaded under
    bounded(t)              its stamps were read, or its load began, less than t    t seconds
                            seconds ago, and were those it was loaded under
    best_effort             it lives; its stamps are looked at behind the answers   its life
    never_authoritative     it lives; it knows of no stamps and no other instance   its life

A *stamp* is a cell: its version is the generation of a key, a tag or the whole cache. Whoever makes
a value old puts that cell in the very commit that does so; nothing is scanned, and nothing is
announced. A value that was loaded before is then known by the versions it carries, wherever it is:
in the memory of an instance that slept, in a shared store, or in the hands of a slow loader.
"""
