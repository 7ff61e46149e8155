"""Spans: a trace for each stretch, linked to the start and the sender; nothing when not asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider
from tests.service import Place, until

from outlive import Limit, Outlive, Retry, Run, attempt, step
from outlive.kinds.processes.vocabulary import Started, unpack
from outlive.runtime.tracing import read, written
from outlive.stores.memory import MemoryStore
from outlive.testing import Trial

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@step
async def pay(cents: int) -> int:
    with trace.get_tracer("users").start_as_current_span("asks the bank"):
        return cents


@step(retry=Retry(attempts=2, base_seconds=0), undo="unmake")
def make(name: str) -> str:
    if attempt().number == 1:
        raise LookupError("secret words")
    return name


def unmake(name: str, made: object) -> None: ...


def insert(tables: Any) -> int:
    tables["row"] = 1
    return 1


async def order(run: Run, cents: int) -> int:
    await run(pay, cents)
    await run.sleep(3600)
    await run(pay, cents)
    await run.wait("paid")
    return await run(pay, cents)


async def failing(run: Run) -> None:
    await run(make, "x")
    await run.transact(insert)
    raise ValueError("no")


def trial_of(body: Any, **options: Any) -> Trial:
    app = Outlive("memory://")
    app.process("/orders", version=2, **options)(body)
    return Trial(app, lambda clock: MemoryStore(clock=clock))


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_steps_go_under_the_start_and_behind_a_wait_under_a_linked_trace(
    spans: InMemorySpanExporter,
) -> None:
    async with trial_of(order) as trial:
        handle = await trial.start(order, 5)
        await trial.run_until_idle()
        (start,) = named(spans, "start order")
        (first,) = named(spans, "step pay")
        assert first.parent is not None and start.context is not None
        assert first.parent.span_id == start.context.span_id
        assert facts(first) == {
            "outlive.type": "order", "outlive.version": 2, "outlive.process": handle.id,
            "outlive.step": "pay", "outlive.step_id": "pay", "outlive.attempt": 1,
            "outlive.outcome": "done",
        }  # fmt: skip
        (users,) = named(spans, "asks the bank")
        assert users.parent is not None and first.context is not None
        assert users.parent.span_id == first.context.span_id
        await trial.advance(hours=2)
        (slept,) = named(spans, "resume order")
        assert slept.parent is None and slept.context.trace_id != start.context.trace_id
        assert [link.context.span_id for link in slept.links] == [start.context.span_id]
        second = named(spans, "step pay")[1]
        assert second.parent is not None and second.parent.span_id == slept.context.span_id
        with trace.get_tracer("users").start_as_current_span("a webhook") as sender:
            await handle.signal("paid")
        assert await handle.result() == 5
        woken = named(spans, "resume order")[1]
        kinds = {link.attributes["outlive.link"]: link for link in woken.links if link.attributes}
        assert kinds["signal"].context.span_id == sender.get_span_context().span_id
        assert kinds["start"].context.span_id == start.context.span_id


async def test_each_attempt_and_each_undo_is_a_span_that_keeps_the_words_to_itself(
    spans: InMemorySpanExporter,
) -> None:
    async with trial_of(failing) as trial:
        handle = await trial.start(failing)
        await trial.advance(seconds=5)
        assert await handle.status() == "rolled_back"
    tries = named(spans, "step make")
    assert [facts(span)["outlive.attempt"] for span in tries] == [1, 2]
    assert [facts(span)["outlive.outcome"] for span in tries] == ["failed", "done"]
    assert facts(tries[0])["error.type"] == "LookupError"
    assert len(named(spans, "step insert")) == len(named(spans, "undo unmake")) == 1
    assert not any("secret" in span.to_json() for span in spans.get_finished_spans())


async def test_the_context_of_a_caller_is_kept_with_the_process_and_continued(
    spans: InMemorySpanExporter,
) -> None:
    for options in ({}, {"limit": Limit(concurrency=1)}):
        spans.clear()
        async with trial_of(failing, **options) as trial:
            begun = await trial.app.begin("failing", b"null", caller=PARENT)
            await trial.advance(seconds=5)
            (start,) = named(spans, "start failing")
            assert start.parent is not None and written(start.parent) == PARENT
            kept: Started = unpack("started", bytes((await trial.app.journal(begun.id))[0].data))
            assert start.context is not None and kept.trace == written(start.context)
            assert named(spans, "step make")[0].context.trace_id == start.context.trace_id


async def test_a_take_over_begins_a_trace_that_is_linked(
    spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    place, running = Place(tmp_path), asyncio.Event()

    @step
    async def hang() -> None:
        running.set()
        await until(lambda: named(spans, "start job")[1:], "a second start", 60)

    async def job(run: Run) -> None:
        await run(hang)

    def declare(app: Outlive) -> None:
        app.process("/jobs", version=1)(job)

    first = await place.open(declare)
    handle = await first.start(job)
    await running.wait()
    second = await place.again(first, declare)
    await second.start(job)
    await until(lambda: named(spans, "step hang")[1:], "both have ended")
    (resumed,) = named(spans, "resume job")
    assert facts(resumed)["outlive.why"] == "take-over"
    assert facts(resumed)["outlive.process"] == handle.id
    start = named(spans, "start job")[0]
    assert start.context is not None
    assert [link.context.span_id for link in resumed.links] == [start.context.span_id]
    await place.close()


async def test_a_wake_from_outside_memory_begins_a_trace_that_is_linked(
    spans: InMemorySpanExporter,
) -> None:
    async with trial_of(order) as trial:
        handle = await trial.start(order, 5)
        await trial.advance(seconds=10)
        activations = trial.runtime.activations
        assert not activations.live, "out of memory"
        await trial.advance(hours=1)
        await trial.evict(handle)
        await handle.signal("paid")
        await handle.result()
        whys = [facts(span)["outlive.why"] for span in named(spans, "resume order")]
        assert whys == ["sleep", "wake"]
        assert named(spans, "resume order")[1].links


async def test_without_a_provider_nothing_is_kept_and_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for provider in (None, NoOpTracerProvider()):
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        async with trial_of(failing) as trial:
            assert trial.runtime.activations.telemetry is None
            handle = await trial.start(failing)
            await trial.advance(seconds=5)
            assert b"trace" not in bytes((await trial.app.journal(handle.id))[0].data)


def test_a_context_is_read_back_as_it_was_written_and_nonsense_is_none() -> None:
    context = read(PARENT)
    assert context is not None and written(context) == PARENT and context.is_remote
    for nonsense in ("", "x", PARENT.upper(), PARENT + "x", "00-" + "0" * 32 + PARENT[35:]):
        assert read(nonsense) is None
