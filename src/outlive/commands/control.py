"""What an operator asks with `outlive process`: of one process by its id, of many by a filter.

    pause ID · resume ID            stop at the next durable point; go on where it was
    retry ID [--now]                what has given up, afresh; or the next attempt at once
    skip ID [STEP] --value JSON     declare a step that fails as done (--error TEXT: as failed)
    deadline ID SECONDS             when it must have ended; `none` lifts it
    fork ID AT [--input JSON]       another process goes on from there

    cancel --status stuck --type order --preview      which ones would that be?
    cancel --token TOKEN                              those, exactly
    cancel --status stuck --type order --yes          both at once

`cancel`, `pause`, `resume` and `retry` take a filter in the place of the id. Who asked is the name
of who is logged in; why is `--reason`. With `-` in the place of the id, the
ids are read from stdin.
"""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from cyclopts import App, Parameter

from outlive.clock import Clock, rfc3339
from outlive.commands.client import At, ask
from outlive.commands.exits import FORBIDDEN, MISUSED, CommandFailed
from outlive.commands.many import each, progress
from outlive.commands.options import OrStdin, Reason
from outlive.commands.output import lines, printable
from outlive.commands.searching import moment_of, pairs_of
from outlive.doors.controlling import SECONDS_MAX

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes.bulk import Preview, Report

AppName = Annotated[str | None, Parameter(name="--app")]


@Parameter(name="*")
@dataclass
class Selection:
    """Which processes, where no id is given."""

    status: Annotated[str | None, Parameter(name=["--status", "--state"])] = None
    """Only those in this state."""
    type: str | None = None
    """Only those of this type."""
    version: int | None = None
    """Only those of this version."""
    tag: tuple[str, ...] = ()
    """Only those with this tag, as NAME=VALUE; several must all be theirs."""
    since: str | None = None
    """Only those started since: 2h or 3d (ago), or 2026-11-22T07:00:00Z."""
    until: str | None = None
    """Only those started before."""
    older_than: float | None = None
    """Only those that were started at least this many seconds ago."""
    limit: int = 1000
    """At most this many (1 to 10000), the newest."""
    preview: bool = False
    """Show how many they are, and a token; do nothing."""
    yes: bool = False
    """Do it to all that are found."""
    token: str | None = None
    """Do it to those of a preview."""

    @property
    def given(self) -> bool:
        return bool(self.status or self.type or self.tag or self.token)


def register(commands: App) -> None:
    """Add these commands to `outlive process`."""
    for command in (cancel, pause, resume, retry, skip, deadline, fork):
        commands.command(command)


def cancel(
    id: Annotated[str | None, OrStdin] = None,
    /,
    *,
    reason: Reason = "",
    many: Selection | None = None,
    at: At = None,
) -> int | None:
    """Cancel a process: what it did is undone, unless it is past its pivot.

    Parameters
    ----------
    id
        The public id; - for those on stdin, one a line; without it a filter.
    reason
        Kept in its journal with your name.
    """
    if id is None:
        return _many("cancel", many, reason, at)
    return _one(
        id, many, at, lambda app, id: app.cancel(id, reason=reason, who=who()), "is asked to cancel"
    )


def pause(
    id: Annotated[str | None, OrStdin] = None,
    /,
    *,
    why: Reason = "",
    many: Selection | None = None,
    at: At = None,
) -> int | None:
    """Let a process stop at its next durable point; a step under way ends and is recorded.

    Parameters
    ----------
    id
        The public id; - for those on stdin, one a line; without it a filter.
    why
        Kept in its journal with your name.
    """
    if id is None:
        return _many("pause", many, why, at)
    return _one(
        id, many, at, lambda app, id: app.pause(id, why=why, who=who()), "is asked to pause"
    )


def resume(
    id: Annotated[str | None, OrStdin] = None,
    /,
    *,
    why: Reason = "",
    many: Selection | None = None,
    at: At = None,
) -> int | None:
    """Let a paused process go on where it was.

    Parameters
    ----------
    id
        The public id; - for those on stdin, one a line; without it a filter.
    why
        Kept in its journal with your name.
    """
    if id is None:
        return _many("resume", many, why, at)
    return _one(
        id, many, at, lambda app, id: app.resume(id, why=why, who=who()), "is asked to go on"
    )


def retry(
    id: Annotated[str | None, OrStdin] = None,
    /,
    *,
    now: bool = False,
    step: str = "",
    why: Reason = "",
    many: Selection | None = None,
    at: At = None,
) -> int | None:
    """Go on with a process that is stuck or paused, what gave up tried afresh.

    Parameters
    ----------
    id
        The public id; - for those on stdin, one a line; without it a filter.
    now
        Instead: make the next attempt of what waits for one at once.
    step
        With --now: of this step only.
    why
        Kept in its journal with your name.
    """
    if id is None:
        if step:
            raise CommandFailed("--step is of one process: name it by its id", MISUSED)
        return _many("retry_now" if now else "retry", many, why, at)
    return _one(
        id,
        many,
        at,
        lambda app, id: app.retry(id, now=now, step=step, why=why, who=who()),
        "is asked to go on",
    )


def skip(
    id: str,
    step: str = "",
    /,
    *,
    value: str = "null",
    error: str | None = None,
    undo: bool = True,
    why: Reason = "",
    app: AppName = None,
    at: At = None,
) -> None:
    """Declare a step that is stuck or between attempts as settled; an undo, as done.

    Parameters
    ----------
    id
        The public id.
    step
        As the process shows it; without it the only one that fails. `undo charge` is an undo.
    value
        What it gives, as JSON.
    error
        Declare it as failed instead, with this message.
    undo
        Whether its undo is called, should the process roll back (--no-undo: it is not).
    why
        Kept in its journal with your name.
    app
        MODULE:APP, to check the value here against the step's type; its owner does in any case.
    """
    given = read_json("value", value)
    ask(
        at,
        lambda asked: asked.skip(
            id, step, value=given, error=error, with_undo=undo, why=why, who=who()
        ),
        app,
    )
    lines((f"{id} is asked to skip {step or 'the step that fails'}",))


def deadline(
    id: Annotated[str, OrStdin], seconds: str, /, *, why: Reason = "", at: At = None
) -> int:
    """Say anew when a process must have ended.

    Parameters
    ----------
    id
        The public id.
    seconds
        From now, above 0; `none` lifts it.
    why
        Kept in its journal with your name.
    """
    try:
        wanted = None if seconds == "none" else float(seconds)
    except ValueError:
        raise CommandFailed(
            f"{seconds!r} is neither a number of seconds nor none", MISUSED
        ) from None
    if wanted is not None and not 0 < wanted <= SECONDS_MAX:
        raise CommandFailed(
            f"{seconds} seconds is no deadline: it must be above 0, 100 years at most", MISUSED
        )
    said = f"is asked to end {'whenever' if wanted is None else f'within {wanted:g} s'}"
    return each(id, at, lambda app, one: app.deadline(one, wanted, why=why, who=who()), said)


def fork(
    id: str,
    at: str,
    /,
    *,
    input: str | None = None,
    version: int | None = None,
    cancel: bool = False,
    why: Reason = "",
    app: AppName = None,
    where: At = None,
) -> None:
    """Start a process that goes on with what another has done before a step; prints its id.

    Parameters
    ----------
    id
        The public id of the other one.
    at
        The first step, wait or sleep that is done anew, as the process shows it.
    input
        The input as JSON; the other one's without it.
    version
        The version it runs under; the other one's without it.
    cancel
        Cancel the other one, which has not ended.
    why
        Kept in both journals with your name.
    app
        MODULE:APP, to check the input against what it declares.
    """
    given = {} if input is None else {"input": read_json("input", input)}

    async def question(asked: Outlive) -> str:
        handle = await asked.fork(
            id, at, version=version, cancel=cancel, why=why, who=who(), **given
        )
        return handle.id

    lines((ask(where, question, app),))


# --- many -----------------------------------------------------------------------------------------


def _many(verb: str, many: Selection | None, why: str, at: At) -> int | None:
    """Show which ones a filter finds, or ask them."""
    if many is None or not many.given:
        raise CommandFailed(
            "name a process by its id, or many by --status, --type or --tag", MISUSED
        )
    if many.token and many != Selection(token=many.token, yes=many.yes):
        raise CommandFailed(
            "--token stands for what its preview showed; leave out the rest", MISUSED
        )
    if not many.token and many.preview is many.yes:
        raise CommandFailed("say --preview to see which ones, or --yes to do it at once", MISUSED)

    tags, now = pairs_of(many.tag), Clock().wall()

    async def question(app: Outlive) -> tuple[Preview | None, Report | None]:
        preview, token = None, many.token
        if token is None:
            preview = await app.bulk(
                verb,
                status=many.status,
                type=many.type,
                version=many.version,
                tags=tags,
                started_since=moment_of(many.since, now),
                started_until=moment_of(many.until, now),
                older_than=many.older_than,
                limit=many.limit,
            )
            token = preview.token
        if many.preview:
            return preview, None
        total = 0 if preview is None else preview.count
        with progress(total, "asked") as told:
            report = await app.carry_out(
                token, verb=verb, who=who(), why=why, progress=_steps(told)
            )
        return preview, report

    preview, report = ask(at, question)
    if report is None:
        lines(_shown(verb, cast("Preview", preview), at))
        return None
    refused = (f"{one.id}  {one.code}  {one.why}" for one in report.refusals)
    lines(printable(line) for line in refused)
    said = f"{report.asked} of {report.count} were asked to {report.verb.replace('_', ' ')}"
    print(f"{said}, {report.refused} refused", file=sys.stderr)
    return FORBIDDEN if report.refused and not report.asked else None


def _steps(told: Callable[[int], None]) -> Callable[[Report], None]:
    """Tells how much further each report has come."""
    before = 0

    def told_of(report: Report) -> None:
        nonlocal before
        told(report.looked_at - before)
        before = report.looked_at

    return told_of


def _shown(verb: str, preview: Preview, at: At) -> list[str]:
    command = "retry --now" if verb == "retry_now" else verb
    found = [*preview.ids]
    if preview.count > len(found):
        found.append(f"… and {preview.count - len(found)} more")
    limit = ", the limit: there are more" if preview.more else ""
    return [
        *found,
        f"{preview.count} processes{limit}; nothing is done yet. Until {rfc3339(preview.expires)}:",
        f"  outlive process {command} --token {preview.token}{_there(at)}",
    ]


def _there(at: At) -> str:
    """The same place for a command that follows; an address with a password is not repeated."""
    if at is None or not (at.store or at.context):
        return ""
    if at.context:
        return f" --context {shlex.quote(at.context)}"
    address = at.store or ""
    secret = "@" in address or "password" in address
    return f" --store {'…' if secret else shlex.quote(address)}"


def _one(
    id: str,
    many: Selection | None,
    at: At,
    question: Callable[[Outlive, str], Awaitable[object]],
    said: str,
) -> int:
    if many not in (None, Selection()):
        raise CommandFailed(f"{id} is one process: leave out the filter, or the id", MISUSED)
    return each(id, at, question, said)


def read_json(name: str, text: str) -> Any:
    """A value that was typed as JSON. Raises `CommandFailed`."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandFailed(f"--{name} is not JSON: {error}", MISUSED) from None


def who() -> str:
    """Who sits at the keyboard, for the journal."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"
