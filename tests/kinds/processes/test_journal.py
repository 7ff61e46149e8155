"""The fold that replay stands on: identity first, then order and arguments; undos in reverse."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from outlive.kinds.processes import Failure, Journal
from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.vocabulary import SleepBegan, StepDone, WaitBegan, WaitDone

ERROR = Failure("E", "m")


def fold(*events: Any) -> Journal:
    journal = Journal()
    for number, event in enumerate(events):
        journal.apply(event, 1000 + number)
    return journal


def done(id: str, order: int, undo: str = "", error: Failure | None = None) -> StepDone:
    return StepDone(id, id, order, "h", 0, error=error, undo=undo)


def test_a_recorded_step_is_found_with_nothing_against_it() -> None:
    journal = fold(done("a", 0), done("b", 1))
    assert journal.find("a", StepDone, "h")[1] == journal.find("b", StepDone, "h")[1] == ""
    assert journal.find("c", StepDone, "h") == (None, "")


def test_other_arguments_another_kind_and_another_order_speak_against_it() -> None:
    journal = fold(done("a", 0), done("b", 1))
    assert "recorded with arguments h, the code gives x" in journal.find("a", StepDone, "x")[1]
    assert "recorded as a step" in journal.find("b", WaitBegan)[1]
    journal.find("b", StepDone, "h")
    assert "asks for it later" in journal.find("a", StepDone, "h")[1]


def test_each_branch_has_an_order_of_its_own() -> None:
    journal = fold(done("a1", 0), done("b1", 1), done("a2", 2))
    for id, branch in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        assert journal.find(id, StepDone, "h", branch)[1] == ""


def test_a_new_step_is_ordered_behind_all_or_beside_what_is_recorded_behind_it() -> None:
    journal = fold(done("a", 0), done("b", 1))
    journal.find("a", StepDone, "h")
    assert journal.ask("inserted") == 0
    journal.apply(done("inserted", 0), 5)
    assert journal.find("b", StepDone, "h")[1] == ""
    assert journal.ask("appended") == 2


def test_a_rename_is_seen_and_an_insertion_is_not_taken_for_one() -> None:
    journal = fold(done("old", 0))
    assert "no step of that name is declared" in journal.renamed("new", {"new"})
    assert journal.renamed("new", {"new", "old"}) == ""


def test_a_forgotten_step_matters_only_if_it_can_be_undone() -> None:
    assert fold(done("a", 0)).forgotten() == ""
    assert "can be undone" in fold(done("a", 0, "undo")).forgotten()


def test_signals_are_taken_once_and_the_earliest_first() -> None:
    journal = fold(
        words.Signal("x", Raw(b"1")), words.Signal("y"), words.Signal("x", Raw(b"2"), "key")
    )
    assert journal.free_signal("x") == 0 and journal.waiting_signals() == 3
    journal.apply(WaitBegan("wait x", "x", 0, None, 0), 1)
    assert journal.free_signal("x") == 2 and journal.waiting_signals() == 2
    assert journal.keys == {"key"} and journal.open_wait("x") is None
    journal.apply(WaitBegan("wait z", "z", 1), 1)
    assert journal.open_wait("z") is not None
    journal.apply(WaitDone("wait z"), 1)
    assert journal.open_wait("z") is None


def test_it_knows_when_each_open_wait_and_sleep_ends() -> None:
    journal = fold(SleepBegan("s", 0, 50), SleepBegan("t", 1, 10), WaitBegan("w", "x", 2, 30))
    assert sorted(journal.dues()) == [10, 30, 50]
    journal.apply(words.Woke("t"), 1)
    journal.apply(WaitDone("w"), 1)
    assert journal.dues() == [50]


def test_the_time_of_the_start_is_kept_whatever_comes_without_an_id() -> None:
    journal = fold(words.Started("p", "t", 1, Raw(b"1")), words.StateSet(Raw(b"2")), words.Pivot())
    assert journal.times[""] == 1000


@given(st.permutations(range(6)), st.integers(0, 6))
def test_undos_come_in_reverse_order_of_completion_and_each_once(
    order: list[int], undone: int
) -> None:
    steps = [done(f"s{number}", number, "undo") for number in order]
    unknown = (words.Armed("u", "u", "undo"),)
    journal = fold(*steps, words.Compensating(ERROR, False, unknown))
    expected = ["u", *(f"s{number}" for number in reversed(order))]
    assert [armed.id for armed in journal.armed()] == expected
    for id in expected[:undone]:
        journal.apply(words.Undone(id, id, 0), 1)
    assert [armed.id for armed in journal.armed()] == expected[undone:]


def test_a_step_that_failed_is_undone_as_unknown() -> None:
    assert fold(done("a", 0, "undo", ERROR)).armed()[0].result is None


def test_crashes_count_until_something_is_recorded() -> None:
    crash = words.Taken("n", 1, True)
    assert fold(crash, crash).crashes == 2
    assert fold(crash, crash, done("a", 0)).crashes == 0
    assert fold(crash, words.Taken("n", 2)).crashes == 0


def test_an_operator_s_retry_forgets_what_had_given_up() -> None:
    journal = fold(done("a", 0, error=ERROR), words.Stuck(ERROR, "a"), words.Resumed())
    assert journal.find("a", StepDone, "h") == (None, "") and journal.stuck is None


# --- branches and what is decided about them ------------------------------------------------------


def decided(**more: Any) -> words.Decided:
    return words.Decided("gather", "gather", 9, "a/", ERROR, **more)


def test_a_branch_begins_where_its_body_was_and_the_body_goes_on_behind_it() -> None:
    journal = fold(done("one", 0), done("a/x", 1), done("b/x", 2), done("two", 3))
    journal.find("one", StepDone, "h")
    for branch in ("a/", "b/"):
        journal.fork(branch, None)
        assert journal.find(f"{branch}x", StepDone, "h", branch)[1] == ""
    journal.join(["a/", "b/"], None)
    assert journal.places == {None: 2}
    journal.fork("late/", None)
    assert "asks for it later" in journal.find("one", StepDone, "h", "late/")[1]


def test_new_steps_of_branches_are_placed_among_what_is_recorded_behind_them() -> None:
    """However many branches ask for something new before any of them finds what is recorded."""
    journal = fold(*(done(f"{branch}/x", order) for order, branch in enumerate("abc")))
    for branch in "abc":
        assert journal.ask(f"{branch}/new", branch) == -1
    for branch in "abc":
        assert journal.find(f"{branch}/x", StepDone, "h", branch)[1] == ""
    assert journal.ask("behind") == 3


def test_a_rename_is_looked_for_in_the_branch_that_asks() -> None:
    journal = fold(done("a/old", 0), done("b/x", 1))
    assert journal.renamed("b/new", {"b/x"}, "b/", "b/") == ""
    assert "a/old is recorded next" in journal.renamed("a/new", {"b/x"}, "a/", "a/")


def test_what_was_decided_closes_what_was_open_and_arms_what_was_under_way() -> None:
    armed = words.Armed("b/s", "s", "unmake", Raw(b"[]"))
    journal = fold(
        done("a", 0, "undo"),
        WaitBegan("b/wait x", "x", 1, 50),
        SleepBegan("b/sleep", 2, 60),
        decided(unknown=(armed,), waits=("b/wait x", "b/sleep")),
    )
    assert journal.dues() == [] and journal.open_wait("x") is None and journal.waits_for() == ""
    assert next((one.id, one.result) for one in journal.armed()) == ("b/s", None)
    assert journal.find("b/s", StepDone, "other")[1] == "", "nobody has seen its arguments"
    assert journal.closed == {"b/s", "b/wait x", "b/sleep"}


def test_branches_that_have_lost_are_not_asked_for() -> None:
    journal = fold(done("a/x", 0, "undo"), done("b/x", 1, "undo"), decided())
    journal.find("a/x", StepDone, "h", "a/")
    assert "b/x is recorded and can be undone" in journal.forgotten()
    journal.close("b/")
    assert journal.forgotten() == ""


def test_a_retry_of_the_step_that_decided_opens_again_what_was_closed() -> None:
    armed = words.Armed("b/s", "s", "unmake")
    failed = done("a/s", 1, error=ERROR)
    journal = fold(
        WaitBegan("b/wait x", "x", 0), failed, decided(unknown=(armed,), waits=("b/wait x",))
    )
    assert journal.waits_for() == ""
    for event in (words.Stuck(ERROR, "a/s"), words.Resumed()):
        journal.apply(event, 1)
    assert set(journal.records) == {"b/wait x"} and not journal.closed
    assert journal.waits_for() == "x"
