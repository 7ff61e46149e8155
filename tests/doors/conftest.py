"""An application whose bodies a test writes, and a trial of it on each store without a server."""

from tests.testing.conftest import shop, trial

__all__ = ["shop", "trial"]
