"""What a program declares, as far as it can be told without running it: types, steps, other kinds.

Nobody declares which steps a process has; its body is code. So the body's source is read: what is
handed to the run (`run(step, …)`, `run.transact(…)`, `run.all(items, step)`), also in functions
that are given the run. What is reached in another way (a name made while it runs) is not seen.

    outlive dev        prints it
    outlive generate   needs the longest time limit of a step: a pod must not be killed before it
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from outlive.steps import Retry, Spec

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes import Definition

FUNCTIONS_MAX = 100
"""Functions that are read for one body."""
_PLAIN = Retry()
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class DeclaredStep(Struct, frozen=True):
    """A step that a body performs: its time limit in seconds (None: none), attempts and undo."""

    name: str
    timeout: float | None = None
    attempts: int = _PLAIN.attempts
    undo: str = ""


class DeclaredType(Struct, frozen=True):
    """A type of process with all of its versions; steps and signals are those of the newest."""

    name: str
    versions: tuple[int, ...]
    path: str
    steps: tuple[DeclaredStep, ...]
    signals: tuple[str, ...]


class Declared(Struct, frozen=True):
    """Everything that is declared on an application. `kinds`: those beside processes, with the
    names that are declared of them, if they have names. `gives_store`: the program gives a store
    itself, so OUTLIVE_STORE counts only if it reads that."""

    types: tuple[DeclaredType, ...]
    kinds: dict[str, tuple[str, ...]]
    gives_store: bool = False


def declared_by(app: Outlive) -> Declared:
    """What `app` declares. Opens nothing and runs nothing of it."""
    versions: dict[str, set[int]] = {}
    bodies = {made.body for made in app._all.values()}
    for name, version in app._all:
        versions.setdefault(name, set()).add(version)
    types = tuple(
        DeclaredType(
            made.name,
            tuple(sorted(versions[made.name])),
            made.path,
            tuple(steps_of(made, bodies)),
            tuple(sorted(made.signals or ())),
        )
        for made in app.definitions.values()
    )
    kinds: dict[str, tuple[str, ...]] = {
        name: () for place in app._all_places() for name in sorted(place.kinds)
    }
    for name, found in (("breakers", app.dependencies), ("caches", app.caches)):
        if found:
            kinds[name] = tuple(found)
    return Declared(types, dict(sorted(kinds.items())), app._given is not None)


def steps_of(made: Definition, bodies: set[Callable[..., Any]]) -> Iterator[DeclaredStep]:
    """The steps that the body of `made` performs, in the order of its source, each once."""
    seen: set[str] = set()
    for function in _performed(made.body, bodies, set()):
        spec: Spec | None = getattr(function, "__outlive_step__", None)
        name = spec.name if spec is not None else function.__name__
        if name in seen:
            continue
        seen.add(name)
        if spec is None:
            yield DeclaredStep(name)
        else:
            yield DeclaredStep(name, spec.timeout, spec.retry.attempts, spec.undo_name)


def _performed(
    function: Callable[..., Any], bodies: set[Callable[..., Any]], read: set[Any]
) -> Iterator[Callable[..., Any]]:
    """The functions handed to the run in `function`, and in those that are given the run."""
    if function in read or len(read) >= FUNCTIONS_MAX:
        return
    read.add(function)
    tree = _tree_of(function)
    if tree is None:
        return
    runs = _runs_in(tree)
    names = {**getattr(function, "__globals__", {}), **_closed_over(function)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        if _root(call.func) in runs:
            for argument in call.args:
                found = _resolved(argument, names)
                if not isinstance(found, FunctionType) or found in bodies:
                    continue
                if _takes_run(found):
                    yield from _performed(found, bodies, read)
                else:
                    yield found
        elif any(isinstance(given, ast.Name) and given.id in runs for given in call.args):
            found = _resolved(call.func, names)
            if isinstance(found, FunctionType):
                yield from _performed(found, bodies, read)


def _tree_of(function: Callable[..., Any]) -> _Function | None:
    try:
        source = textwrap.dedent(inspect.getsource(function))
        found = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None  # typed in by hand, or made by a program: there is no source to read
    return found if isinstance(found, _Function) else None


def _runs_in(tree: _Function) -> set[str]:
    """The names that the run has in a function and in those inside of it: their first one."""
    inside = [node for node in ast.walk(tree) if isinstance(node, _Function)]
    firsts = ([*each.args.posonlyargs, *each.args.args][:1] for each in inside)
    return {first.arg for each in firsts for first in each} | _given_runs(tree)


def _given_runs(tree: _Function) -> set[str]:
    every = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]
    return {each.arg for each in every if _names_run(each.annotation)}


def _names_run(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation).strip("\"'").endswith("Run")


def _takes_run(function: FunctionType) -> bool:
    """Whether the first parameter of `function` is a run: then it is a branch, and no step."""
    found = next(iter(inspect.signature(function).parameters.values()), None)
    wanted = None if found is None else found.annotation
    return str(getattr(wanted, "__name__", wanted)).endswith("Run")


def _closed_over(function: Callable[..., Any]) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    found = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    return found


def _root(node: ast.expr) -> str:
    """The name that an expression such as `run.keyed(1)` or `run.all` begins with."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else ""


def _resolved(node: ast.expr, names: dict[str, Any]) -> Any:
    """What a name or a dotted name stands for in `names`; None for everything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        holder = _resolved(node.value, names)
        if isinstance(holder, ModuleType | type):
            return getattr(holder, node.attr, None)
        return inspect.getattr_static(holder, node.attr, None)  # no property is run
    return None
