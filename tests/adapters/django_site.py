"""A Django site with users: who is signed in, and what is cached, lies in our store."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

FOLDER = Path(os.environ["SITE_FOLDER"])
settings.configure(
    SECRET_KEY="only for a test",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "users.db"}},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    OUTLIVE_STORE=os.environ["OUTLIVE_STORE"],
    SESSION_ENGINE="outlive.adapters.django_sessions",
    CACHES={"default": {"BACKEND": "outlive.adapters.django_cache.OutliveCache"}},
)
django.setup()

from django.contrib.auth import authenticate, login, logout  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.cache import cache  # noqa: E402


def sign_in(request: HttpRequest, name: str) -> Any:
    user = authenticate(request, username=name, password="secret")
    if user is None:
        return JsonResponse({}, status=401)
    login(request, user)
    return JsonResponse({"key": request.session.session_key})


def sign_out(request: HttpRequest) -> Any:
    logout(request)
    return JsonResponse({})


def add(request: HttpRequest, name: str) -> Any:
    request.session[name] = True
    return JsonResponse({})


def me(request: HttpRequest) -> Any:
    names = [name for name in request.session.keys() if name[:1] != "_"]  # noqa: SIM118
    user = request.user.get_username()
    return JsonResponse({"user": user, "names": sorted(names), "worker": os.getpid()})


def count(request: HttpRequest) -> Any:
    cache.add("count", 0, None)
    return JsonResponse({"count": cache.incr("count"), "worker": os.getpid()})


urlpatterns = [
    path("sign-in/<name>", sign_in),
    path("sign-out", sign_out),
    path("add/<name>", add),
    path("me", me),
    path("count", count),
]
if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    User.objects.create_user("ada", password="secret")
    sys.exit()
site = get_wsgi_application()
