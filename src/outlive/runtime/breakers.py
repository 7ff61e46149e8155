"""A breaker as one instance sees it: what it counts, what it knows of the others, who may call.

    closed and looked at lately      two readings of the clock and three additions; no store, no
                                     lock, nothing awaited
    looked at `share_seconds`/2 ago  the same, and one look at the store begins behind the calls
    `share_seconds` ago or longer    the calls wait for that look
    open                             refused on the spot; when its rest is over one call asks the
                                     store for the right to probe, the others are refused meanwhile

A look takes along what was counted here, if any of it was bad; when it was not, it only reads. All
breakers of an application that look in one turn of the event loop share one read of the store.

When the store does not answer, this instance decides alone, by the same rules, on a copy of what it
saw last. Then the bound on probes holds for each instance, not for all of them. When the store is
back the stricter of both stands: what was opened alone is opened for all.

Not promised: anything about calls from several threads or event loops; that the outcomes of the
last `share_seconds` outlive this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import BreakerOpen, OutliveError
from outlive.kinds.breakers.rule import Breaker
from outlive.kinds.breakers.standing import (
    BREAKERS,
    NEW,
    Action,
    Command,
    Control,
    Ended,
    Outcome,
    Probe,
    Report,
    Standing,
    Told,
    decided,
)
from outlive.kinds.breakers.windows import Windows
from outlive.runtime.apply import Applier

log = logging.getLogger("outlive.breakers")
LOOK_SECONDS_MAX = 2.0
"""How long calls wait for a store that does not answer, once in each `share_seconds`."""
PROBE_TIME = 0.9
"""The part of a probe's right after which its call is stopped: this clock may go slower."""


class Permit:
    """One call that is under way. End it by exactly one of `well`, `badly` and `forget`."""

    __slots__ = ("_gate", "_number", "began", "ends", "token")

    def __init__(self, gate: Gate, number: int, began: float, token: str, ends: float) -> None:
        self._gate = gate
        self._number = number
        self.began = began
        self.token = token
        self.ends = ends
        """By this clock: when the call must have ended; only a probe's is not 0."""

    def well(self) -> None:
        """The dependency did what was asked."""
        self._gate.ended(self._number, self.began, False, self.token)

    def badly(self) -> None:
        """The dependency failed."""
        self._gate.ended(self._number, self.began, True, self.token)

    def forget(self) -> None:
        """It says nothing about the dependency: cancelled, or never sent."""
        self._gate.forgotten(self._number, self.token)


class Gate:
    """The breaker at `key`, in one event loop.

    `applier` gives the way to the store; None where there is none, and then it decides alone.
    """

    def __init__(
        self,
        key: str,
        rule: Breaker,
        clock: Clock,
        applier: Callable[[], Awaitable[Applier]] | None = None,
        who: Callable[[], str] = lambda: "",
    ) -> None:
        self.key = key
        self.rule = rule
        self._who = who
        self.windows = Windows(rule)
        self.standing: Standing = NEW
        self.alone: str = ""
        """Why it decides without the store; empty while it does not."""
        self.passed = self.refused = self.probed = self.looks = 0
        self.quiet_until = 0.0
        """Until then a call may pass without another thought."""
        self.flying: dict[int, float] = {}
        """When each call that is under way began, oldest first; without those counted as slow."""
        self.began = 0
        self._clock, self.now = clock, clock.boot
        self._applier = applier
        self._looked = float("-inf")
        self._ahead = 0.0
        """The store's clock less this one, in seconds, as it was at the last look: or less."""
        self._looking: asyncio.Task[None] | None = None
        self._asking = 0
        self._ask_from = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- before a call ----------------------------------------------------------------------------

    async def enter(self) -> Permit:
        """The permit for one call. Raises `BreakerOpen` when there is none."""
        now = self.now()
        if now >= self.quiet_until:
            await self.look(now)
            now = self.now()
            standing = self.standing
            self._sweep(now)
            if standing.forced != "closed" and (standing.forced or standing.mode != "closed"):
                return await self._try(now)
        return self._pass(now)

    def _pass(self, now: float, token: str = "", ends: float = 0.0) -> Permit:
        self.passed += 1
        self.began = number = self.began + 1
        self.flying[number] = now
        return Permit(self, number, now, token, ends)

    async def _try(self, now: float) -> Permit:
        """The permit of a probe, or of a call that shadow mode lets through."""
        wait = self._rest(now)
        if wait <= 0.0 and now >= self._ask_from and self._asking < self.rule.probes:
            permit = await self._ask(now)
            if permit is not None:
                return permit
            if self.standing.mode == "closed" and self.standing.forced != "open":
                return self._pass(self.now())
            wait = max(self._rest(now), self._ask_from - now)
        self.refused += 1
        if self.rule.shadow:
            return self._pass(now)
        wait = max(wait, self._ask_from - now, 0.0)
        raise BreakerOpen(
            f"{self.key} is {self._words()}; it was not called.",
            dependency=self.key,
            retry_after=round(wait, 3),
        )

    async def _ask(self, now: float) -> Permit | None:
        token = ids.token()
        self._asking += 1
        try:
            told = await self._apply(Probe(self.key, self.rule, token, self._who()))
        except asyncio.CancelledError:  # it may have been given: nobody uses it
            self._behind(Ended(self.key, self.rule, token, "given back", self._who()))
            raise
        finally:
            self._asking -= 1
        ends = now + self.rule.probe_seconds * PROBE_TIME
        if told.right is None:
            standing = told.standing
            soonest = min((right.ends for right in standing.rights), default=told.now)
            wait = min(self.rule.share_seconds, max(0.0, (soonest - told.now) / MICROS))
            self._ask_from = self.now() + max(wait, self.rule.share_seconds / 20)
            return None
        if self.now() >= ends:
            self._behind(Ended(self.key, self.rule, token, "given back", self._who()))
            return None
        self.probed += 1
        return self._pass(self.now(), token, ends)

    def _rest(self, now: float) -> float:
        """Seconds until it may be tried, as far as this instance can tell; never too short."""
        if self.standing.forced == "open":
            return self.rule.share_seconds
        if self.standing.mode != "open":
            return 0.0
        return self.standing.until / MICROS - (now + self._ahead)

    def _words(self) -> str:
        standing = self.standing
        if standing.forced == "open":
            last = next((n for n in reversed(standing.controls) if n.what == "force open"), None)
            return "held open" if last is None else f"held open by {last.who}: {last.why}"
        last = next((n for n in reversed(standing.turns) if n.what == "opened"), None)
        return standing.mode if last is None else f"{standing.mode}: {last.why}"

    # --- behind a call ----------------------------------------------------------------------------

    def ended(self, number: int, began: float, failed: bool, token: str = "") -> None:
        """A call ended; `token` if it was a probe."""
        now = self.now()
        swept = self.flying.pop(number, None) is None
        slow = now - began >= self.rule.slow_seconds
        if token:
            outcome: Outcome = "failed" if failed or slow else "well"
            self._behind(Ended(self.key, self.rule, token, outcome, self._who()))
            return
        if self.standing.forced == "closed" or swept:
            return  # what was counted as slow while it lasted is not counted again
        if failed or slow:
            self._count(now, failed, slow)
        else:
            self.windows.well(now)

    def forgotten(self, number: int, token: str) -> None:
        """A call ended and counts for nothing."""
        self.flying.pop(number, None)
        if token:
            self._behind(Ended(self.key, self.rule, token, "given back", self._who()))

    def _sweep(self, now: float) -> None:
        """Count as slow what is under way for too long: it need not end for that."""
        limit = now - self.rule.slow_seconds
        while self.flying:
            number = next(iter(self.flying))
            if self.flying[number] > limit:
                return
            del self.flying[number]
            if self.standing.forced != "closed":
                self._count(now, False, True)

    def _count(self, now: float, failed: bool, slow: bool) -> None:
        why = self.windows.badly(now, failed, slow)
        standing = self.standing
        if not why or standing.mode != "closed" or standing.forced:
            return
        report = Report(self.key, self.rule, self._who(), verdict=why, turn=standing.turn)
        opened, _ = decided(standing, report, self._store_time(now))
        self._adopt(opened, now)  # here at once; for the others when it is committed
        self._behind(report)

    # --- what the others know ---------------------------------------------------------------------

    async def look(self, now: float) -> None:
        """Know what the others know, at most `share_seconds` old. Waits only if it is older."""
        age, share = now - self._looked, self.rule.share_seconds
        if age < share / 2:
            return
        looking = self._begin_look()
        if age < share:
            if self._is_plain():
                self.quiet_until = self._looked + share
            return
        if self.alone:
            return
        await asyncio.shield(looking)

    async def refresh(self) -> Standing:
        """How it stands now, as far as the store answers."""
        await asyncio.shield(self._begin_look())
        return self.standing

    def _begin_look(self) -> asyncio.Task[None]:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())
            self._keep(self._looking)
        return self._looking

    async def _look(self) -> None:
        try:
            self.looks += 1
            self._sweep(self.now())
            calls, failures, slow = self.windows.tell()
            turn = self.standing.turn
            if failures or slow or self.standing.slots:  # somebody has something bad to report
                report = Report(self.key, self.rule, self._who(), calls, failures, slow, turn=turn)
            else:
                report = Report(self.key, self.rule, self._who(), turn=turn)
            await self._apply(report)
        finally:
            self._looking = None

    async def _apply(self, command: Command) -> Told:
        """Carry out `command`, in the store or alone; what is then known is adopted."""
        sent = self.now()
        if self._applier is not None:
            try:
                async with asyncio.timeout(LOOK_SECONDS_MAX):
                    told = await (await self._applier()).apply(BREAKERS, command)
            except (OutliveError, TimeoutError) as error:
                self._be_alone(f"{type(error).__name__}: {error}")
            else:
                self._ahead = told.now / MICROS - self.now()
                self._back(told, sent)
                return told
        now = self.now()
        standing, right = decided(self.standing, command, self._store_time(now))
        self._adopt(standing, now)
        return Told(standing, self._store_time(now), right)

    def _back(self, told: Told, sent: float) -> None:
        """What the store says stands, but what was opened here and is not known there yet."""
        theirs, ours = told.standing, self.standing
        opened_here = ours.mode != "closed" and ours.turn > theirs.turn
        if self.alone:
            log.warning("The breaker of %s is shared again.", self.key)
            self.alone = ""
        if opened_here and theirs.mode == "closed" and not theirs.forced:
            why = ours.turns[-1].why if ours.turns else "opened alone"
            self._looked = sent
            self._behind(
                Report(self.key, self.rule, self._who(), verdict=why, turn=theirs.turn), once=True
            )
            return
        self._adopt(theirs, sent)

    def _be_alone(self, why: str) -> None:
        if not self.alone:
            log.warning("The breaker of %s decides alone: %s", self.key, why)
        self.alone = why

    def _adopt(self, standing: Standing, looked: float) -> None:
        before, self.standing = self.standing, standing
        self._looked = max(self._looked, looked)
        if (before.mode, before.forced) != (standing.mode, standing.forced):
            said = f"{standing.forced and 'held '}{standing.forced or standing.mode}"
            log.warning("The breaker of %s is now %s.", self.key, said)
            if standing.mode == "closed":
                self.windows.forget()
        plain = self._is_plain()
        self.quiet_until = self._looked + self.rule.share_seconds / 2 if plain else 0.0

    def _is_plain(self) -> bool:
        return self.standing.mode == "closed" and not self.standing.forced

    def _store_time(self, now: float) -> int:
        return round((now + self._ahead) * MICROS)

    # --- operators --------------------------------------------------------------------------------

    async def control(self, action: Action, who: str, why: str) -> Standing:
        """Do `action` for all instances; durable when this returns. Raises what the store raises:
        an operator is told when it was not done."""
        if not who or not why:
            raise ValueError("say who does it and why: it is kept")
        command = Control(self.key, self.rule, action, who, why)
        if self._applier is None:
            return (await self._apply(command)).standing
        sent = self.now()
        told = await (await self._applier()).apply(BREAKERS, command)
        self._adopt(told.standing, sent)
        return told.standing

    # --- behind the calls -------------------------------------------------------------------------

    def _behind(self, command: Command, once: bool = False) -> None:
        """Carry out `command` behind the call that led to it."""
        if once and any(task.get_name() == "back" for task in self._tasks):
            return
        task = asyncio.get_running_loop().create_task(self._apply(command))
        if once:
            task.set_name("back")
        self._keep(task)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The breaker of %s: %r", self.key, error)

    async def settled(self) -> None:
        """Wait until what is to be told to the store is told."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
