"""A hook for schemathesis: each request under a key of its own.

Schemathesis draws the same few keys again and again, and a used key with another body is refused as
it must be, although nothing is wrong with either of them.
"""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import schemathesis

from outlive.web.openapi import PARAMETERS

FITTING = re.compile(PARAMETERS["Idempotency-Key"]["schema"]["pattern"])

_numbers = count()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Put a fresh key in the place of one that fits."""
    for name, value in (case.headers or {}).items():
        if name.lower() == "idempotency-key" and FITTING.fullmatch(str(value)):
            case.headers[name] = f'"{next(_numbers)}"'
