"""Sessions decided on a dict of cells, against a model: a dict with two clocks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, Struct
from tests.kinds.worlds import World

from outlive.clock import MICROS
from outlive.errors import SessionReadOnly, SessionTooLarge
from outlive.kinds.sessions.cookies import COOKIE_BYTES_MAX, Cookie
from outlive.kinds.sessions.decisions import (
    SESSIONS,
    SUBJECTS,
    Command,
    End,
    EndAll,
    Epoch,
    Load,
    Look,
    Make,
    Record,
    Reply,
    Rotate,
    Save,
    SessionKind,
    Touch,
    hint_of,
    is_id,
    key_of,
    read_record,
    write_record,
)
from outlive.kinds.sessions.denials import Check, DenialKind, Deny
from outlive.kinds.sessions.visit import Held, Session

IDLE, ABSOLUTE, TOUCH, DEVICES = 600, 3600, 60, 3


class Open(Struct):
    """What the model knows of a session."""

    subject: str
    data: dict[str, int]
    made: int
    seen: int
    end: int


class Model:
    """A dict with two clocks."""

    def __init__(self) -> None:
        self.open: dict[str, Open] = {}

    def alive(self, now: int) -> dict[str, Open]:
        return {
            key: one
            for key, one in self.open.items()
            if now < min(one.seen + IDLE * MICROS, one.end)
        }


KEYS = [f"{number:064x}" for number in range(6)]
SUBJECTS_OF = ["", "ada", "bob"]
key, subject = st.sampled_from(KEYS), st.sampled_from(SUBJECTS_OF)
name, number = st.sampled_from("abc"), st.integers(0, 3)
ACTIONS = st.one_of(
    st.tuples(st.just("make"), subject, name, number),
    st.tuples(st.just("save"), key, name, number),
    st.tuples(st.just("forget"), key, name),
    st.tuples(st.just("touch"), key),
    st.tuples(st.just("rotate"), key, subject),
    st.tuples(st.just("end"), key),
    st.tuples(st.just("end all"), subject),
    st.tuples(st.just("wait"), st.sampled_from([1, 59, 61, 300, 599, 601, 1800, 3601])),
    st.tuples(st.just("sweep")),
)


class Pair:
    """The kind and the model, told the same things."""

    def __init__(self) -> None:
        kind = SessionKind(IDLE, ABSOLUTE, TOUCH, DEVICES)
        self.world: World[Command, Reply] = World(kind)
        self.model = Model()
        self.drawn = 0
        self.names: dict[str, str] = {}
        """The newest session under each of the few names that actions use."""

    def fresh(self) -> str:
        self.drawn += 1
        return f"{self.drawn:064x}"

    def key(self, name: str) -> str:
        return self.names.get(name, name)

    def act(self, action: tuple[Any, ...]) -> None:
        kind, *rest = action
        getattr(self, "_" + kind.replace(" ", "_"))(*rest)
        self.check()

    def check(self) -> None:
        """What is open is open, what is not is not, and no id of the model's dead lives."""
        alive = self.model.alive(self.world.now)
        for one in self.model.open:
            found = self.world.do(Load(one)).found
            assert (found is None) == (one not in alive), one
            if found is not None:
                data = {name: msgspec.json.decode(raw) for name, raw in found.data.items()}
                wanted = alive[one]
                assert (found.subject, data) == (wanted.subject, wanted.data)
                assert (found.seen, found.end) == (wanted.seen, wanted.end)
        for who in SUBJECTS_OF[1:]:
            listed = self.world.do(Look(who)).keys
            theirs = {key for key, one in alive.items() if one.subject == who}
            assert theirs <= set(listed) and len(listed) <= DEVICES

    def _with_room(self, ask: Any) -> Reply:
        evict = ""
        for _ in range(DEVICES + 1):
            reply: Reply = ask(evict)
            if not reply.evict:
                self.model.open.pop(evict, None)
                return reply
            evict = reply.evict
        raise AssertionError("there is never room")

    def _make(self, subject: str, name: str, number: int) -> None:
        key, now = self.fresh(), self.world.now
        data = {name: Raw(b"%d" % number)}
        self._with_room(lambda evict: self.world.do(Make(key, subject, data, evict=evict)))
        self.model.open[key] = Open(subject, {name: number}, now, now, now + ABSOLUTE * MICROS)
        self.names[KEYS[self.drawn % len(KEYS)]] = key

    def _save(self, key: str, name: str, number: int) -> None:
        key = self.key(key)
        one = self.model.alive(self.world.now).get(key)
        found = self.world.do(Save(key, {name: Raw(b"%d" % number)})).found
        assert (found is None) == (one is None)
        if one is not None:
            one.data[name], one.seen = number, self.world.now

    def _forget(self, key: str, name: str) -> None:
        key = self.key(key)
        self.world.do(Save(key, {}, (name,)))
        one = self.model.alive(self.world.now).get(key)
        if one is not None:
            one.data.pop(name, None)
            one.seen = self.world.now

    def _touch(self, key: str) -> None:
        key = self.key(key)
        one = self.model.alive(self.world.now).get(key)
        writes = self.world.writes
        self.world.do(Touch(key))
        late = one is not None and self.world.now - one.seen >= TOUCH * MICROS
        assert self.world.writes == writes + late
        if one is not None and late:
            one.seen = self.world.now

    def _rotate(self, key: str, subject: str) -> None:
        key, fresh, now = self.key(key), self.fresh(), self.world.now
        one = self.model.alive(now).get(key)
        was = "" if one is None else one.subject
        reply = self._with_room(
            lambda evict: self.world.do(Rotate(key, fresh, was, subject, evict=evict))
        )
        assert (reply.found is None) == (one is None)
        if one is not None:
            self.model.open.pop(key, None)
            end = one.end if subject == was else now + ABSOLUTE * MICROS
            made = one.made if subject == was else now
            self.model.open[fresh] = Open(subject, one.data, made, now, end)
            self.names[KEYS[self.drawn % len(KEYS)]] = fresh
            assert self.world.do(Load(key)).found is None

    def _end(self, key: str) -> None:
        key = self.key(key)
        one = self.model.open.pop(key, None)
        self.world.do(End(key, "" if one is None else one.subject))
        assert self.world.do(Save(key, {"a": Raw(b"1")})).found is None

    def _end_all(self, subject: str) -> None:
        if not subject:
            return
        reply = self.world.do(Look(subject))
        assert self.world.do(EndAll(subject, ("x",))).again == bool(reply.keys)
        self.world.do(EndAll(subject, reply.keys))
        for key in [key for key, one in self.model.open.items() if one.subject == subject]:
            del self.model.open[key]

    def _wait(self, seconds: int) -> None:
        self.world.now += seconds * MICROS

    def _sweep(self) -> None:
        self.world.sweep()
        alive = self.model.alive(self.world.now)
        assert len(self.world.values(SESSIONS)) == len(alive)


@settings(max_examples=100)
@given(st.lists(ACTIONS, max_size=40))
def test_sessions_are_what_a_dict_with_two_clocks_is(actions: list[tuple[Any, ...]]) -> None:
    pair = Pair()
    for action in actions:
        pair.act(action)
    pair.world.now += (ABSOLUTE + 1) * MICROS
    pair.world.sweep()
    assert pair.world.values(SESSIONS) == [] and pair.world.values(SUBJECTS) == []


def test_a_save_that_saw_another_value_is_refused_and_one_that_saw_it_is_not() -> None:
    world: World[Command, Reply] = World(SessionKind())
    world.do(Make("k", data={"a": Raw(b"1")}))
    one = Raw(b"1")
    cases: list[tuple[dict[str, Raw | None], str]]
    cases = [({"a": one}, ""), ({"a": None}, "a"), ({"b": one}, "b"), ({"b": None}, "")]
    for seen, refused in cases:
        assert world.do(Save("k", {"c": one}, (), seen)).refused == refused


def test_no_record_says_the_id_and_a_hint_is_short() -> None:
    id = "0123456789abcdefghjkmnpqrstvwxyz" + "0" * 20
    assert is_id(id) and key_of(id) != key_of(id[::-1]) and id not in key_of(id)
    assert len(hint_of(key_of(id))) == 8
    assert not any(map(is_id, ("", id[:-1], id + "0", id[:-1] + "u", id[:-1] + "/", id.upper())))


def test_members_of_a_newer_version_go_through_unread() -> None:
    newer = b'{"made":1,"seen":2,"end":3,"data":{"a":{"b":[1]}},"later":{"x":[1,2]}}'
    again = msgspec.json.decode(write_record(read_record(newer)))
    assert again["later"] == {"x": [1, 2]} and again["data"] == {"a": {"b": [1]}}


def test_an_absolute_end_that_was_made_shorter_counts_at_once() -> None:
    long, short = SessionKind(100, 1000, 0), SessionKind(100, 200, 0)
    record = Record(made=0, seen=190 * MICROS, end=1000 * MICROS)
    assert (long.ends(record), short.ends(record)) == (290 * MICROS, 200 * MICROS)


def test_an_epoch_that_is_gone_signs_out() -> None:
    world: World[Any, Any] = World(DenialKind())
    epoch = world.do(Epoch("ada", "e1")).epoch
    assert epoch == "e1" and world.do(Epoch("ada", "e2")).epoch == "e1"
    assert world.do(Check("k", "ada", "e1")).alive
    world.do(Deny("k", world.now + 1))
    assert not world.do(Check("k", "ada", "e1")).alive
    assert world.do(Check("l", "ada", "e1")).alive
    world.cells.clear()  # a store that has lost everything
    assert not world.do(Check("l", "ada", "e1")).alive


def test_a_subject_with_sealed_and_stored_sessions_keeps_the_list_of_the_stored() -> None:
    stored: World[Command, Reply] = World(SessionKind(IDLE, ABSOLUTE, TOUCH, DEVICES))
    sealed: World[Any, Any] = World(DenialKind())
    sealed.cells = stored.cells
    stored.do(Make(KEYS[0], "ada"))
    assert sealed.do(Epoch("ada", "e1")).epoch == "e1"
    assert stored.do(Look("ada")).keys == (KEYS[0],)
    stored.do(EndAll("ada", (KEYS[0],)))
    assert stored.do(Look("ada")).keys == ()
    assert sealed.do(Check("l", "ada", "e1")).alive, "the epoch of the sealed ones stays"


@pytest.mark.parametrize(
    "wrong",
    [
        {"idle_seconds": 0}, {"idle_seconds": 10, "absolute_seconds": 5},
        {"touch_seconds": 1000}, {"devices_max": 0}, {"devices_max": 64},
    ],
    ids=str,
)  # fmt: skip
def test_clocks_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"seconds|devices_max"):
        SessionKind(**wrong)  # type: ignore[arg-type]


# --- what a handler sees ------------------------------------------------------------------------


def session(data: dict[str, Any] | None = None, subject: str = "", **options: Any) -> Session:
    held = None
    if data is not None:
        raws = {name: Raw(msgspec.json.encode(value)) for name, value in data.items()}
        held = Held("i" * 52, "k" * 64, Record(0, 0, 1, subject, data=raws), 1, 0)
    drawn = iter("xyz")
    return Session(held, lambda: next(drawn), **options)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
)
def test_exactly_what_differs_is_written(before: Any, after: Any) -> None:
    before = msgspec.json.decode(msgspec.json.encode(before))
    visit = session(before)
    for name in list(before):
        visit.pop(name)
    visit.update(after)
    change = visit.change()
    data = {n: Raw(msgspec.json.encode(v)) for n, v in before.items() if n not in change.drop}
    data |= change.set
    assert {n: msgspec.json.decode(r) for n, r in data.items()} == msgspec.json.decode(
        msgspec.json.encode(after)
    )
    assert all(before.get(name, ...) is ... or
               msgspec.json.encode(before[name]) != bytes(raw)
               for name, raw in change.set.items())  # fmt: skip


def test_looking_is_no_change_and_a_change_deep_inside_is_one() -> None:
    visit = session({"a": {"b": [1]}})
    assert visit["a"]["b"] == [1] and visit.touched and not visit.change().writes
    visit["a"]["b"].append(2)
    assert bytes(visit.change().set["a"]) == b'{"b":[1,2]}'


def test_the_principal_decides_about_the_id() -> None:
    visit = session({}, "ada")
    assert visit.subject == "ada" and not visit.change().rotate
    visit.sign_in("ada")
    assert visit.change().rotate and visit.change().fresh == "x"
    visit.sign_out()
    change = visit.change()
    assert (change.end, change.subject, change.set) == (True, "", {})
    attribute = session({"user": 7}, "7", principal="user")
    assert not attribute.change().writes
    attribute["user"] = 8
    assert attribute.change().rotate and attribute.subject == "8"


def test_a_read_only_session_says_so() -> None:
    visit = session({"a": 1}, read_only=True)
    for act in (
        lambda: visit.update(b=1), lambda: visit.pop("a"), visit.clear, visit.popitem,
        lambda: visit.setdefault("b"), lambda: visit.__setitem__("b", 1),
        lambda: visit.__delitem__("a"), lambda: visit.sign_in("x"), visit.rotate,
    ):  # fmt: skip
        with pytest.raises(SessionReadOnly):
            act()
    assert visit.get("a") == 1


def test_what_is_no_json_is_refused() -> None:
    visit = session()
    visit["a"] = object()
    with pytest.raises(TypeError):
        visit.change()


# --- the cookie ---------------------------------------------------------------------------------


def test_a_cookie_at_the_limit_of_browsers_is_sent_and_one_byte_more_is_not() -> None:
    cookie = Cookie()
    room = COOKIE_BYTES_MAX - len(cookie.name)
    assert cookie.set("x" * room).startswith(b"__Host-session=x")
    with pytest.raises(SessionTooLarge):
        cookie.set("x" * (room + 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"secure": False}, {"path": "/a"}, {"domain": "a.test"}, {"name": "a b"},
        {"name": "__Secure-a", "secure": False}, {"age_seconds": 401 * 86_400},
        {"age_seconds": 0}, {"name": "a", "same_site": "none", "secure": False},
        {"name": "a", "path": "/" + "x" * 1024}, {"name": "a", "path": "/;x"},
    ],
    ids=str,
)  # fmt: skip
def test_a_cookie_that_browsers_would_drop_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Cookie(**wrong)


def test_values_that_would_end_the_cookie_are_refused() -> None:
    for value in ("a;b", "a b", "a,b", 'a"', "a\r\nb", "é"):
        with pytest.raises(ValueError, match="characters"):
            Cookie().set(value)


def test_every_cookie_of_the_name_is_found() -> None:
    fields = [b"a=1; __Host-session=x; b=2", b'__Host-session="y"', b"__Host-session-2=z"]
    assert Cookie().values(fields) == ["x", "y"]


def test_whatever_looks_at_a_session_is_noticed() -> None:
    looks = (
        lambda it: list(it.keys()), lambda it: it == {"a": 1}, lambda it: it.copy(),
        lambda it: it | {}, lambda it: {} | it, lambda it: list(reversed(it)),
        lambda it: repr(it), lambda it: it.is_new, lambda it: it.key,
    )  # fmt: skip
    for number, look in enumerate(looks):
        visit = Session(None, lambda: "0" * 52)
        look(visit)
        assert visit.touched, number


def test_a_session_that_is_only_read_is_changed_by_nothing() -> None:
    visit: Any = Session(None, lambda: "0" * 52, read_only=True)
    with pytest.raises(SessionReadOnly):
        visit |= {"a": 1}
    assert dict(visit) == {}
