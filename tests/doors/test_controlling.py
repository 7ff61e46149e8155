"""What operators ask, on every status and from every node, and a signal that is sent again."""

from __future__ import annotations

import pytest
from tests.runtime.test_control import waiter
from tests.testing.conftest import Shop

from outlive.errors import ProcessTerminal
from outlive.testing.trial import Trial

# --- the same signal again ------------------------------------------------------------------------


async def test_a_signal_sent_again_with_its_key_after_the_end_is_answered_as_before(
    shop: Shop, trial: Trial
) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    await handle.signal("go", 1, key="k")
    assert await handle.result() == "1"
    before = await trial.app.seq(handle.id)
    await handle.signal("go", 1, key="k")
    with pytest.raises(ProcessTerminal):
        await handle.signal("go", 1, key="other")
    with pytest.raises(ProcessTerminal):
        await handle.signal("go", 1)
    assert await trial.app.seq(handle.id) == before
