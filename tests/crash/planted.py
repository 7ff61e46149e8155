"""The workshop with a planted bug: a worker that believes it owns what it once owned.

The fence is switched off (the commit no longer compares owner and epoch) and so is the trust check
(a woken worker neither demotes itself nor looks at who owns its shards). Only for the test that
shows that the oracle sees what the fence prevents.
"""

from __future__ import annotations

import math
from typing import Any

from outlive.runtime.ownership import Ownership
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


def never_lost(self: Any, owners: Any) -> None:
    """Looks at nothing: what was ours is ours."""


sql.statements = unfenced
Ownership._forget_lost = never_lost  # type: ignore[method-assign]
_init = Ownership.__init__


def trusting(self: Any, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    self._demote_seconds = math.inf


Ownership.__init__ = trusting  # type: ignore[method-assign]

from tests.crash.workshop import app, service  # noqa: E402

__all__ = ["app", "service"]
