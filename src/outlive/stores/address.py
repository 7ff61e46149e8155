"""A store from its address.

sqlite:///relative/path.db     sqlite:////absolute/path.db     memory://
postgresql://user:password@host/database?schema=outlive

redis://host:6379/0?prefix=outlive     rediss://…     memcached://host:11211,other:11211
                                       cells only, see `cells_at`

`schema` (outlive) says where in the database the store lies; `shards` counts when it is made.
Where the host is a pooler in transaction mode, `direct=host:port` leads to the server itself for
what a pooler cannot carry. `statement_cache_size` is found out, see `PostgresStore`. Every other
setting in the query goes to the driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from outlive.clock import Clock
from outlive.errors import BadAddress
from outlive.stores.urls import split

if TYPE_CHECKING:
    from outlive.store import KeyedCells, Store

CELLS_ONLY = ("memcached", "redis", "rediss")


def store_at(address: str, clock: Clock | None = None) -> Store:
    """The store at `address`, not opened yet. Raises `BadAddress`."""
    parts = _parts(address)
    if parts.scheme == "sqlite":
        path = sqlite_path(address)
        from outlive.stores.sqlite import SQLiteStore

        return SQLiteStore(path, clock=clock)
    if parts.scheme == "memory":
        from outlive.stores.memory import MemoryStore

        return MemoryStore(clock=clock)
    if parts.scheme in ("postgresql", "postgres"):
        return _postgres(address, parts, clock)
    if parts.scheme in CELLS_ONLY:
        raise BadAddress(
            f"{parts.scheme} keeps cells only, and an application needs a journal: name it where "
            "cells are kept (`cells=`), beside a store."
        )
    shown = "what stands before a password" if "@" in address else repr(address)
    raise BadAddress(f"{parts.scheme or shown} is no kind of store.")


def cells_at(address: str, clock: Clock | None = None) -> KeyedCells:
    """The store of cells at `address`, not opened yet: any store, Redis or memcached.

    Raises `BadAddress`. Errors do not repeat the address: it may hold a password.
    """
    parts = _parts(address)
    if parts.scheme in ("redis", "rediss"):
        try:
            from outlive.stores.redis import RedisStore
        except ModuleNotFoundError as error:
            if error.name != "redis":
                raise
            raise BadAddress(
                "Cells in Redis need its client: pip install 'outlive[redis]'."
            ) from error
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        prefix = given.pop("prefix", "outlive")
        return RedisStore(parts._replace(query=urlencode(given)).geturl(), clock, prefix=prefix)
    if parts.scheme == "memcached":
        from outlive.stores.memcached import MemcachedStore

        prefix = dict(parse_qsl(parts.query)).get("prefix", "outlive")
        return MemcachedStore(parts.netloc, clock, prefix=prefix)
    return store_at(address, clock)


def _parts(address: str) -> SplitResult:
    """Raises `BadAddress`, which does not repeat it, for what is no URL at all."""
    try:
        return split(address)
    except ValueError:
        raise BadAddress("The address of the store is no URL: is a [ left open?") from None


def _postgres(address: str, parts: SplitResult, clock: Clock | None) -> Store:
    """Errors here do not repeat the address: it may hold a password."""
    try:
        from outlive.stores.postgres import PostgresStore
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise BadAddress(
            "A store on PostgreSQL needs the driver asyncpg: pip install 'outlive[postgres]'."
        ) from error
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not all(map(_is_host, parts.netloc.rpartition("@")[2].split(","))):
        raise BadAddress(
            "The address of the PostgreSQL store has a port that is none, or a password with a "
            "sign of its own (/ ? # @) that is not percent-encoded."
        )
    if not parts.path.strip("/"):
        raise BadAddress("The address of the PostgreSQL store names no database.")
    names = ("schema", "shards", "direct", "statement_cache_size")
    own = {name: given.pop(name, "") for name in names}
    dsn = address.partition("?")[0] + (f"?{urlencode(given)}" if given else "")
    try:
        return PostgresStore(
            dsn,
            int(own["shards"] or 64),
            clock,
            schema=own["schema"] or "outlive",
            statement_cache_size=int(cached) if (cached := own["statement_cache_size"]) else None,
            direct=own["direct"],
        )
    except ValueError as error:
        raise BadAddress(f"The address of the PostgreSQL store is not understood: {error}.") from (
            error
        )


def _is_host(text: str) -> bool:
    """Whether `text` is HOST or HOST:PORT, or nothing."""
    try:
        urlsplit(f"//{text}").port  # noqa: B018
    except ValueError:
        return False
    return True


def sqlite_path(address: str) -> Path:
    """The file that an address of SQLite names. Raises `BadAddress`."""
    parts = _parts(address)
    path = unquote(parts.path)[1:]
    if parts.netloc or not path or parts.query:
        raise BadAddress(f"{address!r} names no file.")
    return Path(path).resolve()


def postgres_place(address: str) -> tuple[str, str]:
    """The driver's part of an address of PostgreSQL, past any pooler, and the schema.

    Raises `BadAddress` when no database is named.
    """
    parts = _parts(address)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.path.strip("/"):
        raise BadAddress("The address of the PostgreSQL store names no database.")
    own = ("schema", "shards", "direct", "statement_cache_size")
    schema, _, direct, _ = (given.pop(name, "") for name in own)
    if direct:
        host, _, database = direct.partition("/")
        user, at, _ = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user}{at}{host}")
        if database:
            parts = parts._replace(path=f"/{database}")
    return parts._replace(query=urlencode(given), fragment="").geturl(), schema or "outlive"


def without_password(address: str) -> str:
    """Where a store lies, in words that may be kept and shown: no user, no password."""
    parts = _parts(address)
    if parts.scheme == "sqlite":
        return f"sqlite:///{sqlite_path(address)}"
    dsn, schema = postgres_place(address)
    parts = split(dsn)
    host = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "")
    return f"postgresql://{host}{parts.path}?schema={schema}"
