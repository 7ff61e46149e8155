"""Each template makes a project whose own tests are green; what cannot be made is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def ran_in(folder: Path, *which: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT / "src"), os.environ.get("PYTHONPATH", "")))
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", *which],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=170,
    )  # fmt: skip


@pytest.mark.parametrize("template", ["django", "fastapi", "script", "starlette"])
def test_what_is_made_passes_its_own_tests(outlive, tmp_path, template):
    done = outlive("new", "shop", "--template", template)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "shop").iterdir()}
    said = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("shop/")]
    assert {Path(name).name for name in said} == made and len(said) == len(made)
    assert all(len(line.split()) > 2 for line in done.stdout.splitlines() if line[:5] == "shop/")
    # The process and its tests are the same files in all of them: once is enough.
    which = () if template == "starlette" else ("test_app.py",)
    ran = ran_in(tmp_path / "shop", *which)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not (tmp_path / "shop" / ".outlive").exists(), "its tests leave no store behind"


def test_a_folder_that_holds_anything_is_left_alone(outlive, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine").write_text("mine")
    done = outlive("new", "shop")
    assert done.returncode == 4
    assert done.stderr == "outlive: shop is not empty; nothing was written\n"
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["mine"]
    (tmp_path / "file").write_text("mine")
    assert outlive("new", "file").returncode == 4
    (tmp_path / "empty").mkdir()
    assert outlive("new", "empty", "--template", "script").returncode == 0


@pytest.mark.parametrize("name", ["", "../shop", "1shop", "a b", "class", "json", "outlive"])
def test_a_name_that_would_not_do_is_refused(outlive, tmp_path, name):
    done = outlive("new", name)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_template_is_refused(outlive, tmp_path):
    done = outlive("new", "shop", "--template", "flask")
    assert done.returncode == 2 and "starlette" in done.stderr
    assert list(tmp_path.iterdir()) == []
