"""The soak is for hours; a few seconds of it show that it counts, and that it sees what grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.soak.__main__ import Sample, Soaked, soak

pytestmark = [pytest.mark.crash, pytest.mark.slow]


async def test_some_seconds_of_it_lose_nothing_and_are_counted(tmp_path: Path) -> None:
    found = await soak(tmp_path, 8, clients=4, kill_seconds=2.0, sample_seconds=1.0)
    print(f"\na short soak: {found.line()}")
    assert found.kills >= 1 and found.found.accepted > 0 and len(found.samples) >= 6
    found.found.demand()


async def test_a_soak_whose_killer_has_stopped_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stops(*_: Any) -> None:
        raise TimeoutError("no worker came back")

    monkeypatch.setattr("tests.soak.__main__.kill_now_and_then", stops)
    with pytest.raises(TimeoutError, match="no worker came back"):
        await soak(tmp_path, 60, clients=2, sample_seconds=0.2)


def test_what_grows_is_said() -> None:
    def sampled(number: int) -> Sample:
        memory, files, spent = 50_000_000 + number * 10_000_000, 30 + number * 9, number / 100
        return Sample(number, memory, files, 5 + 2 * number, 80_000_000, 0.1, spent)

    nothing: Any = None
    flaws = Soaked(1.0, 0, [sampled(number) for number in range(9)], nothing).flaws()
    assert [flaw.split(" grew")[0] for flaw in flaws] == [
        "memory", "open files", "threads", "a registration's work", "the write-ahead log",
    ]  # fmt: skip
