"""A cache for Django in a store of ours: shared by all workers, bounded, and atomic where it says.

    CACHES = {"default": {
        "BACKEND": "outlive.adapters.django_cache.OutliveCache",
        "LOCATION": "",                    the application of the settings (see django.py), or an
                                           address: sqlite:////var/cache/shop.db, redis://cache
        "TIMEOUT": 300,
        "OPTIONS": {"MAX_ENTRIES": 10_000, "CULL_FREQUENCY": 3, "NAME": "default",
                    "STORAGE": "volatile", "VALUE_BYTES_MAX": 1_048_576,
                    "SERIALIZER": "dotted.name"},
    }}

`add`, `incr`, `decr` and `touch` are one decision each, so of ten workers that `add` one gets True,
and no increment is lost. Values are JSON (`django_values`): no pickle. Life is measured by the
store's clock.

When there are more than MAX_ENTRIES, those whose life has ended go, then those that end soonest,
until 1/CULL_FREQUENCY of them is gone (0: all of them). Who writes looks after each eighth of
MAX_ENTRIES that it has added, so there may be an eighth more for each process.

When a process dies: what it was told is kept is there, as far as its storage class goes. Not
promised: that an entry is there. Memcached has a backend of Django's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from outlive.adapters import django as site
from outlive.adapters.django_values import JSONValues
from outlive.clock import MICROS
from outlive.kinds.caches.entries import (
    ENTRIES,
    NUMBER,
    SPACES,
    Command,
    Drop,
    Found,
    Increment,
    Keep,
    Look,
    Touch,
    When,
    prefix_of,
    ref_of,
    too_many,
)
from outlive.model import Ref, Storage
from outlive.stores.address import CELLS_ONLY

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.model import Cell
    from outlive.runtime.apply import Applier
    from outlive.store import CellStore

R = TypeVar("R")
MAX_ENTRIES = 10_000
VALUE_BYTES_MAX = 1024 * 1024
NAME_CHARACTERS_MAX = 64
PAGE = 100
LOOKS = 8
"""How often in MAX_ENTRIES additions it is counted how many there are."""
_PLAIN = b"j"


class OutliveCache(BaseCache):
    """The cache; see the beginning of this file. Safe to use from any thread, and after a fork.

    Raises `ImproperlyConfigured` for options that cannot be. A value that is too large, or of a
    type that the serializer does not take, raises `ValueError` or `TypeError` and is not kept.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        options = dict(params.get("OPTIONS") or {})
        options.setdefault("MAX_ENTRIES", params.get("MAX_ENTRIES", MAX_ENTRIES))
        super().__init__({**params, "OPTIONS": options})
        self._name = str(options.get("NAME", "default"))
        if not 1 <= len(self._name) <= NAME_CHARACTERS_MAX or "/" in self._name:
            raise ImproperlyConfigured(
                f"NAME of the cache has 1 to {NAME_CHARACTERS_MAX} characters and no slash."
            )
        self._storage: Storage = options.get("STORAGE", "volatile")
        if self._storage not in SPACES:
            raise ImproperlyConfigured(f"STORAGE is one of {', '.join(SPACES)}.")
        self._most_bytes = int(options.get("VALUE_BYTES_MAX", VALUE_BYTES_MAX))
        serializer = options.get("SERIALIZER", JSONValues)
        serializer = import_string(serializer) if isinstance(serializer, str) else serializer
        self._values = serializer() if callable(serializer) else serializer
        cells = ""
        scheme = location.partition(":")[0]
        if scheme == "memcached":
            raise ImproperlyConfigured(
                "Memcached cannot be looked through, so it could not be cleared or bounded here: "
                "use Django's own backend for it."
            )
        if scheme in CELLS_ONLY:
            cells, location = location, "memory://"
        self._client = site.client_at(location) if location else site.client()
        self._place = self._client.app.place(ENTRIES, cells)
        self._place.spaces.setdefault(ENTRIES.name, set()).add(SPACES[self._storage])
        self._added, self._counting = 0, Lock()

    # --- one key ----------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """See Django's cache API; so with the others."""
        found = self._ask(Look(self._ref(key, version)))
        return self._read(found.value) if found.there else default

    def set(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        self._keep(key, value, timeout, version, "always")

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Keep it if there is nothing; of all workers that do so at once, one gets True."""
        return not self._keep(key, value, timeout, version, "absent").there

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return self._ask(Touch(self._ref(key, version), self._life(timeout))).there

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self._ask(Drop(self._ref(key, version))).there

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self._ask(Look(self._ref(key, version))).there

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to a number; none is lost. Raises `ValueError` when there is none, and `TypeError`
        when it is no whole number."""
        found = self._ask(Increment(self._ref(key, version), int(delta)))
        if not found.there:
            raise ValueError(f"Key {key!r} not found")
        if not found.is_number:
            raise TypeError(f"The value of {key!r} is no whole number.")
        return int(found.value[len(NUMBER) :])

    # --- several ----------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        names = list(keys)
        replies = self._ask_all([Look(self._ref(key, version)) for key in names])
        pairs = zip(names, replies, strict=True)
        return {key: self._read(found.value) for key, found in pairs if found.there}

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """As one commit. Raises before anything is kept."""
        life = self._life(timeout)
        commands = [
            Keep(self._ref(key, version), self._written(value), life) for key, value in data.items()
        ]
        replies = self._ask_all(commands)
        self._note_added(sum(not found.there for found in replies))
        return []

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        self._ask_all([Drop(self._ref(key, version)) for key in keys])

    def clear(self) -> None:
        """Drop what is there now; what is kept meanwhile may stay."""
        self._call(self._drop_all())

    # --- how it is done ---------------------------------------------------------------------------

    def _ref(self, key: Any, version: int | None) -> Ref:
        return ref_of(self._name, self.make_and_validate_key(key, version=version), self._storage)

    def _life(self, timeout: Any) -> int | None:
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return None if seconds is None else max(0, round(float(seconds) * MICROS))

    def _written(self, value: Any) -> bytes:
        if type(value) is int:
            return NUMBER + b"%d" % value
        data: bytes = _PLAIN + self._values.dumps(value)
        if len(data) > self._most_bytes:
            raise ValueError(
                f"The value has {len(data)} bytes, at most {self._most_bytes} are kept "
                "(OPTIONS: VALUE_BYTES_MAX); nothing was kept."
            )
        return data

    def _read(self, data: bytes) -> Any:
        if data.startswith(NUMBER):
            return int(data[len(NUMBER) :])
        return self._values.loads(data[len(_PLAIN) :])

    def _keep(self, key: Any, value: Any, timeout: Any, version: int | None, when: When) -> Found:
        command = Keep(self._ref(key, version), self._written(value), self._life(timeout), when)
        found = self._ask(command)
        self._note_added(not found.there)
        return found

    def _call(self, work: Coroutine[Any, Any, R]) -> R:
        async def done(_: Outlive) -> R:
            return await work

        try:
            return self._client.call(done)
        finally:
            work.close()

    def _ask(self, command: Command) -> Found:
        return self._ask_all((command,))[0]

    def _ask_all(self, commands: Iterable[Command]) -> list[Found]:
        async def asked() -> list[Found]:
            applier = await self._place.applier()
            return await asyncio.gather(*(applier.apply(ENTRIES, one) for one in commands))

        return self._call(asked())

    # --- how many there are -----------------------------------------------------------------------

    def _note_added(self, count: int) -> None:
        """Look how many there are, now and then."""
        if not count:
            return
        with self._counting:
            self._added += count
            due = self._added >= max(1, self._max_entries // LOOKS)
            if due:
                self._added = 0
        if due:
            self._call(self._cull())

    async def _cull(self) -> None:
        applier = await self._place.applier()
        cells = [cell async for page in self._pages(applier) for cell in page]
        left = 0
        if self._cull_frequency:
            left = self._max_entries - self._max_entries // self._cull_frequency
        now = await applier.store.now()
        await _drop(applier, too_many(cells, self._max_entries, left, now))

    async def _drop_all(self) -> None:
        applier = await self._place.applier()
        async for page in self._pages(applier):
            await _drop(applier, page)

    async def _pages(self, applier: Applier) -> Any:
        """The entries of this cache, without their values, page by page."""
        store, space = cast("CellStore", applier.store), SPACES[self._storage]
        begin = after = prefix_of(self._name)
        while True:
            cells = await store.scan(space, after, PAGE)
            yield [_bare(cell) for cell in cells if cell.key.startswith(begin)]
            if len(cells) < PAGE or not cells[-1].key.startswith(begin):
                return
            after = cells[-1].key


def _bare(cell: Cell) -> Cell:
    return type(cell)(cell.space, cell.key, b"", cell.version, cell.due)


async def _drop(applier: Applier, cells: Iterable[Cell]) -> None:
    """Drop `cells`, as far as they are still those; a hundred in a commit."""
    batch = list(cells)
    for start in range(0, len(batch), PAGE):
        part = batch[start : start + PAGE]
        await asyncio.gather(
            *(applier.apply(ENTRIES, Drop(cell.ref, cell.version)) for cell in part)
        )
