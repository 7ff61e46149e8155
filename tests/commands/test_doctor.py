"""The doctor finds a healthy store healthy, and says what is wrong with a sick one."""

import json


def levels(done):
    return {finding["name"]: finding["level"] for finding in json.loads(done.stdout)}


def test_a_served_store_has_nothing_wrong(shop, outlive, in_shop_folder):
    done = outlive("doctor", "--store", in_shop_folder, "-o", "json")
    assert done.returncode == 0
    assert "fail" not in levels(done).values()
    assert levels(done)["nodes"] == "ok"


def test_a_store_that_nobody_serves_is_a_warning(shop, outlive, in_shop_folder):
    assert shop.running.end() == 0
    done = outlive("doctor", "--store", in_shop_folder, "-o", "json")
    assert done.returncode == 0
    assert levels(done)["nodes"] == "warn"


def test_a_stuck_process_is_named_with_what_to_do(shop, outlive, in_shop_folder):
    id = shop.order(13)
    outlive("process", "cancel", id, "--store", in_shop_folder)
    shop.reaches(id, "stuck")
    told = outlive("doctor", "--store", in_shop_folder).stdout
    (line,) = [line for line in told.splitlines() if " stuck " in line]
    assert line.startswith("warn")
    assert id in line
    assert "outlive process retry" in line


def test_a_file_that_is_no_store_fails(outlive, tmp_path):
    (tmp_path / "photo.db").write_bytes(b"not a database at all, not by a long way" * 100)
    done = outlive("doctor", "--store", "sqlite:///photo.db")
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL")
    assert "Traceback" not in done.stderr


def test_a_store_that_does_not_exist_gives_5(outlive):
    assert outlive("doctor", "--store", "sqlite:///none.db").returncode == 5
