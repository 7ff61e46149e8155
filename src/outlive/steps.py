"""How a step is declared: retries, time limit, and how it is undone.

    @step(retry=Retry(attempts=5), timeout=30, undo="close_account")
    async def open_account(form: Form) -> Account: ...

The decorator leaves the function as it is: call it in a unit test. What it declares is kept beside
it and used when a process body performs the step by `await run(open_account, form)`. A function
without the decorator can be performed as well, with the defaults.

Backoff with full jitter: "Exponential Backoff And Jitter", M. Brooker, AWS Architecture Blog
(2015).
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TypeVar, overload
from weakref import WeakKeyDictionary

from msgspec import Struct

from outlive.codec import Shape, digest, hints, shapes
from outlive.errors import NonRetryable
from outlive.model import Put, Ref
from outlive.store import MANNERS

F = TypeVar("F", bound=Callable[..., Any])

ATTEMPTS_MAX = 1000


class Retry(Struct, frozen=True, kw_only=True):
    """How often, and how far apart, a step is tried.

    `attempts`: 1 to 1000 tries in all. The wait before the next one is uniform between 0 and
    min(`cap_seconds`, `base_seconds` · 2^(tries so far - 1)). `never`: exception types that are not
    tried again, beside `NonRetryable`. Attempts are recorded: the death of the service does not
    start the count anew.
    """

    attempts: int = 3
    base_seconds: float = 0.2
    cap_seconds: float = 60.0
    never: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= ATTEMPTS_MAX:
            raise ValueError(f"attempts is {self.attempts}; it must be 1 to {ATTEMPTS_MAX}")
        if not (self.base_seconds >= 0 and self.cap_seconds >= 0):  # nor what is no number
            raise ValueError("base_seconds and cap_seconds must not be negative")

    def again(self, error: BaseException, tries: int) -> bool:
        """Whether to try again after `error` ended try number `tries`."""
        if isinstance(error, (NonRetryable, *self.never)):
            return False
        return tries < self.attempts


class Attempt(Struct, frozen=True, gc=False):
    """The try that is running: see `attempt()`."""

    _stream: str
    id: str
    """The identity of the step inside its process."""
    number: int
    """1 for the first try."""
    process: str
    """The public id of the process; empty outside of any."""
    undoing: bool = False
    """Whether this takes the step back."""

    @property
    def key(self) -> str:
        """An opaque key, the same for every try, also after a crash: for the outside, as an
        idempotency key. An undo has one of its own."""
        return step_key(self._stream, f"undo {self.id}" if self.undoing else self.id)

    @property
    def undoes(self) -> str:
        """In an undo: the key that the step had, to name to the outside what is taken back."""
        return step_key(self._stream, self.id) if self.undoing else ""


def step_key(stream: str, id: str) -> str:
    """The idempotency key of step `id` of the process with the internal id `stream`."""
    return digest(stream.encode(), id.encode())


_attempt: ContextVar[Attempt] = ContextVar("outlive_attempt")
_OUTSIDE = Attempt("", "outside a process", 1, "")


def attempt() -> Attempt:
    """The attempt that is running, seen from inside a step or an undo.

    In a plain call outside any process (a unit test) it is a first try with a fixed key.
    """
    return _attempt.get(_OUTSIDE)


set_attempt: Callable[[Attempt], object] = _attempt.set
"""Make an attempt the running one of this context; for the runtime."""


class Carried(Struct):
    """What goes with the commit of a function that was given to `transact`."""

    puts: dict[Ref, Put]
    after: list[Callable[[], object]]
    """What is called in this program when it is committed."""


_transacting: ContextVar[Carried | None] = ContextVar("outlive_transacting", default=None)


def is_transacting() -> bool:
    """Whether this code runs inside a function that was given to `transact`."""
    return _transacting.get() is not None


def carried_here() -> Carried | None:
    """What goes with the commit of the function that runs, if it was given to `transact`."""
    return _transacting.get()


@contextmanager
def transacting() -> Iterator[Carried]:
    """The time of a function that was given to `transact`, and what is to go with its commit; for
    the runtime."""
    carried = Carried({}, [])
    token = _transacting.set(carried)
    try:
        yield carried
    finally:
        _transacting.reset(token)


class Spec:
    """What was declared about a step."""

    __slots__ = (
        "_undo",
        "direct",
        "function",
        "given",
        "is_async",
        "name",
        "result",
        "retry",
        "timeout",
        "undo_name",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        retry: Retry,
        timeout: float | None,
        undo: str | Callable[..., Any] | None,
    ) -> None:
        if timeout is not None and timeout <= 0:
            raise ValueError(f"timeout of step {name} is {timeout}; it must be above 0 seconds")
        self.function = function
        self.name = name
        self.retry = retry
        self.timeout = timeout
        self._undo = undo
        self.is_async = inspect.iscoroutinefunction(function)
        self.direct = self.is_async and timeout is None
        """Whether it can be awaited as it is: on the loop and without a time limit."""
        self.undo_name = undo.__name__ if callable(undo) else undo or ""
        """The name of the undo; empty when there is none."""
        self.given: list[Shape] | None = None
        self.result: Shape | None = None

    def undo(self) -> Callable[..., Any]:
        """The undo itself. Raises `LookupError` when a function of that name does not exist beside
        the step."""
        if callable(self._undo):
            return self._undo
        module = sys.modules[self.function.__module__]
        found = getattr(module, self._undo or "", None)
        if not callable(found):
            raise LookupError(f"{self._undo!r}, the undo of step {self.name}, is not in {module}")
        return found  # type: ignore[no-any-return]

    def shapes(self, skip: int = 0) -> tuple[list[Shape], Shape]:
        """The types of its parameters (after the first `skip`) and of its result."""
        if self.result is None or self.given is None:
            self.given, self.result = shapes(self.function, skip)
        return self.given, self.result


_specs: dict[str, dict[tuple[str, str], Spec]] = {}
"""By name, then by module and qualified name: two modules may have a step of one name."""


def names() -> set[str]:
    """The names of all steps that this program declares or has performed."""
    return set(_specs)


def spec_named(name: str, module: str) -> Spec | None:
    """What was declared under `name`: in `module` if there, else what that has imported, else
    wherever it was declared last."""
    found, same = None, _specs.get(name, {})
    for (home, _), spec in same.items():
        found = spec
        if home == module:
            return spec
    return _imported(same, module) or found if len(same) > 1 else found


def _imported(same: Mapping[tuple[str, str], Spec], module: str) -> Spec | None:
    """Which of some steps the program text `module` can mean: itself, or its module, was imported
    there."""
    seen = list(vars(sys.modules[module]).values()) if module in sys.modules else []
    modules = {one.__name__ for one in seen if isinstance(one, ModuleType)}
    functions = {id(one) for one in seen}
    for spec in same.values():
        if id(spec.function) in functions:
            return spec
    return next((spec for (home, _), spec in same.items() if home in modules), None)


def spec_of(function: Callable[..., Any]) -> Spec:
    """What is declared about `function`; the defaults when nothing is."""
    found: Spec | None = getattr(function, "__outlive_step__", None)
    if found is None:
        found = _declare(function, None, Retry(), None, None)
    return found


def _declare(
    function: Callable[..., Any],
    name: str | None,
    retry: Retry,
    timeout: float | None,
    undo: str | Callable[..., Any] | None,
) -> Spec:
    named = str(name or getattr(function, "__name__", type(function).__name__))
    spec = Spec(function, named, retry, timeout, undo)
    same = _specs.setdefault(named, {})
    same[_origin(function)] = spec
    try:
        function.__outlive_step__ = spec  # type: ignore[attr-defined]
    except AttributeError:  # a bound method or builtin: declared anew at each use
        return spec
    return spec


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "")


@overload
def step(function: F, /) -> F: ...
@overload
def step(
    *,
    retry: Retry | None = None,
    timeout: float | None = None,
    undo: str | Callable[..., Any] | None = None,
    name: str | None = None,
) -> Callable[[F], F]: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retry: Retry | None = None,
    timeout: float | None = None,
    undo: str | Callable[..., Any] | None = None,
    name: str | None = None,
) -> Any:
    """Declare a function as a step of processes; the function itself stays as it is.

    `retry`: see `Retry` (3 attempts when not given). `timeout`: seconds for one attempt, above 0;
    an asynchronous step is cancelled then, a thread is abandoned and its late result refused.
    `undo`: the function that takes the step back, or its name in the same module; it is called with
    the step's arguments and then its result, or an `Unknown` when the step may or may not have
    happened, and must be harmless when nothing was made. `name`: how the step is recorded, the
    function's name when not given; keep it when you rename the function.

    When the process dies: a recorded step is not run again. A step whose outcome was not recorded
    runs again, with the same `attempt().key`.
    """

    def declare(declared: F) -> F:
        _declare(declared, name, retry or Retry(), timeout, undo)
        return declared

    return declare if function is None else declare(function)


def manner_of(function: Callable[..., Any]) -> str:
    """What the first parameter of a function for a transaction asks for, by its annotation.

    `tables` when there is none or an unknown one; see `store.MANNERS`. Raises `TypeError` for a
    class of a driver's that cannot be given.
    """
    real = inspect.unwrap(function)
    if not inspect.isfunction(real):
        return _manner_of(function)
    known = _manners.get(real)
    if known is None:
        known = _manners[real] = _manner_of(function)
    return known


_manners: WeakKeyDictionary[Callable[..., Any], str] = WeakKeyDictionary()
"""What was found of each function: annotations are slow to read, and do not change."""


def _manner_of(function: Callable[..., Any]) -> str:
    parameters = list(inspect.signature(function).parameters.values())
    wanted = parameters[0].annotation if parameters else Any
    if isinstance(wanted, str):
        wanted = hints(function).get(parameters[0].name, wanted)
    if typing.get_origin(wanted) is typing.Annotated:
        wanted = typing.get_args(wanted)[0]
    wanted = typing.get_origin(wanted) or wanted
    if isinstance(wanted, type):
        name = f"{wanted.__module__.partition('.')[0]}.{wanted.__qualname__}"
    else:  # its import stands under TYPE_CHECKING
        name = str(wanted).partition("[")[0]
        name = next((found for found in MANNERS if found.endswith("." + name)), name)
        name = MANNERS[0] if name == "Connection" else name
    if name in MANNERS:
        return name
    if name.partition(".")[0] in ("asyncpg", "psycopg", "sqlalchemy"):
        raise TypeError(
            f"{name} cannot be given to a function in a transaction; it is one of {MANNERS[1:]}"
        )
    return MANNERS[0]
