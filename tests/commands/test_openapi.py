"""The API's description comes from the declarations alone."""

import json


def test_it_is_printed_without_a_store(outlive, in_shop_folder, tmp_path):
    for target in ("shop:app", "shop:face"):
        done = outlive("openapi", target)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["openapi"].startswith("3.1")
        assert "/orders/{id}" in told["paths"]
    assert not list(tmp_path.glob("**/*.db"))


def test_an_app_that_is_not_ours_cannot_be_described(outlive, tmp_path):
    (tmp_path / "other.py").write_text("async def app(scope, receive, send): pass\n")
    done = outlive("openapi", "other:app")
    assert done.returncode == 2
    assert "not made by an Outlive" in done.stderr
