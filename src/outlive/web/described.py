"""What `answers.py` and `journals.py` add to the OpenAPI document: updates, callbacks, journals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from outlive.codec import Shape
from outlive.kinds.processes.callbacks import CALLBACKS_PATH
from outlive.kinds.processes.seen import Query
from outlive.kinds.processes.updates import Update
from outlive.web import openapi
from outlive.web.journals import JOURNALS_PATH, LINES, WITHIN_SECONDS, WITHIN_SECONDS_MAX
from outlive.web.openapi import Json, Types, takes_null

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes import Definition

QUERIES = (404, 410, 422, 500, 503)
CALLS = (400, 404, 409, 410, 413, 415, 422, 429, 500, 503, 507)
EXPORTS = (401, 403, 404, 409, 410, 500, 503)
IMPORTS = (401, 403, 409, 413, 415, 422, 500, 503, 507)
_TEXT = {"type": "string"}


def journals() -> Json:
    """The paths of whole journals, which are those of all types."""
    text = {"content": {LINES: {"schema": _TEXT}}}
    told = {
        "content": openapi._json(openapi._object({"id": _TEXT})),
        "headers": openapi._headers("Location"),
    }
    seconds = {"type": "number", "minimum": 0, "maximum": WITHIN_SECONDS_MAX}
    asked: list[Json] = [
        {
            "name": "reason",
            "in": "query",
            "required": True,
            "description": "Kept in the activity log, with the name of who asks.",
            "schema": {"type": "string", "maxLength": 500, "pattern": r"\S"},
        },
        {
            "name": "who",
            "in": "query",
            "description": "That name, where nobody has to sign in.",
            "schema": {"type": "string", "maxLength": 200},
        },
        {
            "name": "within",
            "in": "query",
            "description": "Seconds to wait for the node that carries it out.",
            "schema": {**seconds, "default": WITHIN_SECONDS},
        },
    ]
    exported = openapi._operation(
        "journal",
        "export",
        "The journal of a process as lines of JSON, without what is redacted. Viewers.",
        {"200": {"description": "All of it, if its last line has an `end`.", **text},
         **openapi._problems(EXPORTS)},
    )  # fmt: skip
    imported = openapi._operation(
        "journal",
        "import",
        "Take in a process from an exported journal: paused, or ended as it had. Operators.",
        {"201": {"description": "Imported.", **told},
         "202": {"description": "Kept: durable, and imported when a node is there.", **told},
         **openapi._problems(IMPORTS)},
        body={"required": True, **text},
    )  # fmt: skip
    imported["parameters"] += asked
    return {
        f"{JOURNALS_PATH}/{{id}}": {"parameters": [openapi._parameter("id")], "get": exported},
        JOURNALS_PATH: {"post": imported},
    }


class Answers:
    """The paths of what is told to processes and answered."""

    def __init__(self, app: Outlive, types: Types) -> None:
        self._app = app
        self._types = types

    def paths_of(self, definition: Definition) -> Json:
        """Those of one type of process."""
        item = f"{definition.path}/{{id}}"
        found: Json = {}
        for update in definition.updates.values():
            found |= self._update(definition, update, f"{item}/updates/{update.name}")
        for query in self._app.queries_of(definition.name).values():
            found[f"{item}/queries/{query.name}"] = {
                "parameters": [openapi._parameter("id")],
                "get": self._query(definition.name, query),
            }
        if self._app.webhooks is not None:
            found |= self._notices(definition, item)
        return found

    def _notices(self, definition: Definition, item: str) -> Json:
        name, time = definition.name, {"type": "string", "format": "date-time"}
        notice = openapi._object(
            {
                "url": _TEXT,
                "status": {"enum": ["planned", "pending", "delivered", "undelivered"]},
                "attempts": {"type": "integer"},
                "said": _TEXT,
                "dueAt": {"anyOf": [time, {"type": "null"}]},
            }
        )
        return {
            f"{item}/notice": {
                "parameters": [openapi._parameter("id")],
                "get": openapi._operation(
                    name,
                    "notice",
                    "How it stands with telling its end. This machine only.",
                    {
                        "200": {"description": "Now.", "content": openapi._json(notice)},
                        **openapi._problems((401, 403, 404, 409, 410, 500, 503)),
                    },
                ),
            },
            f"{item}/notify": {
                "parameters": [openapi._parameter("id")],
                "post": openapi._operation(
                    name,
                    "notify",
                    "Tell its end once more. This machine only.",
                    {
                        "202": openapi._accepted(name),
                        **openapi._problems((401, 403, 404, 409, 410, 413, 415, 500, 503, 507)),
                    },
                ),
            },
        }

    def start(self, operation: Json) -> None:
        """Add to a start who may be told of the end."""
        if self._app.webhooks is not None:
            operation["parameters"].append(
                {
                    "name": "Outlive-Notify",
                    "in": "header",
                    "description": "An https address that is told of the end by a signed POST.",
                    "schema": {"type": "string", "format": "uri", "maxLength": 2000},
                }
            )

    def callbacks(self) -> Json:
        """The one path of all callbacks."""
        told = openapi._object({"status": {"enum": ["taken", "kept", "replayed"]}})
        answer = {"content": openapi._json(told)}
        token = {"name": "token", "in": "path", "required": True, "schema": _TEXT}
        return {
            f"{CALLBACKS_PATH}{{token}}": {
                "parameters": [token],
                "post": {
                    "operationId": "callback",
                    "summary": "Say what a process waits for, once. The token is all that is asked"
                    " for.",
                    "tags": ["service"],
                    "responses": {
                        "200": {"description": "Recorded.", **answer},
                        "202": {"description": "Kept: durable, not recorded yet.", **answer},
                        **openapi._problems(CALLS),
                    },
                    "requestBody": openapi._body({}, required=True),
                },
            }
        }

    def _update(self, definition: Definition, update: Update[Any, Any], path: str) -> Json:
        name, takes = definition.name, self._schema(update.takes)
        standing = openapi._object(
            {
                "id": _TEXT,
                "update": {"const": update.name},
                "key": _TEXT,
                "status": {"enum": ["accepted", "answered", "refused", "unanswered"]},
                "links": {"type": "object", "additionalProperties": _TEXT},
            }
        )
        standing["properties"] |= {
            "answer": self._schema(update.gives),
            "askedAt": {"type": "string", "format": "date-time"},
            "problem": {"type": "object"},
        }
        content = {"content": openapi._json(standing)}
        located = {**content, "headers": openapi._headers("Location", "Preference-Applied")}
        key = {"name": "key", "in": "path", "required": True, "schema": _TEXT}
        return {
            path: {
                "parameters": [openapi._parameter("id")],
                "post": openapi._operation(
                    name,
                    f"update.{update.name}",
                    f"Ask it to {update.name}: accepted durably, and answered once for each key.",
                    {
                        "200": {"description": "Answered.", **located},
                        "202": {"description": "Accepted: the answer comes there.", **located},
                        **openapi._problems(openapi.SIGNALS),
                    },
                    parameters=("Idempotency-Key", "Prefer"),
                    body=openapi._body(takes, required=not takes_null(update.takes)),
                ),
            },
            f"{path}/{{key}}": {
                "parameters": [openapi._parameter("id"), key],
                "get": openapi._operation(
                    name,
                    f"update.{update.name}.status",
                    f"How it stands with a {update.name}.",
                    {
                        "200": {"description": "As it is durable now.", **content},
                        **openapi._problems(openapi.READS),
                    },
                    parameters=("Prefer",),
                ),
            },
        }

    def _query(self, name: str, query: Query) -> Json:
        answer = openapi._json(self._schema(query.gives))
        made = openapi._operation(
            name,
            f"query.{query.name}",
            f"Ask it for {query.name}: computed from what is durable; nothing changes.",
            {
                "200": {"description": "Computed.", "content": answer},
                **openapi._problems(QUERIES),
            },
        )
        for parameter, (kind, default) in query.parameters.items():
            required = query.is_required(parameter)
            schema = self._schema(Shape(kind))
            if not required:
                plain = msgspec.json.decode(msgspec.json.encode(default, enc_hook=str))
                schema = {**schema, "default": plain}
            made["parameters"].append(
                {"name": parameter, "in": "query", "required": required, "schema": schema}
            )
        return made

    def _schema(self, shape: Shape) -> Json:
        self._types.add(shape)
        return self._types.schema(shape)
