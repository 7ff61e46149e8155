"""Django configured for the tests of this process, and the application that its settings name."""

from __future__ import annotations

import django
from django.conf import settings
from django.test import override_settings as override

from outlive import Outlive
from outlive.adapters import django as adapter

app: Outlive | None = None
"""What `OUTLIVE_APP` leads to; a test sets it."""

if not settings.configured:
    settings.configure(DATABASES={"default": {}})
    django.setup()


__all__ = ["app", "forget", "override", "settings"]


def forget() -> None:
    """What was made of the settings of an earlier test is made anew."""
    adapter.made.clear()
