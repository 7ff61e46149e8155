"""Ports for the servers of tests: free, and nobody else's until the server has them.

A port that the kernel gives out may go to any connection between the moment it is found free and
the moment a server, which starts first, takes it. So these lie below those that the kernel gives
out, and each process of the tests has a band of its own.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import socket

LOWEST, BAND, BANDS = 20_000, 1500, 8


def _band() -> itertools.cycle[int]:
    worker = re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or "0"
    lowest = LOWEST + int(worker) % BANDS * BAND
    first = random.SystemRandom().randrange(BAND)
    return itertools.cycle([lowest + (first + at) % BAND for at in range(BAND)])


_ports = _band()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody has, and that is not given out again for a while."""
    for port in itertools.islice(_ports, BAND):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
