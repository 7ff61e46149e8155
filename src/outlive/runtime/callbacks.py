"""Callbacks as a body holds them: made once, given away, waited for like a signal.

    scan = await run.callback("scan", type=ScanResult, within=3600)
    await run(order_scan, document, scan.url)
    found = await scan

Made by one commit, which also makes the cell that leads here: the address is good before anybody
can have it. Its token is computed, never recorded; where its address begins is.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from outlive import ids
from outlive.clock import MICROS, ahead
from outlive.codec import ANYTHING, Shape
from outlive.errors import Conflict, OutliveError
from outlive.kinds.processes.callbacks import CALLBACKS_PATH, SECRET, place_put, token_of
from outlive.kinds.processes.vocabulary import CallbackMade, wait_for_callback
from outlive.model import ABSENT, Batch, Put, Require
from outlive.store import Store

if TYPE_CHECKING:
    from outlive.runtime.run import Run

T = TypeVar("T")
KEPT_SECONDS = 7 * 86_400
"""How long, behind its time, a callback still knows what it was told."""


class Addresses:
    """What this node makes the addresses of callbacks from."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._secret = ""
        self.base = ""
        """What they begin with; empty: nobody has said where this service is reached."""

    async def secret(self) -> str:
        """The secret of the store, which is made by whoever needs it first."""
        while not self._secret:
            cell = (await self._store.read((SECRET,)))[0]
            if cell is not None:
                self._secret = cell.value.decode()
                break
            put = Put(SECRET, ids.token(260).encode())
            try:
                await self._store.commit(Batch(require=(Require(SECRET, ABSENT),), put=(put,)))
            except Conflict:
                continue  # another node was faster: its secret counts
        return self._secret


class Callback(Generic[T]):
    """Something that an outside system will say once: await it to get it.

    Raises `WaitTimeout` when it was not said in time. In a branch use `await run.wait(callback)`.
    """

    __slots__ = ("_n", "_run", "_shape", "base", "id", "token", "until")

    def __init__(self, run: Run, made: CallbackMade, token: str, shape: Shape) -> None:
        self._run = run
        self._shape = shape
        self._n: int | None = None
        self.id = made.id
        """Its identity inside the process."""
        self.token = token
        """The secret part of its address: whoever has it may call."""
        self.base = made.base
        self.until = made.until
        """When its time is up, on the store's clock; None: never."""

    @property
    def url(self) -> str:
        """Where it is called: `POST` one JSON body, no other authorisation. Raises `ValueError`
        when nobody has said where this service is reached."""
        if not self.base:
            raise ValueError(
                "The address of this service is not known: Outlive(public_url='https://…')"
            )
        return f"{self.base}{CALLBACKS_PATH}{self.token}"

    def __await__(self) -> Generator[Any, None, T]:
        return wait(self._run, self).__await__()

    def __repr__(self) -> str:
        return f"<{self.id}>"  # the token is for whoever is to call, not for logs


async def make(run: Run, name: str, wanted: Any, within: float | None) -> Callback[Any]:
    """See `Run.callback`."""
    activation = run._activation
    shape = _declared(run, name, wanted)
    if within is not None and within <= 0:
        raise ValueError(f"within is {within}; it must be above 0 seconds")
    id = run._identify(f"callback {name}")
    node = activation.node
    try:
        secret = await node.addresses.secret()
    except OutliveError as error:  # the store's failure is never the body's
        raise activation.refused(error) from error
    token = token_of(secret, activation.head.stream, id)
    record, against = activation.journal.find(id, CallbackMade, branch=run._branch())
    if against:
        await activation.drift(against)
    if record is None:
        if activation.halted:
            activation.check()
        now = node.clock.wall()
        until = None if within is None else ahead(now, within)
        record = CallbackMade(id, name, run._ask(id), until, node.addresses.base)
        due = (until or now) + KEPT_SECONDS * MICROS
        place = place_put(token, activation.id, id, activation.head.stream, due)
        activation.journal.times[id] = await activation.record(record, puts=(place,))
    run._pass(id)
    return Callback(run, record, token, shape)


async def wait(run: Run, callback: Callback[T]) -> T:
    """Wait for what `callback` is told; asked again it gives the same."""
    if callback._n is None:
        name = wait_for_callback(callback.id)
        callback._n = await run._take(name, None, callback.until)
    payload = run._activation.journal.signals[callback._n].payload
    told: T = callback._shape.read(payload)
    return told


def _declared(run: Run, name: str, wanted: Any) -> Shape:
    """The type of what the callback `name` is told, known wherever it is called."""
    declared = run._activation.definition.callbacks
    if declared is None and wanted is not None and wanted is not Any:
        raise ValueError(f"declare callbacks={{{name!r}: …}}: it is called where no body runs")
    if declared is None:
        return ANYTHING
    if name not in declared:
        known = ", ".join(sorted(declared)) or "none"
        raise ValueError(
            f"the callback {name!r} is not declared for this process; there is {known}"
        )
    if wanted is not None and declared[name].type != wanted:
        raise ValueError(f"the callback {name!r} is declared with another type")
    return declared[name]
