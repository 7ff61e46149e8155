"""Which handler answers a path: dictionaries, no patterns.

Every path we answer has one of these forms, so at most five look-ups find it:

    {path}                        exact
    {path}/{id}                   branch, item
    {path}/{id}/{action}          branch, action
    {path}/{id}/signals/{name}    branch, signals
    {path}/{id}/{word}/{name}     branch, named
    {path}/{id}/{word}/{name}/{key}   branch, keyed; what follows the word is the name

The table is built from what is declared when the first request (or the life span) comes, and once
more when a path is not found although something was declared since. Two declarations on one path
are a mistake of the program: the build raises `ValueError` and nothing is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from outlive.web.messages import Handler, Response

if TYPE_CHECKING:
    from outlive.kinds.processes import Definition


class Route:
    """One path template and the handlers of its methods."""

    __slots__ = ("allow", "counted", "definition", "handlers", "local", "template")

    def __init__(
        self,
        template: str,
        handlers: Mapping[str, Handler],
        *,
        definition: Definition | None = None,
        local: frozenset[str] = frozenset(),
    ) -> None:
        self.template = template
        self.handlers = dict(handlers)
        if "GET" in handlers:
            self.handlers["HEAD"] = handlers["GET"]
        self.definition = definition
        self.local = local
        """The methods that only visitors may use (access.py)."""
        name = "" if definition is None else definition.name
        self.counted = {
            method: (name, f"{method} {template}") for method in (*self.handlers, "other")
        }
        """How an answer to each method is counted: the type of process, the kind of request."""
        self.allow = ", ".join(sorted([*self.handlers, "OPTIONS"])).encode()

    def options(self) -> Response:
        """The answer to OPTIONS: what else this path takes."""
        return Response(204, headers=[(b"allow", self.allow)])


class Branch:
    """The routes below one path: an item, its actions, its signals."""

    __slots__ = ("actions", "item", "keyed", "named", "signals")

    def __init__(
        self,
        item: Route,
        actions: Mapping[str, Route] | None = None,
        signals: Route | None = None,
        named: Mapping[str, Route] | None = None,
        keyed: Mapping[str, Route] | None = None,
    ) -> None:
        self.item = item
        self.actions = dict(actions or {})
        self.signals = signals
        self.named = dict(named or {})
        self.keyed = dict(keyed or {})


class Routes:
    """The table of every path we answer."""

    def __init__(self) -> None:
        self._exact: dict[str, Route] = {}
        self._branches: dict[str, Branch] = {}

    def add(self, path: str, route: Route) -> None:
        """Answer exactly `path` by `route`."""
        if path in self._exact:
            raise ValueError(
                f"two declarations answer {path}: nothing is served; give one of them another path"
            )
        self._exact[path] = route

    def add_branch(self, path: str, branch: Branch) -> None:
        """Answer what lies below `path` by `branch`."""
        self._branches[path] = branch

    def find(self, path: str) -> tuple[Route, str, str] | None:
        """The route of `path`, with the id and the signal name in it (empty where there is
        none)."""
        route = self._exact.get(path)
        if route is not None:
            return route, "", ""
        head, _, last = path.rpartition("/")
        branch = self._branches.get(head)
        if branch is not None:
            return (branch.item, last, "") if last else None
        head, _, middle = head.rpartition("/")
        branch = self._branches.get(head)
        if branch is not None:
            action = branch.actions.get(last)
            return (action, middle, "") if action is not None and middle else None
        head, _, first = head.rpartition("/")
        branch = self._branches.get(head)
        if branch is not None:
            named = branch.signals if middle == "signals" else branch.named.get(middle)
            return (named, first, last) if named is not None and first and last else None
        head, _, id = head.rpartition("/")
        branch = self._branches.get(head)
        keyed = None if branch is None else branch.keyed.get(first)
        if keyed is None or not (id and middle and last):
            return None
        return keyed, id, f"{middle}/{last}"
