"""The one loop that carries out what kinds on cells decide: read, decide, commit, and again.

    apply ──> waiting ──(no round under way)──> read all cells ──> decide one after the other,
                 ▲                              at one moment       each on what those before made
                 │                                                          │
                 └──── a batch was refused: another writer was faster <── commit

One round is under way at a time; what comes meanwhile is the next one. So the commands of a turn of
the event loop cost one read and one commit, however many they are, and a cell that is hit a
hundred times in it is written once. Commands that share no cell are batches of their own: a refusal
concerns only those that looked at the cell. With a committer (the node of a running application)
the batches join its group, and its one sync.

Where another process was faster, the commands are decided again on what it left: at once the first
time, then after a short random wait, at most `ATTEMPTS_MAX` times.

A cell that this process wrote last is *believed* to be as it was written, so a key that only it
uses costs no read: the commit requires the version, and is refused if the belief was wrong. What
writes nothing, or refuses, is never answered from a belief, because nothing would check it. Where
others write too, the cell is read for the next `DOUBTED_ROUNDS`.

Not promised: fairness between processes on one cell, an order between commands on different cells,
or that a caller who stopped waiting has stopped the command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, TypeVar, cast

from msgspec import Struct

from outlive import ids
from outlive.clock import Clock
from outlive.errors import (
    Conflict,
    OutcomeUnknown,
    OutliveError,
    StoreRefused,
    StoreUnavailable,
)
from outlive.kind import REFS_MAX, UNCOMMITTED, Kind, class_of, kept_as
from outlive.model import ABSENT, Batch, Cell, Committed, Put, Ref, Require, Storage
from outlive.runtime.committer import Committer
from outlive.store import GROUP_BATCHES_MAX, KeyedCells

C = TypeVar("C")
R = TypeVar("R")
ATTEMPTS_MAX = 40
"""How often a command is decided before its caller is told that others were always faster."""
WAITING_MAX = 100_000
"""Commands that wait for a round, beyond which more are refused."""
ROUND_COMMANDS_MAX = 4096
BELIEVED_MAX = 50_000
"""Cells that are believed to be as this process wrote them."""
BELIEVED_BYTES_MAX = 1024
"""Bytes of a value that is; larger ones (sessions, recorded answers) would fill the memory."""
DOUBTED_ROUNDS = 100
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.002, 0.1


class _Asked(Struct, gc=False):
    """A command, who waits for it, and how often it was decided in vain."""

    kind: Kind[Any, Any]
    command: Any
    refs: tuple[Ref, ...]
    storage: Storage
    future: asyncio.Future[Any] | None
    """None once it has failed."""
    attempts: int = 0
    believing: bool = True


class _Fold(Struct):
    """Commands that look at the same cells: decided one after the other, committed as one batch.

    What a command looks at is of one class, so what a fold looks at is too.
    """

    storage: Storage
    refs: dict[Ref, None]
    replies: list[tuple[_Asked, Any]]
    written: dict[Ref, Put | None]


class Applier:
    """Applies commands of kinds to the cells of one store; used from one event loop.

    `committer` gives the node's committer while there is one on the same store. `clock` is only for
    waits between attempts.
    """

    def __init__(
        self,
        store: KeyedCells,
        clock: Clock | None = None,
        committer: Callable[[], Committer | None] = lambda: None,
    ) -> None:
        self.store = store
        self._clock = clock or Clock()
        self._committer = committer
        self._waiting: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop of the round under way: asking for it each time costs a system call."""
        self._closed = False
        self._classes: dict[tuple[str, str], Storage] = {}
        self._believed: dict[Ref, Cell] = {}
        self._doubted: dict[Ref, int] = {}
        """Cells that others write too, and until which round they are read."""
        self.rounds = 0
        self.commands = 0
        self.conflicts = 0

    async def apply(self, kind: Kind[C, R], command: C) -> R:
        """Carry out `command`; its reply comes when what it depends on is committed.

        Raises what the decision raises, `StoreRefused` when the store does not keep the class that
        `kind` demands, `StoreUnavailable`, `Conflict` when others were faster `ATTEMPTS_MAX` times
        (nothing was written), and `OutcomeUnknown`. When the process dies before the reply, the
        command was carried out whole or not at all.
        """
        return cast("R", await self.submit(kind, command))

    def submit(self, kind: Kind[C, R], command: C) -> asyncio.Future[R]:
        """Hand a command over: the future is the gate. Raises as `apply` before anything waits."""
        if self._closed:
            raise StoreUnavailable("The application is closed; nothing was written.")
        refs = tuple(kind.refs(command))
        alone = len(refs) == 1  # most are
        storage = self._classes.get((kind.name, refs[0].space)) if alone else None
        if storage is None:
            storage = self._storage(kind, refs)
        if not alone and "batches" in self.store.lacks:
            raise StoreRefused(
                f"A command of {kind.name} needs {len(refs)} cells at once, and here "
                f"{self.store.lacks['batches']}; nothing was written."
            )
        if len(self._waiting) >= WAITING_MAX:
            raise StoreUnavailable("Too many commands are waiting; nothing was written.")
        loop = self._loop
        if loop is None or self._task is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self.commands += 1
        self._waiting.append(_Asked(kind, command, refs, storage, future))
        if self._task is None:
            self._wake()
        return future

    def check(self, kind: Kind[C, R], spaces: Iterable[str] | None = None) -> None:
        """Raise `StoreRefused` when the store does not promise what `kind` demands.

        `spaces`: those that will be used; all of them when not given.
        """
        for space in kind.spaces if spaces is None else spaces:
            self._learn(kind, space)
        for need in kind.needs:
            if need in self.store.lacks:
                raise StoreRefused(
                    f"{kind.name} needs {need}, and {type(self.store).__name__} does not promise "
                    f"them: {self.store.lacks[need]}. Nothing was written."
                )

    async def close(self) -> None:
        """Let the round under way end; who still waits is told that nothing of theirs was
        written."""
        self._closed = True
        waiting, self._waiting = self._waiting, []
        _fail(waiting, StoreUnavailable("The application is closed; nothing was written."))
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _storage(self, kind: Kind[C, R], refs: Sequence[Ref]) -> Storage:
        """The class of what a command looks at. Raises `ValueError` when it mixes classes."""
        if not 1 <= len(refs) <= REFS_MAX:
            raise ValueError(f"a command of {kind.name} looks at 1 to {REFS_MAX} cells")
        found: set[Storage] = set()
        for ref in refs:
            found.add(self._classes.get((kind.name, ref.space)) or self._learn(kind, ref.space))
        if len(found) > 1:
            raise ValueError(f"a command of {kind.name} mixes what is {' and '.join(found)}")
        return found.pop()

    def _learn(self, kind: Kind[C, R], space: str) -> Storage:
        """The class in which the store keeps `space`."""
        keeps, name = self.store.keeps, type(self.store).__name__
        found = kept_as(class_of(kind, space), keeps, f"Space {space} of {kind.name}", name)
        self._classes[kind.name, space] = found
        return found

    # --- rounds -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._task is None:  # it begins at the end of this turn: what is asked in it goes along
            self._task = asyncio.get_running_loop().create_task(self._rounds())

    async def _rounds(self) -> None:
        try:
            while self._waiting:
                asked = [one for one in self._waiting[:ROUND_COMMANDS_MAX] if _is_awaited(one)]
                del self._waiting[:ROUND_COMMANDS_MAX]
                try:
                    await self._round(asked)
                except Exception as error:
                    _fail(asked, error)
                except BaseException:
                    _fail(asked, OutcomeUnknown("The loop was ended while it was committing."))
                    raise
        finally:
            self._task = None

    async def _round(self, asked: Sequence[_Asked]) -> None:
        if not asked:
            return
        base, now = await self._look(asked)
        self.rounds += 1
        writing = []
        folds, again = _decided(asked, base, now, self._believed)
        self._waiting[:0] = again
        for fold in folds:
            if fold.written:
                writing.append(fold)
            elif self._is_believed(fold):
                self._doubt(fold)
            else:  # nothing to wait for: it was read a moment ago
                _answer(fold)
        for start in range(0, len(writing), GROUP_BATCHES_MAX):
            part = writing[start : start + GROUP_BATCHES_MAX]
            batches = [_batch_of(fold, base) for fold in part]
            results = await self._commit(batches)
            for fold, batch, result in zip(part, batches, results, strict=True):
                self._settle(fold, batch, result)

    async def _look(self, asked: Sequence[_Asked]) -> tuple[dict[Ref, Cell | None], int]:
        """Every cell that is asked about, believed or read, and the store's time."""
        base: dict[Ref, Cell | None] = {}
        unknown: dict[Ref, None] = {}
        believed = self._believed
        for one in asked:
            if not one.believing:
                for ref in one.refs:
                    believed.pop(ref, None)
                    unknown[ref] = None
        for one in asked:
            for ref in one.refs:
                known = believed.get(ref)
                if known is None:
                    unknown[ref] = None
                else:
                    base[ref] = known
        if not unknown:
            return base, await self.store.now()
        cells, now = await asyncio.gather(self.store.read(list(unknown)), self.store.now())
        base.update(zip(unknown, cells, strict=True))
        return base, now

    def _is_believed(self, fold: _Fold) -> bool:
        return any(ref in self._believed for ref in fold.refs)

    def _doubt(self, fold: _Fold) -> None:
        """Decide the commands of `fold` again on what is read."""
        for one, _ in fold.replies:
            one.believing = False
        self._waiting[:0] = [one for one, _ in fold.replies]

    async def _commit(self, batches: Sequence[Batch]) -> Sequence[Committed | OutliveError]:
        """The receipt or the refusal of each batch; what concerns all of them is each one's."""
        committer = self._committer()
        if committer is None:
            try:
                return await self.store.commit_group(batches)
            except OutliveError as error:
                return [error] * len(batches)
        gates: list[asyncio.Future[Committed]] = []
        refused: OutliveError | None = None
        for batch in batches:
            try:
                gates.append(committer.submit(batch))
            except StoreUnavailable as error:
                refused = error
                break
        results: list[Committed | OutliveError] = []
        for gate in gates:
            try:
                results.append(await gate)
            except OutliveError as error:
                results.append(error)
        if refused is not None:
            results += [refused] * (len(batches) - len(gates))
        return results

    def _settle(self, fold: _Fold, batch: Batch, result: Committed | OutliveError) -> None:
        if isinstance(result, Committed):
            self._believe(batch, result)
            _answer(fold)
            return
        for ref in fold.refs:
            self._believed.pop(ref, None)
        if not isinstance(result, Conflict):
            _fail((one for one, _ in fold.replies), result)
            return
        if len(self._doubted) >= BELIEVED_MAX:
            self._doubted.clear()
        self._doubted.update(dict.fromkeys(fold.refs, self.rounds + DOUBTED_ROUNDS))
        self.conflicts += 1
        again = []
        for one, _ in fold.replies:
            one.attempts += 1
            if one.attempts < ATTEMPTS_MAX:
                again.append(one)
            else:
                _fail((one,), result)
        tried = max((one.attempts for one in again), default=0)
        if tried == 1:
            self._resume(again)
        elif tried:
            wait = ids.full_jitter(BACKOFF_SECONDS, BACKOFF_SECONDS_MAX, tried - 1)
            self._clock.call_later(wait, lambda: self._resume(again))

    def _believe(self, batch: Batch, receipt: Committed) -> None:
        """Remember what was written, where nobody else was seen to write."""
        believed, doubted = self._believed, self._doubted
        if len(believed) >= BELIEVED_MAX:
            believed.clear()
        for ref in batch.drop:
            believed.pop(ref, None)
        for put, version in zip(batch.put, receipt.versions, strict=True):
            ref = put.ref
            shared = doubted and doubted.get(ref, 0) > self.rounds
            if shared or len(put.value) > BELIEVED_BYTES_MAX:
                believed.pop(ref, None)
                continue
            believed[ref] = Cell(ref.space, ref.key, put.value, version, put.due)

    def _resume(self, again: Sequence[_Asked]) -> None:
        if self._closed:
            _fail(again, StoreUnavailable("The application is closed; nothing was written."))
            return
        self._waiting[:0] = again
        self._wake()


def _decided(
    asked: Sequence[_Asked],
    base: dict[Ref, Cell | None],
    now: int,
    believed: Container[Ref],
) -> tuple[list[_Fold], list[_Asked]]:
    """Decide all of `asked`, each on what those before it made of `base`; and those that are to be
    decided again on what is read, because they refused what is only `believed`."""
    view, again = dict(base), list[_Asked]()
    fold_of: dict[Ref, _Fold] = {}
    folds: dict[int, _Fold] = {}
    for one in asked:
        try:
            decision = one.kind.decide(view, one.command, now)
            _demand_own(one, decision.batch)
        except Exception as error:  # the command's own: those beside it are not concerned
            if one.believing and any(ref in believed for ref in one.refs):
                one.believing = False
                again.append(one)
            else:
                _fail((one,), error)
            continue
        fold = _fold_for(one, fold_of, folds)
        fold.replies.append((one, decision.reply))
        for ref in decision.batch.drop:
            view[ref] = None
            if base[ref] is not None:
                fold.written[ref] = None
            else:
                fold.written.pop(ref, None)
        for put in decision.batch.put:
            ref = put.ref
            fold.written[ref] = put
            view[ref] = Cell(ref.space, ref.key, put.value, UNCOMMITTED, put.due)
    return list(folds.values()), again


def _demand_own(one: _Asked, batch: Batch) -> None:
    """Raise `ValueError` for a batch that no decision may give."""
    if batch.append or batch.lease is not None or batch.require:
        raise ValueError(f"a decision of {one.kind.name} only puts and drops cells")
    for ref in batch.drop:
        if ref not in one.refs:
            raise ValueError(f"a decision of {one.kind.name} drops {ref} unseen")
    for put in batch.put:
        if put.ref not in one.refs:
            raise ValueError(f"a decision of {one.kind.name} writes {put.ref} unseen")


def _fold_for(one: _Asked, fold_of: dict[Ref, _Fold], folds: dict[int, _Fold]) -> _Fold:
    """The fold of the cells that `one` looks at; folds that it brings together become one."""
    found: _Fold | None = None
    if len(one.refs) == 1 and one.refs[0] not in fold_of:  # most are
        found = fold_of[one.refs[0]] = _Fold(one.storage, {one.refs[0]: None}, [], {})
        folds[id(found)] = found
        return found
    for ref in one.refs:
        other = fold_of.get(ref)
        if other is None or other is found:
            continue
        if found is None:
            found = other
            continue
        found.replies += other.replies
        found.written.update(other.written)
        found.refs.update(other.refs)
        for theirs in other.refs:
            fold_of[theirs] = found
        del folds[id(other)]
    if found is None:
        found = _Fold(one.storage, {}, [], {})
        folds[id(found)] = found
    for ref in one.refs:
        found.refs[ref] = None
        fold_of[ref] = found
    return found


def _batch_of(fold: _Fold, base: dict[Ref, Cell | None]) -> Batch:
    """What `fold` writes, if every cell it looked at is as it was read."""
    if len(fold.refs) == 1:  # most have
        ((ref, put),) = fold.written.items()
        cell = base[ref]
        alone = (Require(ref, ABSENT if cell is None else cell.version),)
        if put is None:
            return Batch(None, alone, (), (ref,), (), fold.storage)
        return Batch(None, alone, (put,), (), (), fold.storage)
    puts, drops, requires = [], [], []
    for ref in fold.refs:
        cell = base[ref]
        requires.append(Require(ref, ABSENT if cell is None else cell.version))
    for ref, put in fold.written.items():
        if put is None:
            drops.append(ref)
        else:
            puts.append(put)
    return Batch(None, tuple(requires), tuple(puts), tuple(drops), (), fold.storage)


def _answer(fold: _Fold) -> None:
    for one, reply in fold.replies:
        future = one.future
        if future is not None and not future.done():
            future.set_result(reply)


def _is_awaited(one: _Asked) -> bool:
    return one.future is not None and not one.future.done()


def _fail(asked: Iterable[_Asked], error: BaseException) -> None:
    """Tell each why. It lets go of its future: the frames that `error` came through hold the
    commands, these are not seen by the garbage collector, and the future holds `error`."""
    for one in asked:
        future, one.future = one.future, None
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()  # whoever waits gets it; nobody waiting is no fault
