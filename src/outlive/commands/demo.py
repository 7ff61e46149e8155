"""`outlive demo`: see it happen, without writing a file.

    a service with two workers on a store in a temporary folder
      ├ three parcels are sent on their way, and each recorded step is told
      ├ the worker that runs the first one is killed (kill -9)
      ├ the other takes over: when, and where each parcel goes on
      └ what was done outside is counted

It then serves on, for the dashboard, until Ctrl-C; with --once it ends by itself. The folder goes
with it. What it runs is an ordinary module: templates/demo/parcels.py, as you would write it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import webbrowser
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from outlive.clock import Clock
from outlive.commands.developing import keys
from outlive.commands.exits import FAILED
from outlive.commands.generating.files import rendered
from outlive.commands.serve import Port, Supervisor, listen

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes import View

MODULE = "outlive_demo_parcels"
WORKERS, GRACE_SECONDS = 2, 5.0
PARCELS = ("a lamp", "a kettle", "a chair")
STEPS_BEFORE_KILL = 2
LOOK_SECONDS = 0.03
WITHIN_SECONDS = 60.0
"""For each part of the demonstration; then something is wrong, and it says so."""

Flag = Annotated[bool, Parameter(negative="")]


def demo(*, port: Port = 0, once: Flag = False, open: Flag = False) -> int:
    """See a process go on after kill -9, without writing a file.

    Parameters
    ----------
    port
        The port to listen on; 0 takes any free one.
    once
        End when everything was shown, instead of serving on for the dashboard.
    open
        Open the dashboard in a browser.
    """
    listener = listen("127.0.0.1", port)
    try:
        with tempfile.TemporaryDirectory(prefix="outlive-demo-") as folder:
            place = Path(folder)
            outside = place / "outside"
            (outside / "done").mkdir(parents=True)
            (place / f"{MODULE}.py").write_text(rendered("demo/parcels.py.jinja", {}), "utf-8")
            path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
            os.environ |= {
                "OUTLIVE_STORE": f"sqlite:///{place / 'store.db'}",
                "OUTLIVE_DEMO_OUTSIDE": str(outside),
                "PYTHONPATH": path,
            }
            shown = Demonstration(listener, outside, once=once, open_browser=open)
            return asyncio.run(shown.run())
    finally:
        listener.close()


class Demonstration(Supervisor):
    """Two workers, and somebody who tells what becomes of them. `outside` is what steps act on."""

    def __init__(
        self, listener: socket.socket, outside: Path, *, once: bool, open_browser: bool
    ) -> None:
        super().__init__(f"{MODULE}:app", listener, WORKERS, GRACE_SECONDS)
        self.outside = outside
        self.once = once
        self.open_browser = open_browser
        self.address = "http://{}:{}".format(*self.listener.getsockname()[:2])
        self.clock = Clock()
        self._told: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        self._telling: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Show it; gives the exit code."""
        with keys.pressed(self._key):
            try:
                return await super().run()
            finally:
                if self._telling is not None:
                    self._telling.cancel()
                    await asyncio.gather(self._telling, return_exceptions=True)

    def announce(self, store: str) -> None:
        """Begin to tell: everything serves."""
        tell(f"Two workers serve {self.address}: {self._pids()}.")
        tell(f"The dashboard: {self.address}/outlive")
        if self.open_browser:
            webbrowser.open(f"{self.address}/outlive")
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    def tell_death(self, pid: int, status: int) -> None:
        """Nothing: the one who kills says so."""

    def tell_successor(self, pid: int) -> None:
        """Say that there are two again."""
        tell(f"A new worker serves in its place: {pid}.")

    def _pids(self) -> str:
        return " and ".join(str(pid) for pid in sorted(self.serving))

    def _key(self, key: str) -> None:
        if key in ("q", "\x04"):
            self.leaving.set()
        elif key == "k" and self.serving:
            self.kill(self.serving[0])

    def kill(self, pid: int) -> None:
        """SIGKILL a worker, and say so."""
        tell(f"kill -9 {pid}")
        self._signal(self.alive[pid], signal.SIGKILL)

    # --- telling ----------------------------------------------------------------------------------

    async def _tell(self) -> None:
        from outlive.app import Outlive

        app = Outlive(os.environ["OUTLIVE_STORE"])
        try:
            await app.open_client()
            try:
                await self._show(app)
            finally:
                await app.close()
        except Exception as error:  # whatever it is: who waits for the end must not wait for ever
            tell(f"This should not have happened: {type(error).__name__}: {error}")
            self.code = FAILED
            self.leaving.set()
            return
        if self.once:
            self.leaving.set()
            return
        tell("")
        tell(
            "It serves on. Look at the dashboard; k kills a worker, Ctrl-C ends it and removes all."
        )

    async def _show(self, app: Outlive) -> None:
        tell("")
        tell("Three parcels. Each step does something outside, and is recorded when it is done.")
        for parcel in PARCELS:
            id = await asyncio.to_thread(_send, f"{self.address}/parcels", parcel)
            self._names[id] = parcel
        first = next(iter(self._names))
        await self._until(app, lambda views: len(views[first].steps) >= STEPS_BEFORE_KILL)
        victim = _pid_of((await app.view(first)).node)
        if victim not in self.serving:  # its shard moved this moment: any of them will do
            victim = self.serving[0]
        tell("")
        tell(f"Now the worker is killed that runs {PARCELS[0]}, in the middle of a step.")
        before = {id: (await app.view(id)).takeovers for id in self._names}
        began = self.clock.boot()
        self.kill(victim)
        await self._until(
            app, lambda views: any(views[id].takeovers > count for id, count in before.items())
        )
        tell(
            f"Taken over after {self.clock.boot() - began:.2f} s. Recorded steps are not run again."
        )
        await self._until(app, lambda views: all(view.final for view in views.values()))
        self._count()

    async def _until(self, app: Outlive, met: Callable[[dict[str, View]], bool]) -> None:
        """Tell each new record until `met`. Raises `TimeoutError`."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while True:
                views = {id: await app.view(id) for id in self._names}
                for id, view in views.items():
                    self._tell_records(id, view)
                if met(views):
                    return
                await asyncio.sleep(LOOK_SECONDS)

    def _tell_records(self, id: str, view: View) -> None:
        done = [each for each in view.steps if each.outcome == "done"]
        for each in done[self._told[id] :]:
            tell(f"  {self._names[id]:<9} {each.name:<8} done by {_pid_of(view.node)}")
        self._told[id] = max(self._told[id], len(done))

    def _count(self) -> None:
        done = len(list((self.outside / "done").iterdir()))
        asked = len((self.outside / "asked").read_text("utf-8").splitlines())
        wanted = len(PARCELS) * len(STEPS)
        tell("")
        tell(f"Counted outside: {done} things done of {wanted}, none of them twice.")
        if asked > done:
            tell(f"Asked for {asked} times: what was cut off was asked again, with the same key.")
        if done != wanted:
            tell("That is wrong.")
            self.code = FAILED


STEPS = ("weigh", "charge", "label", "load", "deliver")


def _pid_of(node: str) -> int:
    """The process behind a node's name."""
    digits = node.removeprefix("n").partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def _send(address: str, parcel: str) -> str:
    """POST a parcel; gives the id of its process."""
    import json
    import urllib.request

    body, kind = json.dumps(parcel).encode(), {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=30) as answer:
        return str(json.load(answer)["id"])


def tell(line: str) -> None:
    """Print a line of the story."""
    print(line, flush=True)
