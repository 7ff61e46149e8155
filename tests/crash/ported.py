"""The sign-up on PostgreSQL: its own statements rewritten, and nothing else of it changed."""

from __future__ import annotations

from typing import Any

from examples.signup import app as signup

from outlive import Unknown, step


@step(undo="forget_user")
def add_user(db: Any, id: str, form: signup.Registration) -> None:
    db.execute("INSERT INTO users VALUES ($1, $2, 'pending')", (id, form.email))


def forget_user(db: Any, id: str, form: signup.Registration, made: Unknown | None) -> None:
    db.execute("DELETE FROM users WHERE id = $1", (id,))


def activate(db: Any, account: signup.Account) -> signup.Account:
    db.execute("UPDATE users SET state = 'active' WHERE id = $1", (account.id,))
    return account


for function in (add_user, forget_user, activate):
    setattr(signup, function.__name__, function)

app = signup.app
