"""Services elsewhere, by name: where each is, and the token that opens it.

    # ~/.config/outlive/contexts.toml (OUTLIVE_CONTEXTS names another file), mode 0600
    [production]
    url = "https://shop.example"
    token_file = "production.token"     # beside this file, mode 0600 too
    # or: token_env = "SHOP_TOKEN"      # or: token = "…"; or none, on this machine

A token is never taken from the command line, where every user of the machine can read it, and never
printed. It is sent over https only, or to this machine itself.
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from outlive.commands.exits import FORBIDDEN, MISUSED, NOT_FOUND, CommandFailed

FILE_BYTES_MAX = 1024 * 1024
MEMBERS = frozenset(("url", "token", "token_file", "token_env"))


@dataclass(frozen=True)
class Context:
    """One service: its address without a slash at the end, and the token, empty where none is
    needed."""

    name: str
    url: str
    token: str = field(default="", repr=False)


def place() -> Path:
    """Where the file of contexts is."""
    if named := os.environ.get("OUTLIVE_CONTEXTS"):
        return Path(named)
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "outlive" / "contexts.toml"


def context_of(name: str) -> Context:
    """The context called `name`. Raises `CommandFailed` with what is wrong with it."""
    known = names()
    if name not in known:
        said = ", ".join(sorted(known)) or "none"
        raise CommandFailed(
            f"there is no context {name!r} in {place()}; there are: {said}", NOT_FOUND
        )
    found = known[name]
    if unknown := sorted(set(found) - MEMBERS):
        raise CommandFailed(f"context {name}: {unknown[0]!r} is not known; {_said()}", MISUSED)
    given = {key: found[key] for key in sorted(found)}
    if wrong := [key for key, value in given.items() if not isinstance(value, str) or not value]:
        raise CommandFailed(f"context {name}: {wrong[0]} must be a text", MISUSED)
    if len(given.keys() - {"url"}) > 1:
        raise CommandFailed(
            f"context {name}: one of token_file, token_env and token, not more", MISUSED
        )
    return Context(name, _url_of(name, given.get("url", "")), _token_of(name, given))


def names() -> dict[str, dict[str, Any]]:
    """What the file says, by name. Raises `CommandFailed`."""
    text = private(place(), "a file of contexts")
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CommandFailed(f"{place()} is not TOML: {error}", MISUSED) from None
    for name, value in found.items():
        if not isinstance(value, dict):
            raise CommandFailed(f"{place()}: {name} is no table; write [NAME] and url = …", MISUSED)
    return found


def private(path: Path, what: str) -> str:
    """The text of a file that nobody else may read. Raises `CommandFailed`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CommandFailed(f"{what} is not at {path}: {error.strerror}", NOT_FOUND) from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_BYTES_MAX:
            raise CommandFailed(f"{path} is not {what}", MISUSED)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise CommandFailed(
                f"{path} can be read or changed by others: chmod 600 it, and own it; "
                "it was not used",
                FORBIDDEN,
            )
        try:
            return file.read().decode()
        except UnicodeDecodeError:
            raise CommandFailed(f"{path} is not text in UTF-8", MISUSED) from None


def _token_of(name: str, given: dict[str, str]) -> str:
    if "token_file" in given:
        path = place().parent / Path(given["token_file"]).expanduser()
        token = private(path, f"the token of context {name}").strip()
    elif "token_env" in given:
        token = os.environ.get(given["token_env"], "").strip()
        if not token:
            raise CommandFailed(f"context {name}: {given['token_env']} is not set", MISUSED)
    else:
        token = given.get("token", "")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise CommandFailed(f"the token of context {name} is not one word of ASCII", MISUSED)
    return token


def _url_of(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise CommandFailed(f"context {name}: url must be https://HOST…", MISUSED)
    if parts.username is not None or parts.query or parts.fragment:
        raise CommandFailed(
            f"context {name}: the url has more than a host, a port and a path; "
            "a token stands in token_file",
            MISUSED,
        )
    if parts.scheme == "http" and not _is_local(host):
        raise CommandFailed(
            f"context {name}: {host} is another machine, so the url must be https; "
            "nothing was sent",
            MISUSED,
        )
    return url.rstrip("/")


def _is_local(host: str) -> bool:
    parts = host.split(".")
    numbers = len(parts) == 4 and all(part.isdecimal() for part in parts)
    return host in ("localhost", "::1") or (numbers and parts[0] == "127")


def _said() -> str:
    return "url and one of token_file, token_env, token"
