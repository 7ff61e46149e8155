"""The fence of SQLite switched off: a planted bug, for tests that show that an oracle sees it.

Importing this lets the commit no longer compare owner and epoch, and switches the trust check off
(see trusting.py): a node believes it owns what it once owned.
"""

from __future__ import annotations

import tests.crash.trusting  # noqa: F401

from outlive.stores import sql

_shipped = sql.statements
_fence = "WHERE id = ?2 AND epoch = ?3 AND owner = ?4"


def unfenced(database: str) -> dict[str, str]:
    """The statements as shipped, but for the fence, which lets everybody in."""
    found = dict(_shipped(database))
    assert _fence in found["fence"], "the fence is written otherwise now: plant the bug anew"
    let_in = "WHERE id = ?2 AND coalesce(?3, ?4, 1) IS NOT NULL"
    found["fence"] = found["fence"].replace(_fence, let_in)
    return found


sql.statements = unfenced
