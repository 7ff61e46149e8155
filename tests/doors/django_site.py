"""The shop behind Django: plain views, no event loop of their own."""

from __future__ import annotations

import json
import os
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from tests.doors.shop import client, order

settings.configure(
    SECRET_KEY="only for a test", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DEBUG=False
)
django.setup()


def start(request: HttpRequest) -> Any:
    handle = client.start(order, json.loads(request.body)["what"], key=request.headers.get("Key"))
    return JsonResponse({"id": handle.id, "worker": os.getpid()}, status=202)


def paid(request: HttpRequest, id: str) -> Any:
    client.handle(id).signal("paid", json.loads(request.body))
    return HttpResponse(status=202)


def read(request: HttpRequest, id: str) -> Any:
    handle = client.handle(id)
    status = handle.status()
    return JsonResponse({"status": status, "result": handle.result() if status == "done" else None})


urlpatterns = [
    path("orders", start),
    path("orders/<id>/paid", paid),
    path("orders/<id>", read),
]
site = get_wsgi_application()
