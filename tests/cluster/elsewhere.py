"""The sign-up on a node that shares no host with any other: its end is seen in the store only."""

from __future__ import annotations

import os

from outlive.runtime import ownership

ownership.home = lambda: f"the host of {os.getpid()}"

from tests.cluster.signup import app, service  # noqa: E402

__all__ = ["app", "service"]
