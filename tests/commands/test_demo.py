"""The demonstration, to its end: what it tells is what happened."""

import re
import socket
from pathlib import Path


def test_it_kills_takes_over_counts_and_leaves_nothing_behind(outlive, tmp_path):
    done = outlive("demo", "--once", OUTLIVE_DEMO_SECONDS="0.2", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    victim = re.search(r"^kill -9 (\d+)$", told, re.MULTILINE)
    assert victim and re.search(r"Taken over after [\d.]+ s", told)
    after = told.partition("Taken over after")[2]
    assert f"done by {victim.group(1)}" not in after
    assert told.count("deliver ") == 3
    assert "Counted outside: 15 things done of 15" in told
    assert re.search(r"The dashboard: http://127.0.0.1:\d+/outlive", told)
    assert list(Path(tmp_path).iterdir()) == []


def test_a_taken_port_is_one_clear_line(outlive):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = outlive("demo", "--port", port, "--once")
    assert done.returncode == 1
    assert done.stderr.startswith(f"outlive: cannot listen on 127.0.0.1:{port}:")
    assert len(done.stderr.splitlines()) == 1
