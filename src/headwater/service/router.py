"""Router: from a method and a path to one operation. Exact segments win; a path knows all its methods."""

from __future__ import annotations

from typing import Generic, TypeVar

from headwater.kernel.errors import ProgrammingError

T = TypeVar("T")


class Node(Generic[T]):
    """One place in the tree of path segments."""

    __slots__ = ("allow", "by_method", "exact", "parameter")

    def __init__(self) -> None:
        self.exact: dict[str, Node[T]] = {}
        self.parameter: Node[T] | None = None
        self.by_method: dict[str, T] = {}
        self.allow: str = ""


class Router(Generic[T]):
    """All paths of one service."""

    def __init__(self) -> None:
        self._root: Node[T] = Node()
        self._whole: dict[str, Node[T]] = {}

    def add(self, method: str, path: str, target: T) -> None:
        """Declare a path. Raises ProgrammingError when the method is declared for it already."""
        if not path.startswith("/") or (path != "/" and path.endswith("/")):
            raise ProgrammingError(f"The path '{path}' of a route must begin with '/' and not end with it.")
        node = self._root
        for segment in path.split("/")[1:]:
            if segment.startswith("{") and segment.endswith("}"):
                node.parameter = node.parameter or Node()
                node = node.parameter
            elif "{" in segment or "}" in segment:
                raise ProgrammingError(
                    f"The path '{path}' mixes a parameter with text in the segment '{segment}'.",
                    remedy="Make the parameter a segment of its own.",
                )
            else:
                node = node.exact.setdefault(segment, Node())
        if method in node.by_method:
            raise ProgrammingError(
                f"{method} {path} is declared twice, perhaps with another name of its parameter.",
                remedy="Remove one of the two routes.",
            )
        node.by_method[method] = target
        methods = {*node.by_method, "OPTIONS"} | ({"HEAD"} if "GET" in node.by_method else set())
        node.allow = ", ".join(sorted(methods))
        if "{" not in path:
            self._whole[path] = node

    def find(self, path: str, segments: list[str] | None = None) -> tuple[Node[T], list[str]] | None:
        """The node of a path and the texts of its parameters. `segments` are given where each was decoded alone."""
        if segments is None:
            node = self._whole.get(path)
            if node is not None:
                return node, []
            segments = path.split("/")
        values: list[str] = []
        found = self._walk(self._root, segments, 1, values)
        return None if found is None else (found, values)

    def _walk(self, node: Node[T], segments: list[str], at: int, values: list[str]) -> Node[T] | None:
        while at < len(segments):
            segment = segments[at]
            at += 1
            exact = node.exact.get(segment)
            if exact is not None:
                if node.parameter is None:
                    node = exact
                    continue
                found = self._walk(exact, segments, at, values)
                if found is not None:
                    return found
            if node.parameter is None or not segment:
                return None
            depth = len(values)
            values.append(segment)
            found = self._walk(node.parameter, segments, at, values)
            if found is None:
                del values[depth:]
            return found
        return node if node.by_method else None
