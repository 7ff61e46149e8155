"""`outlive doctor`: is this store sound, can it be served from here, and is anybody working on it?

What is looked at stands in `doors/examining.py`; the dashboard asks the same. Each finding is ok,
warn or FAIL, with what to do; a FAIL makes the command fail.
"""

from __future__ import annotations

from outlive.commands.client import At, Where, address_of, ask
from outlive.commands.exits import DONE, FAILED, STORE, exit_code
from outlive.commands.listing import Listing, listed
from outlive.commands.options import ListFormat
from outlive.errors import OutliveError

MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL"}


def doctor(*, at: At = None, output: ListFormat = "table") -> int:
    """Check the store and say what to do."""
    where = at or Where()
    if where.chosen is None:
        address_of(where.store)
    code = DONE
    try:
        findings = ask(where, lambda app: app.examine())
        found = [(item.name, item.level, item.text, item.remedy) for item in findings]
    except OutliveError as error:
        found = [("open", "fail", error.detail, error.remedy)]
        code = exit_code(error)
    names = ("name", "level", "text", "remedy")
    things = [dict(zip(names, item, strict=True)) for item in found]
    rows = [(MARKS[level], name, text, remedy) for name, level, text, remedy in found]
    heads = ("level", "what", "how it is", "what to do")
    listed(Listing(heads, rows, [name for name, *_ in found], things), output)
    failed = any(level == "fail" for _, level, _, _ in found)
    return FAILED if failed and code in (DONE, STORE) else code
