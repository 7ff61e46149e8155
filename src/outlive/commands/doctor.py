"""`outlive doctor`: is this store sound, can it be served from here, and is anybody working on it?

What is looked at stands in `doors/examining.py`; the dashboard asks the same. Each finding is ok,
warn or FAIL, with what to do; a FAIL makes the command fail.
"""

from __future__ import annotations

from outlive.commands.client import StoreAddress, address_of, ask
from outlive.commands.exits import DONE, FAILED, STORE, exit_code
from outlive.commands.output import Format, document, table
from outlive.errors import OutliveError

MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL"}


def doctor(*, store: StoreAddress = None, output: Format = "text") -> int:
    """Check the store and say what to do."""
    address_of(store)
    code = DONE
    try:
        findings = ask(store, lambda app: app.examine())
        found = [(item.name, item.level, item.text, item.remedy) for item in findings]
    except OutliveError as error:
        found = [("open", "fail", error.detail, error.remedy)]
        code = exit_code(error)
    if output == "json":
        names = ("name", "level", "text", "remedy")
        document([dict(zip(names, item, strict=True)) for item in found])
    else:
        rows = [(MARKS[level], name, text, remedy) for name, level, text, remedy in found]
        table(("", "what", "how it is", "what to do"), rows)
    failed = any(level == "fail" for _, level, _, _ in found)
    return FAILED if failed and code in (DONE, STORE) else code
