"""What the power-loss and failing-call harnesses found, and the samples killed, as one JSON object.

python -m tests.proofs.disks        power loss, again while it recovers, failing calls
python -m tests.proofs.disks kills  both samples killed at every commit, and again
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.postgres_server import running_server
from tests.simulation.samples import MEMORY, SCENARIOS, kill

from outlive.testing.badcalls import fail_everywhere
from outlive.testing.powerloss import lose_power_everywhere, lose_power_twice


def disks() -> dict[str, Any]:
    """Power lost at every write, and at every write of a recovery; each call failing once."""
    once = lose_power_everywhere(os.cpu_count() or 1)
    again = asyncio.run(lose_power_twice())
    failing = fail_everywhere(os.cpu_count() or 1)
    return {
        "states": once.states,
        "distinct": once.distinct,
        "judged": once.judged,
        "states while it recovers": again.states,
        "judged while it recovers": again.judged,
        "runs with a failing call": failing.runs,
        "power losses on top": failing.power_losses,
        "lost": once.lost + again.lost + failing.lost,
        "corrupt": once.corrupt + again.corrupt + failing.corrupt,
        "engine": failing.engine,
        "faults": failing.faults,
    }


FLAWS_MAX = 5
"""Of one scenario: what is told of it in the page."""


def kills() -> dict[str, Any]:
    """Both samples, killed at every commit and again while they recover."""
    counted = dict.fromkeys(("kills", "nested", "lost", "doubled", "stuck", "others"), 0)
    flaws: list[str] = []
    with TemporaryDirectory(dir=MEMORY) as folder, running_server() as postgres:
        for scenario in SCENARIOS:
            for address in ["sqlite://"] if scenario.sql else ["sqlite://", postgres]:
                found = kill(scenario, address, Path(folder), nested=address == "sqlite://")
                for name in counted:
                    counted[name] += getattr(found, name)
                flaws += found.flaws[:FLAWS_MAX]
    return {**counted, "flaws": flaws}


def main() -> int:
    found = kills() if sys.argv[1:] == ["kills"] else disks()
    print(json.dumps(found))
    return int(any(found.get(name) for name in ("lost", "corrupt", "doubled", "stuck", "others")))


if __name__ == "__main__":
    sys.exit(main())
