"""How a command ends: one line for people, one number for scripts.

    0  done                         3  no such thing
    1  the thing itself failed      4  its state forbids it
    2  the command was misused      5  the store is unavailable, or may not be opened

A user's mistake never shows a traceback; a traceback is a defect of ours and worth reporting.
"""

from __future__ import annotations

from outlive import errors

DONE, FAILED, MISUSED, NOT_FOUND, FORBIDDEN, STORE = range(6)
INTERRUPTED = 130
"""The shell's number for a command that was ended by Ctrl-C."""

_CODES: tuple[tuple[type[errors.OutliveError], int], ...] = (
    (errors.StoreUnavailable, STORE),
    (errors.StoreNotEmpty, FORBIDDEN),
    (errors.StoreInUse, FORBIDDEN),
    (errors.ArchiveDamaged, FAILED),
    (errors.BadPlace, FORBIDDEN),
    (errors.StoreRefused, STORE),
    (errors.NoSuchProcess, NOT_FOUND),
    (errors.ProcessGone, NOT_FOUND),
    (errors.NoSuchState, NOT_FOUND),
    (errors.NoSuchRequest, NOT_FOUND),
    (errors.NotResolvable, FORBIDDEN),
    (errors.TagInvalid, MISUSED),
    (errors.TagNotDeclared, MISUSED),
    (errors.BadJournal, MISUSED),
    (errors.InvalidInput, MISUSED),
    (errors.MalformedInput, MISUSED),
    (errors.TooLarge, MISUSED),
    (errors.Refused, FORBIDDEN),
    (errors.ProcessError, FORBIDDEN),
)


class CommandFailed(Exception):
    """A command did not do what it was asked to; `code` is the exit code, `kind` the error of a
    service elsewhere that it stands for."""

    def __init__(
        self, message: str, code: int = FAILED, kind: type[errors.OutliveError] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind


def exit_code(error: errors.OutliveError) -> int:
    """The exit code that tells a script what kind of error this was."""
    return code_of(type(error))


def kind_of(error: errors.OutliveError | CommandFailed) -> type[Exception]:
    """What kind of error it is, told here or by a service elsewhere."""
    if isinstance(error, CommandFailed):
        return error.kind or CommandFailed
    return type(error)


def code_of(error: type[errors.OutliveError]) -> int:
    """The same for a kind of error."""
    return next((code for kind, code in _CODES if issubclass(error, kind)), FAILED)
