"""The command line: one file per verb, loaded only when it is asked for.

    outlive new NAME               a small project that runs, with its tests
    outlive dev MODULE:APP         serve, and reload when the code changes; keys to kill and prove
    outlive demo                   see a take-over without writing a file
    outlive generate WHAT …        the files of a deployment, worked out from the app
    outlive serve MODULE:APP       run a service: restarts what dies, ends in order
    outlive process …              look at processes, signal, cancel, pause, retry, skip, fork them
    outlive node, type, session, limit, breaker, cache, request …    the other nouns: list, and act
    outlive context list           services elsewhere, for --context
    outlive db …                   migrate, check, back up, restore and move a store
    outlive doctor                 is the store sound, and what to do if not
    outlive explain [CODE]         what an error means and what to do
    outlive openapi MODULE:APP     the API's description, without a store
    outlive completion SHELL       what completes all this in bash, zsh or fish
    outlive version

Results go to stdout, everything said about them to stderr; output that is not for a terminal is
plain and in UTF-8; `-o json` is for programs. How a command ends is drawn in `exits.py`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from outlive.commands.exits import FAILED, INTERRUPTED, MISUSED, CommandFailed, exit_code
from outlive.errors import OutliveError

if TYPE_CHECKING:
    from cyclopts import App

__all__ = ["main"]

_GROUPS = frozenset("process node type session limit breaker cache request context db".split())
_VERBS = {
    "new": "Make a small project that runs, with its tests.",
    "dev": "Serve, and reload when the code changes; keys to kill the worker and to prove it.",
    "demo": "See a process go on after kill -9, without writing a file.",
    "generate": "Write the files of a deployment, worked out from the app.",
    "serve": "Run a service until it is told to end.",
    "process": "Look at processes; signal, cancel, pause, retry, skip and fork them.",
    "node": "Look at the nodes that serve the store.",
    "type": "Look at types of process: what is under way, who runs them.",
    "session": "Look at sessions, and sign out.",
    "limit": "Look at what is used of rate limits, and reset it.",
    "breaker": "Look at breakers; hold them open or closed, reset them.",
    "cache": "Look at caches, and make their values old.",
    "request": "Look at idempotency keys; resolve or forget them.",
    "context": "Look at the services that --context knows.",
    "db": "Migrate, check, back up, restore and move a store.",
    "doctor": "Check the store and say what to do.",
    "explain": "Explain an error code, or list them all.",
    "openapi": "Print an app's OpenAPI document; needs no store.",
    "completion": "Print what completes commands in bash, zsh or fish.",
    "version": "Print the versions that matter in a report.",
}


def command_line() -> App:
    """The commands, none of them loaded yet."""
    from cyclopts import App

    line = App(name="outlive", help="State that outlives its process.", version_flags=())
    for verb, help_text in _VERBS.items():
        if verb in _GROUPS:
            line.command(f"outlive.commands.{verb}:commands", name=verb, help=help_text)
        else:
            line.command(f"outlive.commands.{verb}:{verb}", name=verb, help=help_text)
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code.

    Args:
        arguments: what follows `outlive` on the command line; by default that of this process.
    """
    from cyclopts import CycloptsError, UnusedCliTokensError

    _speak()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not all(_is_text(word) for word in given):
        return _end("an argument is not text in UTF-8; nothing was done", MISUSED)
    if given == ["--version"]:
        given = ["version"]
    try:
        result = command_line()(
            given, exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except UnusedCliTokensError as error:
        words = " ".join(error.unused_tokens or ())
        remedy = "--help says what the command takes"
        return _end(f"{words}: more than the command takes; nothing was done ({remedy})", MISUSED)
    except CycloptsError as error:
        return _end(str(error), MISUSED)
    except CommandFailed as error:
        return _end(str(error), error.code)
    except OutliveError as error:
        return _end(str(error), exit_code(error))
    except BrokenPipeError:
        # The reader has seen enough (`… list | head`): nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _end(f"{place}{error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _speak() -> None:
    """Into a pipe or a file goes UTF-8, and from there it comes, whatever the terminal speaks; a
    terminal gets what it can show. What was given closed leads nowhere, for workers too: else the
    next file that is opened would be taken for it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, mode, encoding="utf-8"))
    for stream in (sys.stdin, sys.stdout):
        if not isinstance(stream, io.TextIOWrapper) or stream.isatty():
            continue
        if stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _end(message: str, code: int) -> int:
    from outlive.commands.output import one_line

    print(f"outlive: {one_line(message)}", file=sys.stderr, flush=True)
    return code
