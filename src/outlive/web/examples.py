"""The examples of answers in the description of the service.

Each is made by what makes the answer, so none has a member that is never sent.

    NAME.begun · .done · .accepted   of each process: just started, ended, told something
    Problem.400 …                    one problem of each status, for all of them

A value of a caller's type is drawn from its schema; where the type itself does not take that (it
has a pattern, say) the input is null and the result left out. No store is asked, and no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlive import errors
from outlive.dashboard.samples import sample
from outlive.kinds.processes import AttemptView, PastState, StepView, fresh_view
from outlive.web import problems
from outlive.web.processes import accepted, representation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outlive.codec import Shape
    from outlive.errors import OutliveError
    from outlive.kinds.processes import Definition, View
    from outlive.web.openapi import Json, Types

AT = 1_790_000_000_000_000
"""When everything begins, in microseconds since 1970 UTC."""
TOOK = 42_000
"""How long it goes on, in microseconds."""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
NODE = "web-1-7k2m9x4q"
UNIQUE = "7k2m9x4q8r5t1v6w3y0z5b8c2d"
"""What stands in a public id behind its prefix."""
PROBLEMS: dict[int, OutliveError] = {
    400: errors.MalformedInput("The body is not valid JSON: it ends too early."),
    401: problems.SignInNeeded(),
    403: problems.LocalOnly(),
    404: errors.NoSuchProcess(),
    409: errors.ProcessTerminal(),
    410: errors.ProcessGone(),
    413: problems.BodyTooLarge(),
    415: problems.UnsupportedMediaType(),
    422: errors.InvalidInput("Expected `int`, got `str` - at `$.count`"),
    429: errors.TooManySignals(),
    500: errors.OutcomeUnknown(),
    503: errors.Draining(),
    507: errors.StoreFull(),
}
"""A problem of each status."""


def of_all(definitions: Sequence[Definition], types: Types) -> Json:
    """The examples by their names, as a component of the document."""
    found: Json = {}
    place = "/"
    for definition in reversed(definitions):
        id = f"{definition.prefix}_{UNIQUE}"
        place = f"{definition.path}/{id}"
        given = _fitting(definition.input_type, types)
        begun = fresh_view(id, definition, Raw(given or b"null"), NODE, AT)
        result = _fitting(definition.output_type, types)
        found |= _of(definition.name, "begun", representation(begun, place, ""))
        found |= _of(definition.name, "done", representation(_ended(begun, result), place, ""))
        found |= _of(definition.name, "accepted", accepted(id, definition.name, place))
    for status, error in PROBLEMS.items():
        body = problems.members(error, instance=place, root="", trace=TRACE)
        found |= _of("Problem", str(status), msgspec.json.encode(body))
    return found


def of(name: str, what: str) -> Json:
    """What an answer has beside its schema: one of these examples."""
    return {"examples": {what: {"$ref": f"#/components/examples/{name}.{what}"}}}


def _of(name: str, what: str, body: bytes) -> Json:
    return {f"{name}.{what}": {"value": msgspec.json.decode(body)}}


def _ended(begun: View, result: bytes | None) -> View:
    ended = AT + TOOK
    attempts = (AttemptView(1, AT, ended, "done", node=NODE),)
    return replace(
        begun,
        status="done",
        seq=3,
        result=None if result is None else Raw(result),
        changed=ended,
        ended=ended,
        history=(*begun.history, PastState("done", ended)),
        steps=(StepView("a_step", "step", AT, ended, "done", attempts),),
    )


def _fitting(shape: Shape, types: Types) -> bytes | None:
    """A value of `shape`; None where none was found."""
    body = msgspec.json.encode(sample(types.schema(shape), types.components))
    try:
        shape.read(body)
    except Exception:  # what a caller's own validation raises is not ours to choose
        return None
    return body
