"""Tools to test a service or a store with: the same ones outlive is tested with itself."""

from __future__ import annotations

import sys

if "pytest" in sys.modules:  # a failed check shall show its values
    import pytest

    for _name in ("conformance", "cell_conformance", "lockstep"):
        pytest.register_assert_rewrite(f"{__name__}.{_name}")
