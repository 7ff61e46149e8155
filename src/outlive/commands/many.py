"""One command for many ids: `-` in the place of an id reads them from stdin, one a line.

    outlive process list -o ids --state stuck | outlive process retry -

Each is asked by itself, a few at a time. One that refuses stops nobody else; it is named on stderr
with its reason. The command fails when any did, with the code of the first. A bar is drawn on
stderr where that is a terminal.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from outlive.commands.client import At, ask
from outlive.commands.exits import DONE, MISUSED, CommandFailed, exit_code
from outlive.commands.output import one_line
from outlive.errors import OutliveError

if TYPE_CHECKING:
    from outlive.app import Outlive

IDS_MAX = 100_000
AT_ONCE = 16


def each(id: str, at: At, question: Callable[[Outlive, str], Awaitable[object]], said: str) -> int:
    """Put the question for `id`, or for each id on stdin if that is `-`; prints `ID said`."""
    if id != "-":
        ask(at, lambda app: question(app, id))
        print(f"{id} {said}")
        return DONE
    ids = ids_on_stdin()
    return ask(at, lambda app: _asked(app, ids, question, said))


def ids_on_stdin() -> list[str]:
    """The ids that are piped in, each once. Raises `CommandFailed`."""
    if sys.stdin.isatty():
        raise CommandFailed("- reads ids from a pipe, and nothing is piped in", MISUSED)
    try:
        lines = dict.fromkeys(line.strip() for line in sys.stdin)
    except UnicodeDecodeError:
        raise CommandFailed("what is piped in is not text in UTF-8; nothing was done") from None
    found = [line for line in lines if line]
    if len(found) > IDS_MAX:
        raise CommandFailed(f"{len(found)} ids; at most {IDS_MAX}, nothing was done", MISUSED)
    return found


async def _asked(
    app: Outlive,
    ids: list[str],
    question: Callable[[Outlive, str], Awaitable[object]],
    said: str,
) -> int:
    gate, codes = asyncio.Semaphore(AT_ONCE), list[int]()

    async def one(id: str, done: Callable[[int], None]) -> None:
        async with gate:
            try:
                await question(app, id)
                print(f"{id} {said}")
            except (OutliveError, CommandFailed) as error:
                code = error.code if isinstance(error, CommandFailed) else exit_code(error)
                assert isinstance(code, int)
                codes.append(code)
                print(f"outlive: {one_line(f'{id[:80]}: {error}')}", file=sys.stderr)
            done(1)

    with progress(len(ids), "asked") as done:
        await asyncio.gather(*(one(id, done) for id in ids))
    return codes[0] if codes else DONE


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """What is told of each part that is done: a bar on a terminal (stderr), else nothing."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task(what, total=total)
        yield lambda count: drawn.update(task, advance=count)
