"""The bars of the request kinds, each with three processes, a hundred at once, and one killed.

What the other tests of these kinds hold already on some stores, held here on the others:

    sessions     Redis and memcached (tests/crash/test_keyed.py: SQLite, PostgreSQL)
    limits       all four, over a kill (tests/doors/test_ratelimits.py: every interval, no kill)
    breakers     the prober is killed (tests/runtime/test_breakers.py: one process, its clock moved)
    caches       the loader is killed (tests/doors/test_caches.py: three processes, no kill)

And all four where the clocks of the three are an hour apart, in both directions: not on memcached,
which promises no clock of its own (docs/cellstores.md).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.crash.test_clocks import under
from tests.doors.programs import line_of, program

from outlive import ids

pytestmark = pytest.mark.crash

PROGRAM = str(Path(__file__).with_name("fleet.py"))
SECONDS = 60.0


class Fleet:
    """Three processes on one store."""

    def __init__(
        self, address: str, cells: str, folder: Path, clocks: tuple[str, ...] = ("", "", "")
    ) -> None:
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self._clocks = [under(clock, folder / "sleep") for clock in clocks]
        self._stack = ExitStack()
        self._threads = self._stack.enter_context(ThreadPoolExecutor(9))
        self._address, self._words = address, (PROGRAM, address, cells, str(self.ledger))
        self.processes = [self._begin(number) for number in range(3)]
        self._turns = [threading.Lock() for _ in range(3)]
        for process in self.processes:
            assert line_of(process) == '"ready"'

    def _begin(self, number: int) -> Any:
        env = self._clocks[number]
        return self._stack.enter_context(program(self._address, *self._words, env=env))

    def revive(self) -> None:
        """Start again what an earlier test has killed."""
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                self.processes[number] = self._begin(number)
                assert line_of(self.processes[number]) == '"ready"'

    def ask(self, number: int, *words: Any) -> Any:
        """What a process answers; None when it dies before it does."""
        process = self.processes[number]
        with self._turns[number]:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(" ".join(map(str, words)) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                return None
            line = process.stdout.readline()
        return json.loads(line) if line else None

    def begin(self, number: int, *words: Any) -> Future[Any]:
        return self._threads.submit(self.ask, number, *words)

    def kill(self, number: int) -> None:
        self.processes[number].kill()

    def killed(self, number: int) -> None:
        """Kill it, and wait until it is dead."""
        self.kill(number)
        self.processes[number].wait(SECONDS)

    def noted(self, word: str) -> list[str]:
        return [line for line in self.ledger.read_text().splitlines() if line.startswith(word)]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + SECONDS
        while not (found := condition()):
            assert time.monotonic() < end, f"{what}: not within {SECONDS:g} s"
            time.sleep(0.02)
        return found

    def end(self) -> None:
        for number in range(3):
            self.killed(number)
        self._stack.close()


def places(request: pytest.FixtureRequest, folder: Path) -> tuple[str, str]:
    """The addresses of the store of a test's parameter, and of the cells beside it."""
    address, cells = f"sqlite:///{folder}/store.db", ""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        address = f"{server}?schema=store_{ids.token(40)}&shards=4"
    elif request.param != "sqlite":
        cells = f"{request.getfixturevalue(request.param).address}?prefix={ids.token(40)}"
    return address, cells


@pytest.fixture(scope="module")
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    made = Fleet(*places(request, folder), folder)
    yield made
    made.end()


@pytest.fixture
def long_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No right to probe ends by itself while the test lasts."""
    monkeypatch.setenv("PROBE_SECONDS", "600")


@pytest.fixture
def skewed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """The second is an hour ahead of the first, the third an hour behind."""
    made = Fleet(*places(request, tmp_path), tmp_path, ("", "+3600", "-3600"))
    yield made
    made.end()


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    started.revive()
    return started


@pytest.mark.parametrize("started", ["memcached", "valkey"], indirect=True)
def test_no_attribute_is_lost_and_a_logout_wins_though_a_process_is_killed(fleet: Fleet) -> None:
    id = fleet.ask(0, "make")
    tries = [fleet.begin(number, "set", id, 40 * number, 40) for number in range(3)]
    assert [one.result(SECONDS) for one in tries] == [0, 0, 0]
    assert len(fleet.ask(1, "read", id)) == 121, "a hundred and twenty, and the first one"
    tries = [fleet.begin(number, "set", id, 200 + 40 * number, 40) for number in range(3)]
    fleet.killed(2)
    assert all(one.result(SECONDS) == 0 for one in tries[:2])
    kept = fleet.ask(1, "read", id)
    assert {f"n{n}" for n in range(200, 280)} <= set(kept) and len(kept) >= 201
    tries = [fleet.begin(0, "set", id, 400, 50)]
    assert fleet.ask(1, "logout", id) == "cleared"
    late = fleet.ask(1, "set", id, 500, 50)
    tries[0].result(SECONDS)
    assert late == 50, "each of them was refused"
    assert fleet.ask(0, "read", id) is None is fleet.ask(1, "read", id)


@pytest.mark.parametrize("started", ["memcached", "postgres", "sqlite", "valkey"], indirect=True)
def test_no_more_is_admitted_than_one_process_may_though_one_is_killed(fleet: Fleet) -> None:
    tries = [fleet.begin(number, "limit", 30) for number in range(3)]
    first = sum(one.result(SECONDS) for one in tries)
    assert first == 90
    tries = [fleet.begin(number, "limit", 100) for number in range(3)]
    fleet.killed(2)
    said = [one.result(SECONDS) or 0 for one in tries]
    said.append(fleet.ask(0, "limit", 20))
    assert 10 <= sum(said) <= 110, "what the dead one used, and nobody was told, stays used"
    assert fleet.ask(1, "limit", 20) == 0


@pytest.mark.parametrize("started", ["memcached", "postgres", "sqlite", "valkey"], indirect=True)
def test_what_was_taken_ahead_dies_with_who_took_it_and_is_no_more_than_that(fleet: Fleet) -> None:
    tries = [fleet.begin(number, "ahead", 41) for number in range(3)]
    assert [one.result(SECONDS) for one in tries] == [41, 41, 41]
    fleet.killed(2)
    tries = [fleet.begin(number, "ahead", 100) for number in range(2)]
    rest = sum(one.result(SECONDS) for one in tries)
    assert 200 - 123 - 10 <= rest <= 200 - 123, "what the dead one had taken and not given out"


@pytest.mark.parametrize("started", ["postgres", "sqlite"], indirect=True)
def test_of_three_hundred_calls_one_probes_and_another_when_that_process_is_killed(
    fleet: Fleet,
) -> None:
    assert fleet.ask(0, "break")

    def probing() -> list[str]:
        tries = [fleet.begin(number, "probe", 100) for number in range(3)]
        for one in tries:
            one.result(SECONDS)
        return fleet.noted("probe")

    (first,) = fleet.until(probing, "somebody probes")
    prober = next(
        number for number, process in enumerate(fleet.processes)
        if process.pid == int(first.split()[1])
    )  # fmt: skip
    fleet.killed(prober)
    others = [number for number in range(3) if number != prober]

    def next_probe() -> list[str]:
        for number in others:
            fleet.ask(number, "probe", 50)
        return fleet.noted("probe")[1:]

    second, *_ = fleet.until(next_probe, "somebody else probes")
    assert second != first


@pytest.mark.parametrize("started", ["memcached", "postgres", "sqlite", "valkey"], indirect=True)
def test_a_key_whose_loader_is_killed_is_loaded_once_by_another(fleet: Fleet) -> None:
    dying = fleet.begin(0, "die", "tea")
    fleet.until(lambda: fleet.noted("load tea"), "it loads")
    tries = [fleet.begin(number, "load", "tea", 60) for number in (1, 2)]
    assert [one.result(SECONDS) for one in tries] == [["TEA"], ["TEA"]]
    assert dying.result(SECONDS) is None
    fleet.processes[0].wait(SECONDS)
    assert fleet.noted("load tea") == ["load tea"] * 2


@pytest.mark.parametrize("skewed", ["postgres", "sqlite", "valkey"], indirect=True)
def test_clocks_an_hour_apart_mint_nothing_end_no_session_and_load_once(skewed: Fleet) -> None:
    hours = [skewed.ask(number, "hour") for number in range(3)]
    assert hours[1] - hours[0] > 3000 and hours[0] - hours[2] > 3000, "they are really apart"
    # SQLite's clock is the fastest of its processes': whatever was due within the hour by which it
    # is ahead ends when it first writes, so that one writes first.
    id = skewed.ask(1, "make")
    tries = [skewed.begin(number, "set", id, 40 * number, 40) for number in range(3)]
    assert [one.result(SECONDS) for one in tries] == [0, 0, 0]
    assert [len(skewed.ask(number, "read", id)) for number in range(3)] == [121] * 3
    assert skewed.ask(2, "logout", id) == "cleared"
    assert [skewed.ask(number, "read", id) for number in range(3)] == [None] * 3
    tries = [skewed.begin(number, "limit", 100) for number in range(3)]
    assert sum(one.result(SECONDS) for one in tries) == 200
    assert [skewed.ask(number, "limit", 20) for number in (1, 2, 0)] == [0, 0, 0]
    tries = [skewed.begin(number, "load", "tea", 40) for number in range(3)]
    assert [one.result(SECONDS) for one in tries] == [["TEA"]] * 3
    assert skewed.noted("load tea") == ["load tea"]


@pytest.mark.parametrize("skewed", ["postgres", "sqlite"], indirect=True)
def test_what_is_open_or_held_open_stays_so_when_all_are_killed_at_once(
    long_probes: None, skewed: Fleet
) -> None:
    def all_anew() -> None:
        for number in range(3):
            skewed.kill(number)
        for process in skewed.processes:
            process.wait(SECONDS)
        skewed.revive()

    skewed.ask(0, "hold")
    all_anew()
    assert [skewed.ask(number, "probe", 20) for number in range(3)] == [20] * 3
    assert skewed.noted("probe") == [], "held open: nobody tries"
    skewed.ask(1, "release")
    skewed.until(lambda: skewed.ask(1, "break"), "it is open")
    all_anew()

    def probing() -> list[str]:
        tries = [skewed.begin(number, "probe", 100) for number in range(3)]
        for one in tries:
            one.result(SECONDS)
        return skewed.noted("probe")

    assert len(skewed.until(probing, "somebody probes")) == 1, "whatever their clocks say"
