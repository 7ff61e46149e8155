"""The workshop with a planted bug: a worker that believes it owns what it once owned.

The fence is switched off (the commit no longer compares owner and epoch) and so is the trust check
(see trusting.py). Only for the test that shows that the oracle sees what the fence prevents.
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

from tests.crash.workshop import app, service  # noqa: E402

__all__ = ["app", "service"]
