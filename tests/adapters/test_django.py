"""A real Django site with two workers: one of sessions, one cache, whichever of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import pytest
from tests.adapters import sites
from tests.doors.programs import ROOT, program, until
from tests.ports import free_port

from outlive import Outlive
from outlive.adapters import django as adapter


@pytest.mark.crash
def test_users_stay_signed_in_whichever_worker_answers_and_dies(tmp_path: Path) -> None:
    address, port = f"sqlite:///{tmp_path}/store.db", free_port()
    env = {"SITE_FOLDER": str(tmp_path), "OUTLIVE_STORE": address}
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    subprocess.run(
        [sys.executable, "-m", "tests.adapters.django_site"], cwd=ROOT, timeout=60, check=True,
        env=os.environ | env | {"PYTHONPATH": paths},
    )  # fmt: skip
    words = ["-m", "gunicorn", "--workers=2", "--threads=4", f"--bind=127.0.0.1:{port}"]
    words += ["--preload", "--log-level=error", "tests.adapters.django_site:site"]
    url = f"http://127.0.0.1:{port}"
    with program(address, *words, env=env), httpx.Client(base_url=url, timeout=30) as browser:
        until(lambda: _answers(url), "the site serves")
        assert browser.get("/add/basket").status_code == 200
        anonymous = browser.cookies["sessionid"]
        assert browser.get("/sign-in/ada").json()["key"] == browser.cookies["sessionid"]
        assert browser.cookies["sessionid"] != anonymous
        stranger = httpx.get(f"{url}/me", cookies={"sessionid": anonymous}).json()
        assert stranger["user"] == "" and stranger["names"] == [], "the key before is dead"

        workers = {httpx.get(f"{url}/count").json()["worker"] for _ in range(4)}

        def seen() -> bool:
            workers.add(httpx.get(f"{url}/count").json()["worker"])
            return len(workers) == 2

        until(seen, "both workers have answered")
        key = {"sessionid": browser.cookies["sessionid"]}
        before = httpx.get(f"{url}/count").json()["count"]
        with ThreadPoolExecutor(10) as threads:
            tries = [threads.submit(_get, f"{url}/add/n{n}", key) for n in range(60)]
            tries += [threads.submit(_get, f"{url}/count", {}) for _ in range(40)]
            os.kill(min(workers), signal.SIGKILL)
            said = [one.result() for one in tries]
        mine = browser.get("/me").json()
        assert mine["user"] == "ada" and "basket" in mine["names"]
        kept = {name for name in mine["names"] if name != "basket"}
        assert {f"n{n}" for n in range(60) if said[n]} <= kept
        after = httpx.get(f"{url}/count").json()["count"]
        assert before + sum(said[60:]) < after <= before + 41
        assert sum(said) > 0
        browser.get("/sign-out")
        assert httpx.get(f"{url}/me", cookies=key).json()["user"] == ""


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/me").status_code == 200
    except httpx.TransportError:
        return False


def _get(url: str, cookies: dict[str, str]) -> bool:
    try:
        return httpx.get(url, cookies=cookies, timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def test_the_application_of_the_settings_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "app", Outlive("memory://"))
    sites.forget()
    with sites.override(OUTLIVE_APP="tests.adapters.sites.app"):
        assert adapter.client() is adapter.client()
        assert adapter.client().app is sites.app
    assert adapter.client_at("memory://") is adapter.client_at("memory://")
    sites.forget()


def test_threads_that_ask_first_at_once_get_one_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Outlive] = []
    making, go_on = threading.Event(), threading.Event()

    def make(address: str) -> Outlive:
        made.append(Outlive(address))
        making.set()
        go_on.wait(60)
        return made[-1]

    monkeypatch.setattr(adapter, "Outlive", make)
    address = f"sqlite:///{tmp_path}/store.db"
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(adapter.client_at, address)
        try:
            assert making.wait(60)
            second = pool.submit(adapter.client_at, address)
            wait((second,), 0.2)
        finally:
            go_on.set()
        assert first.result(60) is second.result(60)
    assert len(made) == 1
    sites.forget()
