"""Every error code leads to its explanation."""

import json

from outlive.commands import main
from outlive.commands.explain import catalogue


def test_a_code_is_explained_by_its_class(capsys):
    assert main(["explain", "OL2004"]) == 0
    told = capsys.readouterr().out
    assert "OL2004 past-pivot" in told
    assert "It was not cancelled and nothing was rolled back." in told
    assert "What to do: Let it finish" in told


def test_a_name_means_the_same_as_a_code(capsys):
    main(["explain", "past-pivot"])
    by_name = capsys.readouterr().out
    main(["explain", "ol2004"])
    assert capsys.readouterr().out == by_name


def test_every_error_with_a_code_can_be_explained(capsys):
    codes = [error.code for error in catalogue()]
    assert len(codes) == len(set(codes)) > 40
    assert "OL4001" in codes, "the errors that only HTTP knows belong to it"
    for code in codes:
        assert main(["explain", code]) == 0


def test_an_unknown_code_gives_3_and_the_nearest(capsys):
    assert main(["explain", "pastpivot"]) == 3
    assert capsys.readouterr().err.strip().endswith("did you mean past-pivot?")


def test_without_a_code_all_are_listed_one_a_line(capsys):
    assert main(["explain"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [error.code for error in catalogue()]


def test_json_says_all_of_it(capsys):
    main(["explain", "OL1021", "-o", "json"])
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "store-full"
    assert told["status"] == 507
    assert told["retryable"] is True
