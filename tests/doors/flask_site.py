"""The shop behind Flask: plain views, no event loop of their own."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, jsonify, request
from tests.doors.shop import client, order

site = Flask(__name__)
if os.environ.get("CALL_BEFORE_FORK"):
    client.processes()  # a thread and a store that no forked worker may use


@site.post("/orders")
def start() -> Any:
    handle = client.start(order, request.get_json()["what"], key=request.headers.get("Key"))
    return jsonify(id=handle.id, worker=os.getpid()), 202


@site.post("/orders/<id>/paid")
def paid(id: str) -> Any:
    client.handle(id).signal("paid", request.get_json())
    return "", 202


@site.get("/orders/<id>")
def read(id: str) -> Any:
    handle = client.handle(id)
    status = handle.status()
    return jsonify(status=status, result=handle.result() if status == "done" else None)
