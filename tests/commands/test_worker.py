"""A worker ends in order, whoever asks, and says once why it cannot start."""

import os
import signal

import pytest

from outlive.commands.worker import YOUNG_OBJECTS, Order, Report, say


def test_a_report_that_nobody_waits_for_is_no_error():
    read, write = os.pipe()
    os.close(read)
    say(Order("a:b", 0, 0, write, 1.0), Report(ready=True))
    os.close(write)


DRAINS = """
import asyncio, os

class Service:
    store_address = "memory://"
    phase = "ready"

    def asgi(self):
        return self.answer

    async def drain(self, grace_seconds=20.0):
        self.phase = "draining"
        while not os.path.exists("drained"):
            await asyncio.sleep(0.02)

    async def answer(self, scope, receive, send):
        while scope["type"] == "lifespan":
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'"%s"' % self.phase.encode()})

app = Service()
"""


def test_requests_are_answered_while_it_drains_and_then_it_ends(
    serve, tmp_path, request_json, wait_until
):
    (tmp_path / "drains.py").write_text(DRAINS)
    running = serve("drains:app")
    url = running.url()
    assert "store memory://" in running.said("ready on")
    running.process.terminate()
    wait_until(lambda: request_json(url) == (200, "draining"), "an answer that says draining")
    (tmp_path / "drained").touch()
    assert running.process.wait(60) == 0
    assert running.err.read_text() == ""


COLLECTOR = """
import gc
{}

async def app(scope, receive, send):
    while scope["type"] == "lifespan":
        message = await receive()
        await send({{"type": message["type"] + ".complete"}})
        if message["type"] == "lifespan.shutdown":
            return
    said = b"[%d, %d]" % (gc.get_threshold()[0], gc.get_freeze_count() > 1000)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": said}})
"""


@pytest.mark.parametrize(
    ("own", "young"), [("", YOUNG_OBJECTS), ("gc.set_threshold(50_000)", 50_000)]
)
def test_what_is_in_flight_is_not_gone_through_for_garbage(
    serve, tmp_path, request_json, own, young
):
    (tmp_path / "collected.py").write_text(COLLECTOR.format(own))
    running = serve("collected:app")
    assert request_json(running.url()) == (200, [young, 1])
    running.end()


def test_a_worker_asked_directly_ends_in_order_and_is_replaced(serve, wait_until):
    running = serve()
    (worker,) = running.workers()
    os.kill(worker, signal.SIGTERM)
    running.complained(f"worker {worker} ended with exit status 0; another takes its place")
    running.said("shut down in order")
    running.complained("is ready")


def test_a_store_that_may_not_be_opened_is_one_line_and_5(outlive, in_shop_folder, tmp_path):
    (tmp_path / "photo.db").write_bytes(b"not a database at all, not by a long way" * 100)
    done = outlive("serve", "shop:app", "--port", "0", "--store", "sqlite:///photo.db")
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert "[OL1107]" in line


def test_readiness_is_withdrawn_and_work_handed_on_at_sigterm(
    shop, serve, in_shop_folder, request_json
):
    id = shop.order()
    assert shop.running.end() == 0
    again = type(shop)(serve("shop:face", "--store", in_shop_folder))
    assert request_json(f"{again.url}/readyz")[0] == 200
    assert again.status(id) == "waiting"
    assert again.running.end() == 0
    assert again.running.err.read_text() == ""
