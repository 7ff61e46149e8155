"""The sign-up killed at every commit of its life, with the partner as a ledger in memory.

Run it with `python -m pytest examples/signup`.
"""

import pytest
from examples.signup import app as signup
from msgspec import json

from outlive import NonRetryable

pytestmark = pytest.mark.outlive(store="sqlite://")  # its table speaks SQL
ADA = signup.Registration("Ada", "Lovelace", "ada@example.com")


class Partner:
    """Does everything once for each key, as the real one does."""

    def __init__(self):
        self.customers, self.mails, self.refuses = set(), set(), ""

    async def ask(self, method, path, key="", body=None):
        if path == self.refuses:
            raise NonRetryable("refused")
        if method == "DELETE":
            self.customers.discard(path.rpartition("/")[2])
        else:
            {"/customers": self.customers, "/mails": self.mails}[path].add(key)
        return f"{path[1:-1]}-{key}"


@pytest.fixture
def outlive_app():
    return signup.app


@pytest.fixture
def partner(monkeypatch):
    made = Partner()
    monkeypatch.setattr(signup, "ask", made.ask)
    return made


def users(db):
    return [state for (state,) in db.execute("SELECT state FROM users")]


async def confirm(outlive, handle):
    await outlive.run_until_idle()
    await handle.signal("confirmed", {"newsletter": True})


async def test_who_does_not_confirm_leaves_nothing_but_a_mail(outlive, partner):
    handle = await outlive.start(signup.register, ADA)
    await outlive.advance(hours=23)
    assert json.decode((await handle.view()).data)["stage"] == "waiting for the confirmation"
    assert await signup.app.transact(users) == ["pending"] and len(partner.customers) == 1
    await outlive.advance(hours=2)
    assert await handle.status() == "rolled_back"
    assert await signup.app.transact(users) == [] and partner.customers == set()
    assert len(partner.mails) == 1


def test_a_confirmed_sign_up_survives_every_death(kill_everywhere, partner):
    def check(outcome):
        assert outcome.status == "done" and outcome.result.newsletter
        assert partner.customers == {outcome.id} and len(partner.mails) == 1

    kill_everywhere(signup.register, ADA, client=confirm, check=check, reset=partner.__init__)


def test_a_refused_one_is_undone_wherever_it_is_killed(kill_everywhere, partner):
    def reset():
        partner.__init__()
        partner.refuses = "/mails"

    def check(outcome):
        assert outcome.status == "rolled_back" and partner.customers == set()

    kill_everywhere(signup.register, ADA, check=check, reset=reset)
