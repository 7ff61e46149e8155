"""The keys of a terminal, one at a time, without waiting for a line.

Only where there is a terminal and this program stands in its foreground: into a pipe, under a
supervisor or in the background there are no keys, and nothing is changed. Ctrl-C stays what it is.
The terminal is put back as it was, however the block is left.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

READ_BYTES = 64


def are_there(descriptor: int | None = None) -> bool:
    """Whether somebody can type here."""
    try:
        descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except (OSError, ValueError):
        return False


@contextmanager
def pressed(call: Callable[[str], None]) -> Iterator[bool]:
    """While it is open, `call` is given each key in the running event loop; gives whether there
    are keys."""
    if not are_there():
        yield False
        return
    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        try:
            typed = os.read(descriptor, READ_BYTES)
        except OSError:
            typed = b""
        if not typed:  # the terminal is gone
            loop.remove_reader(descriptor)
        for key in typed.decode("utf-8", "replace"):
            call(key)

    tty.setcbreak(descriptor, termios.TCSANOW)
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
