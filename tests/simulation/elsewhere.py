"""A few seeds, run where nothing lies as it did: their digests must not tell.

    python -m tests.simulation.elsewhere FOLDER SECONDS SEED…

The store lies in `FOLDER`, and memory is littered at random first, so that no object has the
address it had in another run. Prints one digest a line.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from outlive.testing import simulate

LITTER_MAX = 300
LITTER_BYTES_MAX = 512
"""What Python's own allocator hands out: larger things have pages of their own."""


def littered() -> list[bytearray]:
    """Objects of every small size with holes between them."""
    dice = random.SystemRandom()
    sizes: list[int] = []
    for size in range(16, LITTER_BYTES_MAX, 16):
        sizes += [size] * dice.randrange(LITTER_MAX)
    dice.shuffle(sizes)
    return [bytearray(size) for size in sizes][::2]


def main() -> None:
    folder, seconds, *seeds = sys.argv[1:]
    kept = littered()
    simulate.QUICK = Path(folder)
    for seed in map(int, seeds):
        print(simulate.run_case(simulate.Case(seed, seconds=float(seconds))).digest, flush=True)
    assert kept


if __name__ == "__main__":
    main()
