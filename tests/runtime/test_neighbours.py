"""A process of this host that has ended is known to have, and one that lives never is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from outlive.runtime.neighbours import has_ended, home
from outlive.stores.writelock import start_time


def test_this_process_has_a_home_and_lives() -> None:
    assert home() == home() != ""
    assert not has_ended(os.getpid(), start_time(os.getpid()))


def test_a_process_is_known_to_have_ended_when_it_was_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_time(child.pid)
    assert not has_ended(child.pid, started)
    assert has_ended(child.pid, started - 1), "another had its pid before"
    os.kill(child.pid, signal.SIGSTOP)
    assert not has_ended(child.pid, started), "a frozen process has not ended"
    child.kill()
    end = time.monotonic() + 10
    while not has_ended(child.pid, started):  # nobody has waited for it yet
        assert time.monotonic() < end
    child.wait()
    assert has_ended(child.pid, started)
    assert child.stdin is not None
    child.stdin.close()


def test_what_is_not_known_has_not_ended() -> None:
    assert not has_ended(0, 1) and not has_ended(os.getpid(), 0)
