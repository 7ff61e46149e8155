"""A process killed at every commit of its life, and found again each time.

    run once                           which commits there are: 1 … n
    for each, before and after it      a fresh store and world; run, die there, come back, run on
    nested: for each commit of that    die again, come back again

Death is `mortality.Life.end`: nothing of the node runs another line. The next node comes after the
dead one's lease, takes its shards, and the same client asks for the same again, with the same keys,
as one does that got no answer. Then the oracles are asked (journal grammar, one holder, the chain,
no recorded step run again), and the user's `check`.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Raw, Struct

from outlive import ids, steps
from outlive.errors import ProcessTerminal
from outlive.handle import Handle
from outlive.kinds.processes import Entry, View
from outlive.testing.idleness import NotIdle
from outlive.testing.mortality import Life, Mortals, Port, When
from outlive.testing.oracles import (
    facts_of,
    p4_one_effective_holder,
    p7_journal_grammar,
    p9_tails_are_dense,
    p10_chain_verifies,
)
from outlive.testing.places import Place
from outlive.testing.trial import STOPS_MAX, Trial
from outlive.testing.virtual import VirtualClock

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.store import Store

COMMITS_MAX = 500
"""Commits of one process; each costs two whole runs, and nested two more for each of its own."""
REACH_TRIES = 3
"""Runs in which a death may be reached; then it is said that it never was."""
UNREACHED_MAX = 0.2
"""The part of the deaths that may be unreached without a warning: what runs beside something else
shares a commit with it in one run, and has one of its own in another."""
CLOSE_SECONDS = 5.0
KEY = "killed everywhere"

Client = Callable[["Killed", Handle[Any]], Awaitable[Any]]


class UnreachedDeaths(UserWarning):
    """Many commits of the undisturbed run were never there again to be killed at."""


class Death(Struct, frozen=True):
    """Where a life ends: `when` its commit number `at`."""

    at: int
    when: When

    def __str__(self) -> str:
        return f"{self.at}-{self.when}"


class Outcome(Struct, frozen=True):
    """What came of one run: what `check` is given."""

    view: View
    result: Any
    """What the body returned; None unless it is done."""
    journal: tuple[Entry, ...]
    deaths: str
    """Where it was killed, such as `7-after` or `7-after/2-before`; empty: nowhere."""

    @property
    def id(self) -> str:
        """The public id of the process."""
        return self.view.id

    @property
    def status(self) -> str:
        """Its status at the end."""
        return self.view.status


class Killed(Trial):
    """The trial of one life: its client's signals have keys, so that they count once."""

    def __init__(self, app: Outlive, port: Store, clock: VirtualClock) -> None:
        super().__init__(app, lambda _: port, clock=clock)
        self._signals = 0

    async def signal(self, id: str, name: str, payload: bytes, *, key: str | None = None) -> None:
        """See `Outlive.signal`; sent again after a death it counts once."""
        self._signals += 1
        with suppress(ProcessTerminal):
            await super().signal(id, name, payload, key=key or f"{KEY} {self._signals}")

    async def update(
        self,
        id: str,
        name: str,
        payload: bytes,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> Raw:
        """See `Outlive.update`; asked again after a death it has the same answer."""
        self._signals += 1
        key = key or f"{KEY} {self._signals}"
        return await super().update(id, name, payload, key=key, within=within)

    async def rest_until_ended(self, id: str) -> None:
        """Move the clock until the process has ended, or nothing is due that could end it."""
        await self.run_until_idle()
        for _ in range(STOPS_MAX):
            due = await self._work_due()
            if due is None or (await self.view(id)).final:
                return
            await self._move(due)
        raise NotIdle(f"{id} has not ended after {STOPS_MAX} moves of the clock.")


class Murder:
    """One process of an application, to be killed everywhere; `store` gives a new place for each
    run, as a function that opens what is there."""

    def __init__(
        self,
        app: Outlive,
        body: Callable[..., Any],
        value: Any,
        place: Callable[[], Callable[[VirtualClock], Store]],
        client: Client | None,
        check: Callable[[Outcome], Any] | None,
        reset: Callable[[], Any] | None,
    ) -> None:
        self._app, self._body, self._value = app, body, value
        self._place, self._client = place, client
        self._check, self._reset = check, reset
        self._undisturbed = ""

    async def everywhere(self, nested: bool, only: str | None) -> list[str]:
        """Kill it at every commit, or only at `only`; gives where it was killed.

        Raises what `check` raised, or `AssertionError`, with a note where that was.
        """
        wanted = [] if only is None else [_death_of(part) for part in only.split("/")]
        with Mortals() as self._mortals:
            (commits,) = await self._once([])
            if wanted:
                if len(lives := await self._once(wanted)) <= len(wanted):
                    raise AssertionError(f"{only} was not reached: {len(lives[-1])} commits")
                return ["/".join(map(str, wanted))]
            done: list[str] = []
            missed: list[str] = []
            for first in _deaths(commits):
                again = await self._reaching([first], done, missed)
                for second in _deaths(again[1]) if nested and again else ():
                    await self._reaching([first, second], done, missed)
            _tell_of(missed, done)
            return done

    async def _reaching(
        self, deaths: list[Death], done: list[str], missed: list[str]
    ) -> list[list[str]]:
        """One run that comes to its last death, which is noted in `done`; else in `missed`, and
        nothing is given. What runs beside something else may commit with it, so it is tried again.
        """
        for _ in range(REACH_TRIES):
            if len(lives := await self._once(deaths)) > len(deaths):
                done.append("/".join(map(str, deaths)))
                return lives
        missed.append("/".join(map(str, deaths)))
        return []

    async def _once(self, deaths: list[Death]) -> list[list[str]]:
        """One run with these deaths; gives what each life committed."""
        said: list[list[str]] = []
        try:
            await _called(self._reset)
            outcome, flaws = await self._lives(deaths, said)
            self._undisturbed = self._undisturbed or outcome.status
            if self._check is None and outcome.status != self._undisturbed:
                flaws.append(f"it is {outcome.status}; undisturbed it is {self._undisturbed}")
            if flaws:
                raise AssertionError("\n".join(flaws))
            await _called(self._check, outcome)
        except Exception as error:
            for line in _note(deaths, said):
                error.add_note(line)
            raise
        return said

    async def _lives(self, deaths: list[Death], said: list[list[str]]) -> tuple[Outcome, list[str]]:
        clock, open_store = VirtualClock(), self._place()
        recorded: set[tuple[str, str]] = set()
        killed: list[str] = []
        with _calls_after(recorded) as repeated:
            for death in [*deaths, None]:
                life = self._mortals.life = Life()
                store = open_store(clock)
                port: Any = Port(store, life, *((death.at, death.when) if death else ()))
                port.recorded = recorded
                said.append(port.said)
                trial = Killed(self._app, port, clock)
                found = await life.run(self._live(trial, store))
                if not life.ended:
                    return _outcome_of(found, killed), [*found[3], *repeated]
                killed.append(str(death))
                await _bury(trial, life, store, clock)
        raise AssertionError("unreachable: the last life has no death")

    async def _live(self, trial: Killed, store: Store) -> tuple[View, Any, Any, list[str]]:
        """What a client does, in every life, and what is there at the end."""
        async with trial:
            handle = await trial.start(self._body, self._value, key=KEY)
            if self._client is not None:
                await self._client(trial, handle)
            await trial.rest_until_ended(handle.id)
            view = await trial.view(handle.id)
            result = await self._app.result(handle.id) if view.status == "done" else None
            facts = await facts_of(store)
            oracles = (p4_one_effective_holder, p7_journal_grammar)
            flaws = [flaw for oracle in oracles for flaw in oracle(facts)]
            flaws += p9_tails_are_dense(facts) + p10_chain_verifies(facts)
            return view, result, await self._app.journal(handle.id), flaws


def _nothing() -> None:
    """What a store in this process has to cut."""


def _outcome_of(found: tuple[View, Any, Any, list[str]], killed: list[str]) -> Outcome:
    view, result, journal, _ = found
    return Outcome(view, result, tuple(journal), "/".join(killed))


async def _bury(trial: Killed, life: Life, store: Store, clock: VirtualClock) -> None:
    """What a machine does when a process of it is gone; then its lease runs out."""
    runtime, app = trial.app._runtime, trial.app
    await life.rest()
    if runtime is not None:
        runtime.timers.stop()
        activations = runtime.activations
        for activation in activations.live.values():
            activation.gone = activation.halted = True
        for pool in (activations.threads, activations.bodies):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
    lease_seconds = app._lease_seconds
    trial._unbind()
    with suppress(TimeoutError):  # closing waits its turn, and the dead may hold it for ever
        async with asyncio.timeout(CLOSE_SECONDS):
            await store.close()
    getattr(store, "sever", _nothing)()  # what the dead had borrowed is never given back
    clock.advance(lease_seconds + 1)


@contextmanager
def _calls_after(recorded: set[tuple[str, str]]) -> Iterator[list[str]]:
    """The steps that are called although they are recorded.

    Pauses are drawn by no chance meanwhile: every run has the same commits.
    """
    found: list[str] = []
    set_attempt, full_jitter = steps.set_attempt, ids.full_jitter

    def seen(attempt: steps.Attempt) -> Any:
        if (attempt._stream, attempt.id) in recorded and not attempt.undoing:
            found.append(f"step {attempt.id} was recorded and has run again")
        return set_attempt(attempt)

    def longest(base_seconds: float, cap_seconds: float, attempt: int) -> float:
        return float(min(cap_seconds, base_seconds * 2 ** min(attempt - 1, 60)))

    steps.set_attempt, ids.full_jitter = seen, longest
    try:
        yield found
    finally:
        steps.set_attempt, ids.full_jitter = set_attempt, full_jitter


def _tell_of(missed: list[str], done: list[str]) -> None:
    """Say that not every death was there to be died: what was not tried is not proven."""
    if len(missed) <= UNREACHED_MAX * (len(missed) + len(done)):
        return
    said = (
        f"{len(missed)} of {len(missed) + len(done)} deaths were never reached, so nothing is known"
        f" of them: {', '.join(missed[:5])}{' …' if len(missed) > 5 else ''}. A run after the first"
        " had fewer commits: is the outside new each time (reset=)?"
    )
    if not done:
        raise AssertionError(said)
    warnings.warn(said, UnreachedDeaths, stacklevel=2)


def _deaths(said: list[str]) -> list[Death]:
    if len(said) > COMMITS_MAX:
        raise AssertionError(f"{len(said)} commits are too many; {COMMITS_MAX} can be tried")
    whens: tuple[When, When] = ("before", "after")
    return [Death(at, when) for at in range(1, len(said) + 1) for when in whens]


def _death_of(said: str) -> Death:
    at, _, when = said.partition("-")
    if not at.isdecimal() or when not in ("before", "after"):
        raise ValueError(f"only={said!r}: write it like 7-after, or 7-after/2-before")
    return Death(int(at), "before" if when == "before" else "after")


def _note(deaths: list[Death], said: list[list[str]]) -> Iterator[str]:
    if not deaths:
        yield "not killed at all: this is the first, undisturbed run"
        return
    for number, (death, lines) in enumerate(zip(deaths, said, strict=False)):
        what = lines[death.at - 1] if death.at <= len(lines) else "which was not reached"
        yield f"killed {'again ' * bool(number)}{death.when} commit {death.at}: {what}"
    only = "/".join(map(str, deaths))
    yield f'repeat only this one: kill_everywhere(..., only="{only}")'


async def _called(function: Callable[..., Any] | None, *args: Any) -> None:
    if function is not None:
        found = function(*args)
        if inspect.isawaitable(found):
            await found


class KillEverywhere:
    """What the fixture `kill_everywhere` gives: call it with the process to be killed.

    In an asynchronous test await what it gives. Not promised there or anywhere: that two of them
    may run at once.
    """

    def __init__(self, app: Outlive, address: str, folder: Path) -> None:
        self._app, self._address, self._folder = app, address, folder
        self._place: Place | None = None
        self._waiting: Coroutine[Any, Any, list[str]] | None = None

    def __call__(
        self,
        body: Callable[..., Any],
        value: Any = None,
        *,
        client: Client | None = None,
        check: Callable[[Outcome], Any] | None = None,
        reset: Callable[[], Any] | None = None,
        nested: bool = False,
        only: str | None = None,
    ) -> Any:
        """Run a process once undisturbed, then once for each commit, killed before and after it.

        `client(outlive, handle)`: what its client does once it is started, and again after each
        death; its signals count once. `check(outcome)`: asked at the end of every run; without it
        every run must end with the status of the undisturbed one. `reset()`: called before every
        run, to make the outside new. `nested`: kill the recovery at each of its commits too.
        `only`: one run such as `"7-after"`, as a failure names it.

        Gives where it was killed; in an asynchronous test an awaitable of that. Raises what `check`
        raised, or `AssertionError` when an oracle of outlive found something, each with a note
        where it was killed; also when no death was ever reached. Warns (`UnreachedDeaths`) when
        more than a fifth never was, as of runs with fewer commits because the outside is not new,
        or because on a disk, on a busy machine, more writes of theirs shared one.
        """
        work = Murder(self._app, body, value, self._fresh, client, check, reset)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work.everywhere(nested, only))
        self._waiting = work.everywhere(nested, only)
        return self._waiting

    def _fresh(self) -> Callable[[VirtualClock], Store]:
        self._remove()
        self._place = Place(self._address, self._folder)
        return self._place.store

    def _remove(self) -> None:
        if self._place is not None:
            self._place.remove()

    def close(self) -> None:
        """Remove what is left. Raises `AssertionError` when a call was not awaited."""
        self._remove()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and inspect.getcoroutinestate(waiting) == inspect.CORO_CREATED:
            waiting.close()
            raise AssertionError(
                "In an asynchronous test write `await kill_everywhere(…)`; nothing was run."
            )
