"""What the command line of a search asks for, read strictly: a search of nothing finds nothing.

    --seeds 17          one seed            --faults 1,3,8      these, as a story numbers them
    --seeds 1-500       both included       --faults -          none of those that are drawn

A range that runs backwards is empty, and a list with a dash in it is a slip of the finger: each is
refused, so that nobody takes the silence of a search that never was for a proof.
"""

from __future__ import annotations

import argparse
import math


class Misread(argparse.ArgumentTypeError, ValueError):
    """What was asked for says nothing that could be run; nothing was."""


def seeds_of(said: str) -> range:
    """The seeds of `from-to`, both included, or of one number. Raises `ValueError`: not written
    so, or it ends before it begins."""
    first, dash, last = said.partition("-")
    seeds = range(_whole(first), _whole(last if dash else first) + 1)
    if not seeds:
        raise Misread(f"{said!r} ends before it begins")
    return seeds


def faults_of(said: str) -> tuple[int, ...]:
    """The numbers of faults with commas between them; `-` is none. Raises `ValueError`."""
    return () if said == "-" else tuple(_whole(number) for number in said.split(","))


def seconds_of(said: str) -> float:
    """A time that ends; 0 and more. Raises `ValueError`."""
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise Misread(f"{said!r} is no length of time")
    return seconds


def minutes_of(said: str) -> float:
    """A time in which something can be run: more than 0. Raises `ValueError`."""
    minutes = seconds_of(said)
    if not minutes:
        raise Misread("in no time nothing is run")
    return minutes


def _whole(said: str) -> int:
    if not (said.isascii() and said.isdecimal()):
        raise Misread(f"{said!r} is no whole number")
    return int(said)
