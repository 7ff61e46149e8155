"""Exported journals in a user's project: each is a test, and one that would drift says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.doors.manual import written_out
from tests.testing.conftest import Shop
from tests.testing.projects import pytest_in, pytest_on

from outlive import Run
from outlive.testing import Drifted, Trial, journals_in, replay_journal
from outlive.testing.journals import Replaying
from outlive.testing.places import Place

RECORDS = """
from pathlib import Path
import shop

async def test_recording(outlive):
    handle = await outlive.start(shop.order, "tea")
    await outlive.run_until_idle()
    text = await outlive.app.export_journal(handle.id)
    Path("journals").mkdir()
    for name in ("one", "two"):
        Path(f"journals/{name}.jsonl").write_text(text)
"""
REPLAYS = """
def test_it_goes_on(exported_journal, replay_journal):
    assert replay_journal(exported_journal).compared == 2

async def test_it_goes_on_awaited(exported_journal, replay_journal):
    await replay_journal(exported_journal)
"""
FORGETS = """
async def test_it_is_not_awaited(exported_journal, replay_journal):
    replay_journal(exported_journal)
"""
WHERE = ("-o", "outlive_journals=journals", "-o", "asyncio_mode=auto")


def test_a_folder_of_journals_is_a_test_for_each(tmp_path: Path) -> None:
    counts, said = pytest_in(tmp_path, "-o", "asyncio_mode=auto", test_records=RECORDS)
    assert counts == {"passed": 1}, said
    (tmp_path / "test_records.py").unlink()
    counts, said = pytest_in(tmp_path, "-v", *WHERE, test_replays=REPLAYS)
    assert counts == {"passed": 4} and "[two]" in said, said
    counts, said = pytest_in(tmp_path, *WHERE, test_replays=FORGETS)
    assert counts["error"] == 2 and "write `await replay_journal" in said, said
    changed = (tmp_path / "shop.py").read_text().replace("run(pack, what)", "run(pack, what * 2)")
    (tmp_path / "shop.py").write_text(changed)
    (tmp_path / "test_replays.py").write_text(REPLAYS)
    counts, said = pytest_on(tmp_path, tmp_path, "-o", "outlive_app=shop:app", *WHERE)
    assert counts == {"failed": 4}, said
    assert 'pack is recorded with arguments ["tea"], the code gives ["teatea"]' in said


def test_a_folder_without_journals_is_an_error(tmp_path: Path) -> None:
    counts, said = pytest_in(tmp_path, "-o", "outlive_journals=none", test_replays=REPLAYS)
    assert not counts.get("passed") and "has 0 journals" in said
    counts, said = pytest_in(tmp_path, test_replays=REPLAYS)
    assert not counts.get("passed") and "Set outlive_journals" in said
    with pytest.raises(ValueError, match="has 0 journals"):
        journals_in(tmp_path)


async def test_a_journal_of_a_trial_is_replayed_on_other_code(shop: Shop, tmp_path: Path) -> None:
    one, two = shop.doing("one"), shop.doing("two")

    async def thing(run: Run) -> None:
        await run(one)
        await run.wait("go")

    body = shop.process(thing)
    place = Place("memory://", tmp_path)
    async with Trial(shop.app, place.store) as trial:
        handle = await trial.start(body)
        await trial.run_until_idle()
        text = await shop.app.export_journal(handle.id)
        assert (await replay_journal(text, shop.app)).fits
    other = Shop()
    again = Shop()

    async def thing(run: Run) -> None:  # type: ignore[no-redef]
        await run.keyed(1)(two)
        raise LookupError("on its way")

    other.process(thing)
    (tmp_path / "one.jsonl").write_text(text)
    assert (await replay_journal(tmp_path / "one.jsonl", other.app)).fits, "it stops at a new step"
    with pytest.raises(Drifted, match=r"no_worker_for_version: thing_.* no body runs thing v1"):
        await replay_journal(text, again.app)
    replaying = Replaying(shop.app)
    replaying(text)
    with pytest.raises(AssertionError, match="await"):
        replaying.close()


RECORDS_FOR_THE_PAGE = """
from pathlib import Path
from orders import order
from polling import Feed, app as feeds, follow
import pytest

async def test_recording(outlive):
    handle = await outlive.start(order, 500)
    await outlive.run_until_idle()
    Path("tests/journals").mkdir(parents=True)
    text = await outlive.app.export_journal(handle.id)
    Path("tests/journals/waits.jsonl").write_text(text)
    await handle.signal("paid")
    assert await handle.result() == "shipped"

@pytest.fixture
def outlive_app(request):
    return feeds if "feed" in request.node.name else __import__("orders").app

async def test_a_feed_is_followed_without_end(outlive):
    handle = await outlive.start(follow, Feed("http://feed"))
    await outlive.advance(days=1)
    view = await handle.view()
    assert view.era == 145 and view.status == "waiting"
    await handle.signal("stop")
    assert await handle.result() == 145
"""


def test_the_programs_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    names = written_out("versions.md", tmp_path)
    assert {"orders.py", "polling.py", "test_journals.py", "test_by_hand.py"} == set(names)
    kept = {name: (tmp_path / name).read_text() for name in names if name.startswith("test_")}
    for name in kept:
        (tmp_path / name).unlink()
    auto = ("-o", "asyncio_mode=auto")
    counts, said = pytest_in(tmp_path, *auto, test_records=RECORDS_FOR_THE_PAGE)
    assert counts == {"passed": 2}, said
    (tmp_path / "test_records.py").unlink()
    for name, text in kept.items():
        (tmp_path / name).write_text(text)
    where = ("-o", "outlive_journals=tests/journals", "-o", "outlive_app=orders:app", *auto)
    counts, said = pytest_on(tmp_path, tmp_path, *where)
    assert counts == {"passed": 2}, said
