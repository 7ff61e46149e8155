"""The house style, kept by a test: each rule is one sentence, and a violation names file and line.

Code is read from its syntax tree, so that a rule cannot be met by a comment or broken by a string.
Two limits are ratchets: who passes them today stands in a table below with the size of today, and
may only shrink.

    LONG_FUNCTIONS    path::name -> lines, for functions longer than FUNCTION_LINES_MAX
    LONG_MODULES      path -> lines, for modules longer than MODULE_LINES_MAX
    UNTESTED          modules without a test file of their own, and what tests them instead
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import outlive

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "outlive"
TESTS = ROOT / "tests"
CODE_FOLDERS = ("src", "tests", "examples", "bench")

COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
TEST_SLEEP_SECONDS_MAX = 0.1

LONG_FUNCTIONS: Mapping[str, int] = {}
LONG_MODULES: Mapping[str, int] = {}
UNTESTED: Mapping[str, str] = {
    **{
        f"commands.{noun}": "tests/commands/test_listing.py asks it at a store and elsewhere"
        for noun in ("breaker", "cache", "limit", "many", "node", "request", "session")
    },
    "commands.type": "tests/commands/test_listing.py asks it at a store and elsewhere",
    "commands.context": "tests/commands/test_contexts.py lists what is right and what is wrong",
    "doors.replies": "values and errors: tests/doors/test_requests.py is given them",
    "store": "only promises: the conformance suite holds every store to them",
    "kinds.processes.bulk": "values: tests/doors/test_bulk.py is shown and told them",
    "runtime.forks": "asked for and begun by tests/doors/test_forking.py",
    "doors.opened": "what the two below stand on",
    "doors.reading": "a part of Outlive: tests/test_app.py asks through it",
    "doors.telling": "a part of Outlive: tests/test_app.py tells through it",
    "doors.callbacks": "a part of Outlive: tests/runtime/test_callbacks.py calls through it",
    "doors.notices": "a part of Outlive: tests/runtime/test_notices.py asks through it",
    "doors.queries": "a part of Outlive: tests/kinds/processes/test_seen.py asks through it",
    "doors.updates": "a part of Outlive: tests/runtime/test_updates.py asks through it",
    "errors.bodies": "one tree: tests/test_errors.py holds every error to it",
    "errors.caches": "one tree: tests/test_errors.py holds every error to it",
    "errors.dependencies": "one tree: tests/test_errors.py holds every error to it",
    "errors.processes": "one tree: tests/test_errors.py holds every error to it",
    "errors.ratelimits": "one tree: tests/test_errors.py holds every error to it",
    "errors.requests": "one tree: tests/test_errors.py holds every error to it",
    "errors.sessions": "one tree: tests/test_errors.py holds every error to it",
    "errors.root": "one tree: tests/test_errors.py holds every error to it",
    "errors.store": "one tree: tests/test_errors.py holds every error to it",
    "handle": "a process seen from outside: tests/test_app.py asks and tells through it",
    "kinds.processes.reports": "only values: tests/kinds/processes/test_view.py fills them",
    "runtime.deliveries": "what tests/runtime/test_updates.py and test_callbacks.py deliver",
    "testing.cluster": "tests/simulation and tests/testing/test_simulate.py run nothing else",
    "testing.workload": "the service that tests/simulation/test_seeds.py simulates",
    "testing.carrier_conformance": "a suite itself: tests/conformance runs it on every store",
    "testing.cell_conformance": "a suite itself: tests/conformance runs it on every store",
    "testing.conformance": "a suite itself: tests/conformance runs it on every store",
    "testing.erase_conformance": "a suite itself: tests/conformance runs it on every store",
    "testing.keyed_conformance": "a suite itself: tests/conformance runs it on every store",
    "testing.lockstep": "a suite itself: the last case of each conformance class runs it",
}

NAMES_THAT_SAY_NOTHING = frozenset(
    ("common", "data", "helper", "helpers", "manager", "managers", "misc", "util", "utils")
)
HEAVY_MODULES = ("apsw", "asyncio", "cyclopts", "jinja2", "rich", "starlette", "uvicorn")
TEST_FOLDERS_OF_THEIR_OWN = frozenset(
    (
        "browser",
        "cluster",
        "conformance",
        "crash",
        "examples",
        "failover",
        "http",
        "planted",
        "proofs",
        "reference",
        "simulation",
        "typing",
    )
)

FOUNDATION = frozenset(("clock", "codec", "errors", "ids", "kind", "model", "store"))
FACE = frozenset(("access", "app", "clock", "codec", "errors", "kinds", "model"))
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "model": frozenset(),
    "errors": frozenset(),
    "clock": frozenset(),
    "ids": frozenset(("model",)),
    "access": frozenset(),
    "codec": frozenset(("errors", "model")),
    "store": frozenset(("errors", "model")),
    "kind": frozenset(("errors", "model")),
    "stores": FOUNDATION - {"kind"},
    "steps": frozenset(("codec", "errors", "model", "store")),
    "logs": frozenset(("steps",)),
    "kinds": FOUNDATION | {"steps"},
    "runtime": FOUNDATION | {"kinds", "logs", "steps", "stores"},
    "handle": FOUNDATION | {"kinds"},
    "app": FOUNDATION | {"access", "doors", "handle", "kinds", "runtime", "steps", "stores"},
    "doors": FOUNDATION | {"app", "handle", "kinds", "runtime", "steps", "stores"},
    "testing": FOUNDATION | {"app", "doors", "handle", "kinds", "runtime", "steps", "stores"},
    "adapters": FOUNDATION | {"app", "doors", "kinds", "runtime", "steps", "stores", "web"},
    "dashboard": FACE,
    "web": FACE | {"dashboard", "doors", "ids"},
    # `outlive db` is about a store as such: it may be frozen, half filled, or not there yet, and no
    # application can hold it then. `outlive dev` and `generate` read what a program declares.
    "commands": FACE | {"doors", "stores"},
    "prove": FACE,
    "audit": frozenset(("errors",)),
    "__init__": FOUNDATION
    | {"access", "app", "doors", "handle", "kinds", "logs", "runtime", "steps", "stores"},
}
"""Which part of the package may import which; a part may always import itself."""
LAZY_IMPORTS = frozenset((("app", "web"), ("commands", "web"), ("doors", "web")))
"""Allowed inside a function only, so that it costs nothing until it is used."""

CLOCK_CALLS = frozenset(
    "clock_gettime clock_gettime_ns gmtime localtime monotonic monotonic_ns perf_counter"
    " perf_counter_ns time time_ns".split()
)
DATE_CALLS = frozenset(("now", "today", "utcnow"))
RANDOM_MODULES = frozenset(("random", "secrets", "uuid"))
UNSAFE_MODULES = frozenset(("cloudpickle", "dill", "marshal", "pickle", "shelve"))
SQL = re.compile(
    r"\s*(?:(?:SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|REPLACE|MERGE|VACUUM|ANALYZE)\s+\S"
    r"|WITH\s+\w+\s*(?:\([^)]*\)\s*)?AS\b"
    r"|(?i:select\s.+\sfrom\s|insert\s+into\s|delete\s+from\s|update\s+\w+\s+set\s)"
    r"|(?i:(?:create|drop|alter)\s+(?:unique\s+)?(?:table|index|view|trigger)\s))",
    re.DOTALL,
)
SQL_OF_A_CONNECTION = re.compile(r"\s*(?:PRAGMA|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\b(?!:)")


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


# --- reading the project ------------------------------------------------------------------------


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not hidden(path))


def hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path), name_of(path))


def part_of(path: Path) -> str:
    """The part of the package a source file belongs to: `stores`, `app`, `__init__` …"""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def modules() -> list[str]:
    """Every module with code in it, dotted and without the package's name."""
    paths = (path.relative_to(SOURCE) for path in python_files("src/outlive"))
    return [".".join(path.with_suffix("").parts) for path in paths if path.name != "__init__.py"]


def docstrings_of(tree: ast.Module) -> set[int]:
    """The identities of the strings that stand alone: docstrings."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(
    tree: ast.AST, inside: bool = False
) -> Iterator[tuple[ast.stmt | ast.expr, str, bool]]:
    """Each import: the statement, the dotted name, and whether it stands in a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the import in full, not relative"
            yield from ((node, f"{node.module}.{alias.name}", inside) for alias in node.names)
        else:
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                named = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                yield from ((node, str(name), inside) for name in named)
            yield from imports_of(node, inside or isinstance(node, FUNCTIONS))


def calls_of(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def functions_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Each function's name within its module, and how many lines it has."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTIONS):
            yield prefix + node.name, (node.end_lineno or node.lineno) - node.lineno + 1
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield from functions_of(node, f"{prefix}{node.name}.")
        else:
            yield from functions_of(node, prefix)


def refuse(violations: list[str], rule: str) -> None:
    """Fail with the rule and every place that breaks it."""
    if violations:
        pytest.fail(f"{rule}\n  " + "\n  ".join(violations), pytrace=False)


def ratchet(sizes: Mapping[str, int], known: Mapping[str, int], limit: int, what: str) -> None:
    """No size over `limit`, but for the known ones, which may only shrink."""
    violations = []
    for name, size in sizes.items():
        allowed = known.get(name, limit)
        if size > allowed:
            violations.append(f"{name}: {size} lines, allowed are {allowed}: split it by meaning")
        elif name in known and size < allowed:
            now = f"lower it to {size}" if size > limit else "take it out"
            violations.append(f"{name}: shrank from {allowed} to {size} lines: {now} in the table")
    violations += [f"{name}: is gone; take it out of the table" for name in known.keys() - sizes]
    refuse(violations, f"A {what} has at most {limit} lines.")


# --- the package --------------------------------------------------------------------------------


def test_the_public_names_are_exact_and_sorted() -> None:
    listed = list(outlive.__all__)
    assert listed == sorted(set(listed)), "outlive.__all__ is sorted, each name once"
    missing = [name for name in listed if not hasattr(outlive, name)]
    assert not missing, f"outlive.__all__ promises what is not there: {missing}"
    typed = {
        alias.asname or alias.name
        for block in tree_of(SOURCE / "__init__.py").body
        if is_type_checking(block)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    eager = {name for name in vars(outlive) if name[0] not in "_@"} - {"annotations"}  # @: pytest's
    eager -= {name for name in eager if f"outlive.{name}" in sys.modules} | {"TYPE_CHECKING"}
    unlisted = (typed | eager) - set(listed)
    assert not unlisted, f"public, but not in outlive.__all__ (or rename with _): {unlisted}"
    unseen = {name for name in listed if not name.startswith("__")} - typed - eager
    assert not unseen, f"in outlive.__all__, but a type checker does not see them: {unseen}"


def test_importing_outlive_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import outlive; "
        "print(*sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [name for name in HEAVY_MODULES if name in ran.stdout.split()]
    assert not loaded, f"`import outlive` loads {loaded}: load it where it is used"


def test_the_parts_import_only_what_they_may() -> None:
    violations = []
    for path in python_files("src/outlive"):
        part = part_of(path)
        if part not in MAY_IMPORT:
            violations.append(f"{name_of(path)}: the part {part} has no rule in MAY_IMPORT")
            continue
        for node, target, inside in imports_of(tree_of(path)):
            if target.split(".")[0] != "outlive" or target == "outlive.__version__":
                continue
            reached = target.split(".")[1] if "." in target else "__init__"
            if reached not in MAY_IMPORT and not (SOURCE / reached).exists():
                reached = "__init__"
            lazily = inside and (part, reached) in LAZY_IMPORTS
            if reached != part and reached not in MAY_IMPORT[part] and not lazily:
                violations.append(f"{name_of(path)}:{node.lineno}: {part} imports {reached}")
    refuse(violations, "A part imports only what MAY_IMPORT in this file allows it.")


def test_only_the_clock_and_the_stores_ask_the_time() -> None:
    violations = []
    for path in python_files("src/outlive"):
        part = part_of(path)
        if part in ("clock", "stores"):
            continue
        for node, target, _ in imports_of(tree_of(path)):
            module, _, name = target.rpartition(".")
            if module == "time" and name in CLOCK_CALLS:
                violations.append(f"{name_of(path)}:{node.lineno}: from time import {name}")
        for call, function in calls_of(tree_of(path)):
            receiver, _, name = function.rpartition(".")
            clock = receiver == "time" and name in CLOCK_CALLS
            date = receiver.split(".")[-1] in ("date", "datetime") and name in DATE_CALLS
            loop = "loop" in receiver and name == "time" and part not in ("runtime", "web")
            if clock or date or loop:
                violations.append(f"{name_of(path)}:{call.lineno}: {function}()")
    refuse(
        violations,
        "Only clock.py and stores/ ask the time; loop.time() is for local time limits in runtime/"
        " and web/. Take a Clock as a parameter.",
    )


def test_only_ids_draws_randomness() -> None:
    violations = []
    for path in python_files("src/outlive"):
        if part_of(path) == "ids":
            continue
        tree = tree_of(path)
        typing = {id(n) for b in ast.walk(tree) if is_type_checking(b) for n in ast.walk(b)}
        for node, target, _ in imports_of(tree):
            if target == "uuid.UUID" or id(node) in typing:
                continue
            if target.split(".")[0] in RANDOM_MODULES:
                violations.append(f"{name_of(path)}:{node.lineno}: import {target}")
            elif target in ("os.urandom", "os.getrandom"):
                violations.append(f"{name_of(path)}:{node.lineno}: import {target}")
        for call, function in calls_of(tree):
            if function in ("os.urandom", "os.getrandom"):
                violations.append(f"{name_of(path)}:{call.lineno}: {function}()")
    refuse(
        violations,
        "Only ids.py draws randomness (`from uuid import UUID` is fine, and so is what stands under"
        " TYPE_CHECKING).",
    )


def test_nothing_is_pickled_and_nothing_is_evaluated() -> None:
    violations = []
    for path in python_files(*CODE_FOLDERS):
        for node, target, _ in imports_of(tree_of(path)):
            if target.split(".")[0] in UNSAFE_MODULES:
                violations.append(f"{name_of(path)}:{node.lineno}: import {target}")
        for call, function in calls_of(tree_of(path)):
            if function in ("eval", "exec"):
                violations.append(f"{name_of(path)}:{call.lineno}: {function}()")
    refuse(violations, "No pickle, no marshal, no eval, no exec: bytes from a store are not code.")


def test_sql_lives_in_sql_files() -> None:
    violations = []
    for path in python_files("src/outlive"):
        tree = tree_of(path)
        prose = docstrings_of(tree)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            if id(node) in prose:
                continue
            connection = SQL_OF_A_CONNECTION.match(node.value) and part_of(path) != "stores"
            if SQL.match(node.value) or connection:
                start = " ".join(node.value.split())[:50]
                violations.append(f"{name_of(path)}:{node.lineno}: {start!r}")
    refuse(
        violations,
        "SQL is named and commented in stores/sql/<database>/*.sql; Python holds none, but for"
        " PRAGMA, BEGIN, COMMIT and the like in stores/.",
    )


def test_every_sql_file_begins_with_why() -> None:
    violations = [
        name_of(path)
        for path in sorted(SOURCE.rglob("*.sql"))
        if not text_of(path).lstrip().startswith("--")
    ]
    refuse(violations, "A .sql file begins with a comment that says why it is there.")


# --- every file ---------------------------------------------------------------------------------


def test_every_module_begins_with_a_sentence() -> None:
    violations = []
    for path in python_files(*CODE_FOLDERS):
        first = (ast.get_docstring(tree_of(path)) or "").split("\n\n")[0]
        line = first.split("\n")[0].rstrip()
        if not line:
            violations.append(f"{name_of(path)}: has no docstring")
        elif not line.endswith((".", "!", "?")):
            violations.append(f"{name_of(path)}: the first line is no whole sentence: {line!r}")
    refuse(violations, "A module begins with why: a docstring whose first line is one sentence.")


def test_no_line_is_longer_than_a_hundred_columns() -> None:
    files = python_files(*CODE_FOLDERS)
    files += SOURCE.rglob("*.sql")
    files += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    violations = [
        f"{name_of(path)}:{number}: {len(line)} columns"
        for path in files
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if len(line) > COLUMNS_MAX
    ]
    refuse(violations, f"A line has at most {COLUMNS_MAX} columns.")


def test_no_function_is_longer_than_a_screen() -> None:
    sizes = {
        f"{name_of(path)}::{name}": lines
        for path in python_files(*CODE_FOLDERS)
        for name, lines in functions_of(tree_of(path))
    }
    ratchet(sizes, LONG_FUNCTIONS, FUNCTION_LINES_MAX, "function")


def test_no_module_is_too_long_to_be_read_in_one_sitting() -> None:
    sizes = {name_of(path): len(text_of(path).splitlines()) for path in python_files(*CODE_FOLDERS)}
    ratchet(sizes, LONG_MODULES, MODULE_LINES_MAX, "module")


def test_no_file_has_a_name_that_says_nothing() -> None:
    violations = [
        name_of(path)
        for path in python_files(*CODE_FOLDERS)
        if NAMES_THAT_SAY_NOTHING & set(path.relative_to(ROOT).with_suffix("").parts)
    ]
    refuse(violations, "Name a file by the noun it is about, not utils, helpers, manager or data.")


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
    endings = {".css", ".html", ".md", ".py", ".sh", ".sql", ".toml"}
    files = [
        path
        for folder in (*CODE_FOLDERS, "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in endings and path.is_file() and not hidden(path)
    ]
    files += [path for path in ROOT.iterdir() if path.suffix in endings or path.name == "Makefile"]
    violations = [
        f"{name_of(path)}:{number}: {line.strip()[:60]}"
        for path in sorted(files)
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if later.search(line)
    ]
    refuse(violations, "What is not done is not in the code: do it now, or open an issue.")


# --- tests and pages ----------------------------------------------------------------------------


def test_every_kind_has_its_page_and_its_test() -> None:
    violations = []
    kinds = {name.split(".")[1] for name in modules() if name.startswith("kinds.")}
    for kind in sorted(kind for kind in kinds if not kind.startswith("_")):
        for needed in (f"docs/{kind}.md", f"tests/kinds/test_{kind}.py"):
            if not (ROOT / needed).exists():
                violations.append(f"{kind}: {needed} is missing")
    refuse(violations, "Every kind of state has a page and a test of its own.")


def test_the_tests_mirror_the_source() -> None:
    known = set(modules())
    known |= {name.rpartition(".")[0] for name in known}
    stray = []
    for path in sorted(TESTS.rglob("test_*.py")):
        place = path.relative_to(TESTS)
        if place.parts[0] in TEST_FOLDERS_OF_THEIR_OWN or place == Path("test_tidy.py"):
            continue
        subject = ".".join((*place.parts[:-1], path.stem.removeprefix("test_")))
        if subject not in known:
            stray.append(f"{name_of(path)}: there is no outlive.{subject}")
    refuse(stray, "tests/a/test_b.py is about outlive/a/b.py; the others live in their own folder.")


def test_every_module_has_a_test_of_its_own() -> None:
    """A store is tested by the conformance suite; the parts of a kind may share the kind's test."""
    missing = []
    for module in modules():
        *folders, name = module.split(".")
        if name.startswith("_") or module in UNTESTED:
            continue
        own = TESTS.joinpath(*folders, f"test_{name}.py")
        shared = [TESTS / "conformance" / own.name] if folders == ["stores"] else []
        if len(folders) > 1:
            shared.append(TESTS.joinpath(*folders[:-1], f"test_{folders[-1]}.py"))
        if not any(path.exists() for path in (own, *shared)):
            missing.append(f"outlive.{module}: {name_of(own)}")
    missing += [f"{name}: is gone; take it out of UNTESTED" for name in UNTESTED.keys() - modules()]
    refuse(missing, "Every module has a test file of its own, or a line in UNTESTED that says why.")


def test_no_test_sleeps_blindly() -> None:
    violations = []
    for path in python_files("tests"):
        for call, function in calls_of(tree_of(path)):
            if function not in ("asyncio.sleep", "sleep", "time.sleep") or not call.args:
                continue
            seconds = call.args[0]
            if not (isinstance(seconds, ast.Constant) and isinstance(seconds.value, int | float)):
                continue
            if seconds.value > TEST_SLEEP_SECONDS_MAX:
                violations.append(f"{name_of(path)}:{call.lineno}: {ast.unparse(call)}")
    refuse(violations, "A test waits on a condition with a deadline, or moves the clock.")
