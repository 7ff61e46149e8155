"""Two instances, and between every two requests one of them is started anew: nobody can tell."""

from __future__ import annotations

from pathlib import Path

import httpx
from tests.http.served import everything, made
from tests.http.site import Instance


class Balancer(httpx.AsyncBaseTransport):
    """Sends request n to the one instance and n + 1 to the other, which was restarted between."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._instances: list[Instance] = []
        self.restarts = 0

    async def start(self) -> Instance:
        face = made(self._address)
        instance = Instance(face.app, face)
        await instance.start()
        self._instances.append(instance)
        return instance

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        instance = self._instances.pop(0)
        await instance.stop()
        self.restarts += 1
        await self.start()
        headers = [(key, value) for key, value in request.headers.raw if key != b"host"]
        return await self._instances[0].http.request(
            request.method, request.url.raw_path.decode(), content=request.content, headers=headers
        )

    async def aclose(self) -> None:
        for instance in self._instances:
            await instance.stop()


async def alone(address: str) -> list[tuple[str, int, str]]:
    """What one instance answers that is never restarted."""
    face = made(address)
    instance = Instance(face.app, face)
    await instance.start()
    try:
        return await everything(instance.http)
    finally:
        await instance.stop()


async def test_two_instances_that_restart_between_requests_answer_as_one_that_does_not(
    tmp_path: Path,
) -> None:
    one = await alone(f"sqlite:///{tmp_path}/one.db")
    balancer = Balancer(f"sqlite:///{tmp_path}/two.db")
    await balancer.start()
    await balancer.start()
    async with httpx.AsyncClient(transport=balancer, base_url="http://localhost:8000") as http:
        two = await everything(http)
    assert [pair for pair in zip(two, one, strict=True) if pair[0] != pair[1]] == []
    assert balancer.restarts > len(one)
