"""The counters of nodes, collected by OpenTelemetry's own reader in a program of its own."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import asyncio, json
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from outlive import Outlive, Run, step

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))

@step
async def part() -> int:
    return 1

async def thing(run: Run) -> int:
    return await run(part)

def found():
    said = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else []:
        for metric in resource.scope_metrics[0].metrics:
            for point in metric.data.data_points:
                said[" ".join([metric.name, *point.attributes.values()])] = point.value
    return said

async def main():
    apps = [Outlive("memory://") for _ in range(2)]
    for app in apps:
        app.process("/things", version=1)(thing)
        await app.open()
        await (await app.start(thing)).result()
    first = found()
    for app in apps:
        await app.close()
    print(json.dumps([first, found()]))

asyncio.run(main())
"""


def test_the_counters_of_all_nodes_of_a_program_are_summed_up() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    said, after = json.loads(ran.stdout)
    assert said["outlive.processes.started"] == 2
    assert said["outlive.processes.ended done"] == 2
    assert said["outlive.step.attempts done"] == 2
    assert said["outlive.step.attempts failed"] == 0
    assert said["outlive.commits"] >= 4 and said["outlive.shards"] == 32
    assert "outlive.processes.active" not in after, "nodes that have stopped have nothing active"
    assert after["outlive.processes.started"] == 2, "and a counter does not go back"
