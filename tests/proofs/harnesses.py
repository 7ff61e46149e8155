"""What proves what: each harness by name, the command that runs it, and what it does not cover.

A harness is one line of `HARNESSES`. Its command runs at the root of the project, and says what it
found in one of two ways:

    junit   pytest writes `{out}`; counts are its tests, and `figures` the lines that tests recorded
            under that name (`record_property`)
    json    it writes one JSON object to `{out}`, or as the last line of its output; every member is
            shown as it is named (`faults` is an object: how often each was injected)

Exit 0 means that nothing was found.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

PYTEST = "python -m pytest -p no:cacheprovider -o junit_family=xunit1 --junitxml={out} "


class Harness(Struct, frozen=True):
    """One way of attacking the promises."""

    name: str
    layer: str
    says: str
    """What it does, in a sentence."""
    command: str
    told: Literal["junit", "json"]
    not_covered: str
    seconds_max: int = 1200
    beside: bool = False
    """It measures no time and takes one core: another may run beside it."""
    outside: bool = False
    """It takes longer than all the others: it is run when it is asked for by name."""


HARNESSES = (
    Harness(
        "conformance",
        "L1",
        "One suite over every store, in lockstep with the memory store as the model.",
        PYTEST + "tests/conformance",
        "junit",
        "Servers of other versions than those that the tests start.",
        beside=True,
    ),
    Harness(
        "checkers",
        "L8",
        "Checkers of linearizability and of lists against a search of every order; then real"
        " clients of every store, recorded and judged.",
        PYTEST + "tests/testing/test_linearize.py tests/testing/test_appends.py"
        " tests/testing/test_recording.py",
        "junit",
        "A claim that gives nothing although a cell is due; cells of one batch as one moment;"
        " histories of more than one machine.",
        beside=True,
    ),
    Harness(
        "deaths",
        "L3",
        "A process dies before and after each of its commits, and at each commit of its recovery.",
        PYTEST + "tests/simulation/test_crash_table.py",
        "junit",
        "A death inside the database's own code: that is the power loss harness's.",
        beside=True,
    ),
    Harness(
        "simulation",
        "L2",
        "Whole clusters on virtual time: nodes killed between any two turns, frozen, cut off, with"
        " clocks that jump and answers that are lost; every oracle is asked.",
        "python -m outlive.testing.simulate --minutes 10 --report json",
        "json",
        "PostgreSQL: a real server keeps its own time and its own threads, and no seed deals them."
        " Synchronous bodies: a thread goes on where it was and cannot be dropped. Breakers and"
        " caches; retention and archives, because the oracles read what they would remove; resumed"
        " connections; two releases side by side.",
        beside=True,
    ),
    Harness(
        "power loss",
        "L3",
        "The power goes at every write of a run, and of a recovery; each call of the disk fails.",
        "python -m tests.proofs.disks",
        "json",
        "Disks that lie about a flush; metadata of the file system beyond names and sizes.",
        beside=True,
    ),
    Harness(
        "samples",
        "L3",
        "Both samples are killed before and after every commit, and again while they recover.",
        "python -m tests.proofs.disks kills",
        "json",
        "The second death on PostgreSQL.",
        beside=True,
    ),
    Harness(
        "kills",
        "L4",
        "SIGKILL, SIGSTOP, a kernel short of memory, full disks, wrong clocks and drains of real"
        " processes under load.",
        PYTEST + "tests/crash",
        "junit",
        "More than one machine; a kernel that dies.",
    ),
    Harness(
        "nodes",
        "L5",
        "Nodes on one PostgreSQL: killed, frozen, rolled, and cut off in network namespaces.",
        PYTEST + "tests/cluster",
        "junit",
        "Fail-over of the server itself: `make cluster`, whose figures stand in failover.md.",
    ),
    Harness(
        "planted",
        "L12",
        "Known bugs are planted in a copy, one at a time, and a test must fail.",
        "python -m tests.planted.run --jobs 2 --json {out}",
        "json",
        "Bugs of two places at once; bugs that need a machine of their own to show.",
        seconds_max=2400,
    ),
    Harness(
        "soak",
        "L10",
        "Load and a kill a minute: nothing is lost, and memory, files and work do not grow.",
        "python -m tests.soak --minutes 20 --json {out}",
        "json",
        "Hours: `make soak`, which takes two.",
        seconds_max=2400,
        outside=True,
    ),
    Harness(
        "long search",
        "L2",
        "The simulation again, for an hour and a half.",
        "python -m outlive.testing.simulate --seeds 20000-90000 --minutes 90 --report json",
        "json",
        "What the simulation does not cover, for longer.",
        seconds_max=6000,
        beside=True,
        outside=True,
    ),
    Harness(
        "second search",
        "L2",
        "Other seeds of it, for as long, on the other core.",
        "python -m outlive.testing.simulate --seeds 100000-190000 --minutes 90 --report json",
        "json",
        "What the simulation does not cover, for longer.",
        seconds_max=6000,
        beside=True,
        outside=True,
    ),
)
