"""The versions that matter in a report."""

import json

from outlive.commands import main
from outlive.commands.version import release


def test_version_names_what_a_report_needs(capsys):
    assert main(["version", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"outlive", "python", "sqlite", "apsw", "system"}


def test_the_flag_that_everybody_tries_works_too(capsys):
    assert main(["version"]) == 0
    told = capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == told


def test_a_package_that_is_not_installed_has_no_release():
    assert release("no-such-package-anywhere") == "source"
