"""The workshop with a planted bug: a worker that believes it owns what it once owned.

The fence is switched off (see unfenced.py). Only for the test that shows that the oracle sees what
the fence prevents.
"""

from __future__ import annotations

import tests.crash.unfenced  # noqa: F401
from tests.crash.workshop import app, service

__all__ = ["app", "service"]
