"""What the service says about itself: problems and their pages, metrics, OpenAPI."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx
import msgspec
from tests.crash.service import until
from tests.http.site import Instance

ROOT = Path(__file__).resolve().parents[2]


async def test_every_problem_has_a_page(http: httpx.AsyncClient) -> None:
    described = (await http.get("/openapi.json")).json()
    for problem in described["x-problems"]:
        page = await http.get(problem["page"])
        assert page.status_code == 200, problem
        assert problem["code"] in page.text
    wrong = await http.post("/orders", content=b"{")
    page = await http.get(wrong.json()["type"])
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")


async def test_metrics_count_what_was_done_and_answered(instance: Instance) -> None:
    for _ in range(3):
        place = await instance.begin("/greetings", {"givenName": "Ada"})
        await instance.reaches(place, "done")
    await instance.http.post("/greetings", json={})

    async def all_counted() -> httpx.Response | None:
        found = await instance.http.get("/metrics")
        return found if 'ended_total{status="done"} 3\n' in found.text else None

    answer = await until(all_counted, "each end is counted")  # a moment after it is recorded
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line[:1] != "#")
    assert lines["outlive_processes_started_total"] == "3"
    assert lines['outlive_processes_ended_total{status="done"}'] == "3"
    kind = 'type="greeting",request="POST /greetings"'
    assert lines[f'outlive_http_answers_total{{{kind},status="201"}}'] == "3"
    assert lines[f'outlive_http_answers_total{{{kind},status="422"}}'] == "1"
    assert answer.text.endswith("# EOF\n")
    assert place.rpartition("/")[2] not in answer.text


async def test_the_description_is_the_same_with_and_without_a_store(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    path = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    nowhere = f"sqlite:///{tmp_path}/none/store.db"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "outlive.commands", "openapi", "tests.http.shop:shop"),
        env={**os.environ, "PYTHONPATH": path, "OUTLIVE_STORE": nowhere},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    served = (await http.get("/openapi.json")).json()
    assert served.pop("servers") == [{"url": "/"}]
    assert msgspec.json.decode(printed) == served
    assert not (tmp_path / "none").exists()
