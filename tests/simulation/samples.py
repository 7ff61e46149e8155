"""The two samples, killed before and after every commit of theirs, and again while they recover.

    scenario     a process of a sample, a client who does what a person would, and a world outside
    death        before or after the k-th commit; nested: and again at each commit of the recovery

The world keeps what was done under each key. At the end of a run each of these is asked for:

    lost       what the process says it did has not been done, or was not kept
    doubled    something was done twice: two effects for one step of one process
    stuck      the process has not ended

`make crash` runs everything and prints it; a slice is in test_samples.py.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from examples.orders import app as orders
from examples.signup import app as signup
from msgspec import Struct

from outlive import NonRetryable, Outlive
from outlive.clock import Clock
from outlive.kinds.processes import FINAL
from outlive.testing.killing import KillEverywhere, Outcome

MEMORY = Path("/dev/shm")


class Killings(Struct, frozen=True):
    """What came of killing one scenario everywhere."""

    sample: str
    store: str
    commits: int
    kills: int
    """Runs with one death."""
    nested: int
    """Runs with two: the second one while it recovered."""
    lost: int
    doubled: int
    stuck: int
    others: int
    """What an oracle of outlive found; the killing ends there."""
    seconds: float
    flaws: tuple[str, ...] = ()


class World:
    """What a scenario does to the outside, by what and by key; it deduplicates by key."""

    def __init__(self) -> None:
        self.done: dict[str, set[str]] = {}

    def clear(self) -> None:
        self.done.clear()

    def standing(self) -> Counter[str]:
        return Counter({what: len(keys) for what, keys in self.done.items() if keys})


class Scenario(Struct, frozen=True):
    """`ends` is how it must end, and with which `effects` standing."""

    name: str
    app: Outlive
    body: Callable[..., Any]
    value: Any
    client: Callable[[Any, Any], Any] | None
    ends: str
    effects: dict[str, int]
    standing: Callable[[], Counter[str]]
    reset: Callable[[], None]
    sql: bool = False
    """Its own tables speak SQLite."""


# --- the sign-up ----------------------------------------------------------------------------------

partner = World()
refusing: set[str] = set()
ADA = signup.Registration("Ada", "Lovelace", "ada@example.com")


async def ask(method: str, path: str, key: str = "", body: Any = None) -> str:
    """The partner of the sign-up, in memory: as the real one it does everything once for a key."""
    if path in refusing:
        raise NonRetryable("refused")
    if method == "DELETE":
        partner.done.get("/customers", set()).discard(path.rpartition("/")[2])
    else:
        partner.done.setdefault(path, set()).add(key)
    return f"{path[1:-1]}-{key}"


async def confirm(outlive: Any, handle: Any) -> None:
    await outlive.run_until_idle()
    await handle.signal("confirmed", {"newsletter": True})


def refuse_mails() -> None:
    partner.clear()
    refusing.add("/mails")


def well() -> None:
    partner.clear()
    refusing.clear()


# --- the orders -----------------------------------------------------------------------------------


def line(article: str, cents: int) -> orders.Line:
    return orders.Line(article=article, count=1, cents=cents)


LARGE = orders.Order(
    customer="Ada", address="12 Square", lines=[line("loom", 200_000), line("tea", 300)]
)
SOLD_OUT = orders.Order(
    customer="Ada", address="12 Square", lines=[line("tea", 300), line("unicorn", 1)]
)


async def approve(outlive: Any, handle: Any) -> None:
    await handle.signal("approved", {"by": "Charles", "granted": True})
    await outlive.run_until_idle()
    if "12 Square" in orders.carrier:
        token = orders.carrier["12 Square"].rpartition("/")[2]
        await outlive.app.call_back(token, b'{"carrier": "Post", "parcel": "p1"}')


def shop() -> Counter[str]:
    """Of the shop's places: each is keyed, so two entries for one article are two effects."""
    found = Counter(f"reserved {article}" for article in orders.warehouse.values())
    found.update(f"paid {cents}" for cents in orders.bank.values())
    found.update(f"pick-up at {address}" for address in orders.carrier)
    return found


def closed() -> None:
    for place in (orders.warehouse, orders.bank, orders.carrier):
        place.clear()


SCENARIOS = (
    Scenario(
        "sign-up, confirmed", signup.app, signup.register, ADA, confirm, "done",
        {"/customers": 1, "/mails": 1}, partner.standing, well, True,
    ),
    Scenario(
        "sign-up, refused by the partner", signup.app, signup.register, ADA, None, "rolled_back",
        {}, partner.standing, refuse_mails, True,
    ),
    Scenario(
        "order, approved and shipped", orders.app, orders.place, LARGE, approve, "done",
        {"reserved loom": 1, "reserved tea": 1, "paid 200300": 1, "pick-up at 12 Square": 1},
        shop, closed,
    ),
    Scenario(
        "order, sold out", orders.app, orders.place, SOLD_OUT, None, "rolled_back", {}, shop, closed
    ),
)  # fmt: skip


# --- killing --------------------------------------------------------------------------------------


def kill(
    scenario: Scenario, address: str, folder: Path, *, nested: bool, only: str | None = None
) -> Killings:
    """Kill one scenario at every commit, or only at `only`; blocks."""
    clock = Clock()
    began = clock.boot()
    flaws: dict[str, list[str]] = {"lost": [], "doubled": [], "stuck": [], "others": []}
    deaths: list[str] = []

    def check(outcome: Outcome) -> None:
        deaths.append(outcome.deaths)
        where = f"killed at {outcome.deaths or 'nothing'}"
        if outcome.status not in FINAL:
            flaws["stuck"].append(f"{where}: it is {outcome.status}")
        elif outcome.status != scenario.ends:
            flaws["lost"].append(f"{where}: it is {outcome.status}, not {scenario.ends}")
        standing = scenario.standing()
        for what in sorted(standing.keys() | scenario.effects.keys()):
            count, wanted = standing[what], scenario.effects.get(what, 0)
            if count != wanted:
                kind = "doubled" if count > wanted else "lost"
                flaws[kind].append(f"{where}: {what} stands {count} times, not {wanted}")

    murder = KillEverywhere(scenario.app, address, folder)
    try:
        with signed_up():
            murder(
                scenario.body,
                scenario.value,
                client=scenario.client,
                check=check,
                reset=scenario.reset,
                nested=nested,
                only=only,
            )
    except AssertionError as error:
        flaws["others"].append("\n".join((str(error), *getattr(error, "__notes__", ()))))
    finally:
        murder.close()
    # A second death that was not reached leaves a run with the first one alone: counted once.
    once = {death for death in deaths if death and "/" not in death}
    return Killings(
        sample=scenario.name,
        store=address.partition(":")[0],
        commits=max((int(death.partition("-")[0]) for death in once), default=0),
        kills=len(once),
        nested=sum("/" in death for death in deaths),
        lost=len(flaws["lost"]),
        doubled=len(flaws["doubled"]),
        stuck=len(flaws["stuck"]),
        others=len(flaws["others"]),
        seconds=clock.boot() - began,
        flaws=tuple(f"{kind}: {flaw}" for kind, found in flaws.items() for flaw in found),
    )


@contextmanager
def signed_up() -> Iterator[None]:
    """The sign-up's partner is the one in this module."""
    plain = signup.ask
    signup.ask = ask
    try:
        yield
    finally:
        signup.ask = plain


def said(found: Killings) -> str:
    return (
        f"{found.sample} on {found.store}: {found.commits} commits, {found.kills} kills, "
        f"{found.nested} nested deaths; lost {found.lost}, doubled {found.doubled}, stuck "
        f"{found.stuck}, other {found.others}; {found.seconds:.0f} s"
    )


def main() -> int:
    """Everything on SQLite, nested; what speaks no SQL of its own on PostgreSQL, once."""
    from tests.postgres_server import running_server

    code = 0
    with TemporaryDirectory(dir=MEMORY) as folder, running_server() as postgres:
        for scenario in SCENARIOS:
            places = ["sqlite://"] if scenario.sql else ["sqlite://", postgres]
            for address in places:
                found = kill(scenario, address, Path(folder), nested=address == "sqlite://")
                print(said(found), *found.flaws[:20], sep="\n  ", flush=True)
                code |= bool(found.flaws)
    return code


if __name__ == "__main__":
    sys.exit(main())
