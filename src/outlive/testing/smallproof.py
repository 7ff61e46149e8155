"""A small proof, on a developer's machine: this application's processes under kill -9, counted.

    python -m outlive.testing.smallproof MODULE:APP --kills 10

    we        start processes by key and send what they wait for, as clients on the store
    workers   two nodes with the application's bodies; their steps are stand-ins (standins.py), so
              nothing is charged, mailed or called. One is killed once something was done, the other
              takes over, and a new one comes

Everything lies in a folder that is removed: a SQLite store, whatever the application's own is. At
the end the store is read whole and asked by the oracles:

    lost      accepted, and not there; or its journal is no sentence
    doubled   one key with two processes, or a recorded step that was called again

A process that waits for what nobody here sends (a date, a callback, another service's update) is
`under way`. Not promised: anything about power loss, other hosts, or the steps themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import OutliveError
from outlive.kinds.processes import FINAL
from outlive.testing import oracles
from outlive.testing.specimens import specimen
from outlive.testing.standins import Ledger, stand_in

if TYPE_CHECKING:
    from random import Random

    from outlive.app import Outlive
    from outlive.kinds.processes import Definition
    from outlive.testing.oracles import Facts
    from outlive.testing.standins import Call

STARTS_A_KILL = 6
WORKERS = 2
PROGRESS_SECONDS, SETTLE_SECONDS = 20.0, 20.0
PROGRESS_BYTES_MAX = 400
"""Of the ledger, a line a call: how much is done between two kills, by chance."""
PAGE = 200
BUSY = ("running", "queued", "compensating")
LOOK_SECONDS = 0.05
KILLS_MAX = 200
WRAPPINGS_MAX = 32


class Proof(Struct, frozen=True):
    """What was counted, and every violation as a sentence."""

    kills: int
    accepted: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    others: tuple[str, ...]
    steps: int
    """Steps recorded."""
    again: int
    """Calls beyond the first of a step: what was under way when its worker was killed."""
    ended: dict[str, int]
    seconds: float
    left_out: tuple[str, ...]
    """Types that were not started, and why."""

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not (self.lost or self.doubled or self.others)

    def lines(self) -> Iterable[str]:
        """The figures in a line, and what was found."""
        ends = " ".join(f"{status}={count}" for status, count in sorted(self.ended.items()))
        yield (
            f"kills={self.kills} accepted={self.accepted} lost={len(self.lost)} "
            f"doubled={len(self.doubled)} other={len(self.others)} · steps={self.steps} "
            f"called_again={self.again} {ends} · {self.seconds:.1f} s"
        )
        yield from (f"  {each}" for each in (*self.lost, *self.doubled, *self.others))
        yield from (f"  left out: {each}" for each in self.left_out)


class SmallProof:
    """One proof in `folder`; `target` is MODULE:APP."""

    def __init__(self, target: str, kills: int, folder: Path, seed: str) -> None:
        self.target, self.kills = target, kills
        self.store = f"sqlite:///{folder / 'proof.db'}"
        self.ledger = Ledger(folder / "ledger")
        self.app = bound(target, self.store)
        self.random: Random = ids.seeded(seed)
        self.accepted: dict[str, set[str]] = defaultdict(set)
        self.left_out: dict[str, str] = {}
        self._workers: list[subprocess.Popen[bytes]] = []
        self._clock = Clock()

    async def run(self) -> Proof:
        """Start, kill, go on, count."""
        began = self._clock.boot()
        values = self._values()
        killed = 0
        async with _client(self.app):
            try:
                for _ in range(WORKERS if values else 0):
                    self._begin_worker()
                for _ in range(self.kills if values else 0):
                    await self._start(values)
                    await self._progress()
                    self._kill()
                    killed += 1
                    self._begin_worker()
                await self._until(lambda: False, SETTLE_SECONDS)
            finally:
                while self._workers:
                    self._kill()
            facts = await oracles.facts_of(self.app.store)
        return self._count(facts, killed, self._clock.boot() - began)

    # --- the client -------------------------------------------------------------------------------

    def _values(self) -> list[tuple[Definition, Any]]:
        """The types that can be started, with what they are started with."""
        found = []
        for made in self.app.definitions.values():
            try:
                value = made.input_type.read(specimen(made.input_type))
            except (ValueError, TypeError) as error:
                self.left_out[made.name] = f"no input could be made: {error}"
            else:
                found.append((made, value))
        return found

    async def _start(self, values: list[tuple[Definition, Any]]) -> None:
        for number in range(STARTS_A_KILL):
            made, value = values[number % len(values)]
            key = f"proof {sum(map(len, self.accepted.values()))}"
            for _ in range(2 if number == 0 else 1):  # the first of each round is asked for twice
                try:
                    handle = await self.app.start(made.body, value, key=key)
                except OutliveError as error:
                    self.left_out[made.name] = f"a start was refused: {error.detail}"
                    break
                self.accepted[key].add(handle.id)

    async def _answer(self) -> int:
        """Send to what waits the signal it waits for; gives how many are about to go on."""
        page, _ = await self.app.processes("waiting", None, PAGE)
        sent = 0
        for line in page:
            made = self.app.definitions.get(line.type)
            if made is None or not line.waits_for:
                continue
            shape = (made.signals or {}).get(line.waits_for)
            if shape is None and made.signals is not None:
                continue
            with suppress(OutliveError, ValueError):  # it went on meanwhile, or takes nothing
                payload = b"null" if shape is None else specimen(shape)
                key = f"{line.waits_for} {line.changed}"
                await self.app.signal(line.id, line.waits_for, payload, key=key)
                sent += 1
        return sent

    # --- the workers ------------------------------------------------------------------------------

    def _begin_worker(self) -> None:
        command = ("--worker", self.store, "--ledger", str(self.ledger.path), self.target)
        worker = subprocess.Popen(
            [sys.executable, "-m", "outlive.testing.smallproof", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        self._workers.append(worker)

    def _kill(self) -> None:
        """SIGKILL the one that has lived longest."""
        worker = self._workers.pop(0)
        worker.kill()
        worker.wait()
        assert worker.stdin is not None
        worker.stdin.close()

    async def _progress(self) -> None:
        """Wait until a little more was done, by chance, or nothing is to be done."""
        size = self.ledger.path.stat
        wanted = size().st_size + self.random.randint(1, PROGRESS_BYTES_MAX)
        await self._until(lambda: size().st_size >= wanted, PROGRESS_SECONDS)

    async def _until(self, over: Callable[[], bool], seconds: float) -> None:
        """Answer what waits until it is `over`, or nothing moves any more."""
        ends = self._clock.boot() + seconds
        while self._clock.boot() < ends and not over():
            for worker in self._workers:
                if (status := worker.poll()) is not None:
                    raise RuntimeError(f"a worker of the proof ended by itself ({status})")
            if not await self._answer() and not await self._busy():
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _busy(self) -> bool:
        """Whether anything is to be done by a node."""
        for status in BUSY:
            if (await self.app.processes(status, None, 1))[0]:
                return True
        return False

    # --- counting ---------------------------------------------------------------------------------

    def _count(self, facts: Facts, killed: int, seconds: float) -> Proof:
        known = {id for ids_of in self.accepted.values() for id in ids_of}
        several = [(key, ids_of) for key, ids_of in self.accepted.items() if len(ids_of) > 1]
        calls = self.ledger.calls()
        recorded = recorded_steps(facts)
        counted = Counter((call.stream, call.step) for call in calls)
        ends = Counter(facts.processes[id].head.status for id in known & facts.processes.keys())
        under_way = sum(count for status, count in ends.items() if status not in FINAL)
        ended = {status: count for status, count in ends.items() if status in FINAL}
        return Proof(
            killed,
            len(known),
            (*oracles.p1_acknowledged_is_durable(facts, known), *oracles.p7_journal_grammar(facts)),
            (
                *(f"key {key} gave {sorted(ids_of)}" for key, ids_of in several),
                *called_after_record(calls, recorded),
            ),
            (
                *oracles.p4_one_effective_holder(facts),
                *oracles.p9_tails_are_dense(facts),
                *oracles.p10_chain_verifies(facts),
                *never_run(facts, known),
            ),
            len(recorded),
            sum(count - 1 for count in counted.values()),
            {**ended, **({"under_way": under_way} if under_way else {})},
            seconds,
            tuple(f"{name}: {why}" for name, why in sorted(self.left_out.items())),
        )


def recorded_steps(facts: Facts) -> dict[tuple[str, str], int]:
    """When each step and undo was recorded, by its process's internal id and its own."""
    found: dict[tuple[str, str], int] = {}
    for process in facts.processes.values():
        for event in process.journal:
            if event.kind in ("step", "undone"):
                id = str(msgspec.json.decode(event.data)["id"])
                name = id if event.kind == "step" else f"undo {id}"
                found.setdefault((event.stream, name), event.time)
    return found


def called_after_record(
    calls: Iterable[Call], recorded: dict[tuple[str, str], int]
) -> Iterable[str]:
    """The steps that were called although their record was there."""
    for call in calls:
        at = recorded.get((call.stream, call.step))
        if at is not None and call.at > at:
            late = (call.at - at) / MICROS
            yield f"{call.step} of {call.stream} was called {late:.3f} s after it was recorded"


def never_run(facts: Facts, known: set[str]) -> Iterable[str]:
    """Workers that did nothing with all that was accepted: killing them has shown nothing."""
    accepted = [process for id, process in facts.processes.items() if id in known]
    if accepted and all(len(process.journal) <= 1 for process in accepted):
        yield f"none of {len(accepted)} processes was run by any worker: nothing is shown"


class _client:
    """An application that is open to ask, and closed with the block."""

    def __init__(self, app: Outlive) -> None:
        self._app = app

    async def __aenter__(self) -> None:
        await self._app.open_client()

    async def __aexit__(self, *_: object) -> None:
        await self._app.close()


def bound(target: str, store: str) -> Outlive:
    """The application that `target` names, on `store`; it tells nobody, and archives nothing.

    Raises `LookupError` when there is none.
    """
    module, _, name = target.partition(":")
    sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    for _ in range(WRAPPINGS_MAX):
        if hasattr(found, "definitions") and hasattr(found, "store_address"):
            break
        found = getattr(found, "app", None)
    else:
        raise LookupError(f"{target} has no Outlive in it")
    app: Outlive = found
    app._given, app.webhooks, app._archive = store, None, None
    return app


async def _serve(app: Outlive) -> None:
    """Be a node until stdin ends, which it does with whoever holds it."""
    async with app:
        await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> int:
    """Prove, or be the worker of a proof. Exit 1 when something was found."""
    line = argparse.ArgumentParser(prog="python -m outlive.testing.smallproof")
    line.add_argument("target", help="MODULE:APP")
    line.add_argument("--kills", type=int, default=10, help=f"1 to {KILLS_MAX}")
    line.add_argument("--seed", default="1", help="of when is killed")
    line.add_argument("--worker", default="", help=argparse.SUPPRESS)
    line.add_argument("--ledger", default="", help=argparse.SUPPRESS)
    asked = line.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if asked.worker:
        stand_in(Ledger(Path(asked.ledger)))
        asyncio.run(_serve(bound(asked.target, asked.worker)))
        return 0
    if not 1 <= asked.kills <= KILLS_MAX:
        line.error(f"--kills is {asked.kills}; it must be 1 to {KILLS_MAX}")
    with tempfile.TemporaryDirectory(prefix="outlive-proof-") as folder:
        try:
            proof = asyncio.run(
                SmallProof(asked.target, asked.kills, Path(folder), asked.seed).run()
            )
        except (OutliveError, LookupError, RuntimeError) as error:
            print(f"no proof: {error}", file=sys.stderr, flush=True)
            return 1
    if not proof.accepted:
        print("nothing to prove: no process could be started", flush=True)
    for each in proof.lines():
        print(each, flush=True)
    return 0 if proof.holds and proof.accepted else 1


if __name__ == "__main__":
    sys.exit(main())
