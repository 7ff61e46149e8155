"""Which migrations a store still needs, and whether it may be opened at all.

Forward only: a store is never taken back. Each applied file is remembered with its checksum, so
that a store that was migrated by something else than this release's own files is refused instead
of guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from outlive.errors import NewerSchema, SchemaAltered
from outlive.stores.sql import Migration


def pending(
    shipped: Sequence[Migration], applied: Iterable[tuple[int, str, str]]
) -> list[Migration]:
    """What of `shipped` is not among `applied` (number, name, checksum), in order.

    Raises `NewerSchema` when the store knows a migration that is not shipped, `SchemaAltered` when
    a checksum differs.
    """
    known = {migration.number: migration for migration in shipped}
    done: set[int] = set()
    for number, name, checksum in applied:
        ours = known.get(number)
        if ours is None:
            newest = shipped[-1].number
            raise NewerSchema(
                f"The store is at schema {number} ({name}); this release knows up to {newest}. "
                "It was not touched."
            )
        if ours.checksum != checksum:
            raise SchemaAltered(
                f"Migration {number} ({name}) was applied to the store in another form than this "
                "release ships. The store was not touched."
            )
        done.add(number)
    return [migration for migration in shipped if migration.number not in done]
