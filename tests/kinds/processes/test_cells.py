"""A process's cell lies in its shard, and is found by its marks."""

from __future__ import annotations

from outlive.kinds.processes.cells import Head, put_head, read_head, ref_of
from outlive.model import Ref, shard_of


def test_a_head_lies_in_its_shard_and_can_be_listed_by_time_status_and_type() -> None:
    ref = ref_of("reg_1", 16)
    assert ref == Ref(f"process/{shard_of('reg_1', 16)}", "reg_1")
    put = put_head(ref, Head("s", "register", 1, "done", 17), 5)
    assert read_head(put.value).status == "done" and put.due == 5
    marks = dict(put.marks)
    assert marks["process.status"] == "done 0000000000000017"
    assert sorted(marks) == ["process.status", "process.type"]
