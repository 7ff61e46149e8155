"""A node that believes it owns what it once owned: half of a planted bug, for every database.

Importing this switches the trust check off: a woken node neither demotes itself nor looks at who
owns its shards.
"""

from __future__ import annotations

import math
from typing import Any

from outlive.runtime.ownership import Ownership

_init = Ownership.__init__


def never_lost(self: Any, owners: Any) -> None:
    """Looks at nothing: what was ours is ours."""


def unwatched(self: Any) -> None:
    """Nor is it woken when its lease may be over."""


def trusting(self: Any, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    self._demote_seconds = math.inf


Ownership._forget_lost = never_lost  # type: ignore[method-assign]
Ownership._watch = unwatched  # type: ignore[method-assign]
Ownership.__init__ = trusting  # type: ignore[method-assign]
