"""Checks the import rule of the package; ``make lint`` runs it.

A room is a folder of espnet_llada, or a file next to them. It may import itself and the
rooms before it, and no circle; espnet2 is imported in espnet_llada/espnet alone. A name
in a string (``"espnet_llada.…"``) counts as an import. An extension imports another one
only if its head says so.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "espnet_llada"
ROOMS = [
    ("types", "alignment", "import_guards"),
    ("io",),
    ("scoring",),
    ("report",),
    ("networks",),
    ("core",),
    ("baseline", "release", "extensions"),
    ("build",),
    ("trust",),
    ("inference",),
    ("sweep",),
    ("plan",),
    ("espnet", "bench", "bin", "recipe", "run", "__init__"),
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
MAY_IMPORT = {
    "scoring": {"types", "alignment", "io"},
    "report": {"types", "alignment", "io", "scoring"},
}
MODULE = re.compile(r"espnet_llada(\.\w+)+(:\w+)?")
BY_NAME = {("inference", "espnet")}
"""Imports by name that run up: a model whose encoder is ESPnet's, when there is one."""


def imports(tree: ast.AST) -> Iterator[tuple[str, int, bool]]:
    """Name, line, and whether it is but a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, False
        elif isinstance(node, ast.Constant) and MODULE.fullmatch(str(node.value)):
            yield node.value.replace(":", "."), node.lineno, True


def without_typing(tree: ast.Module) -> ast.Module:
    """The module but for what is imported for annotations alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    return tree


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def complaints(path: Path, known: set[str], graph: dict[str, set[str]]):
    room, own = path.relative_to(PACKAGE).parts[0].removesuffix(".py"), module_of(path)
    if room not in FLOOR:
        yield f"{path}: '{room}' has no floor; give it one in {__file__}"
        return
    tree = without_typing(ast.parse(path.read_text(encoding="utf-8")))
    found = {}  # several names of a statement are one import
    for name, line, by_name in imports(tree):
        parts = name.split(".")
        where = f"{path.relative_to(PACKAGE.parent)}:{line}"
        if parts[0] in ("espnet2", "espnet") and room != "espnet":
            yield f"{where}: imports {parts[0]}; only espnet_llada/espnet may"
        if parts[0] != "espnet_llada" or len(parts) < 2 or parts[1] not in FLOOR:
            continue
        if not (by_name and (room, parts[1]) in BY_NAME):
            found[line, parts[1]] = where
        other = name if name in known else name.rpartition(".")[0]
        if other in known - {own} and not by_name:
            graph.setdefault(own, set()).add(other)
    for (_, other), where in found.items():
        if room in MAY_IMPORT and other not in {room, *MAY_IMPORT[room]}:
            yield f"{where}: '{room}' imports '{other}', which it may not"
        elif FLOOR[other] > FLOOR[room]:
            yield f"{where}: '{room}' imports '{other}', which is above it"
    if room == "extensions":
        head = ast.get_docstring(tree) or ""
        yield from unsaid(own, graph.get(own, set()), head)


def unsaid(own: str, others: set[str], head: str) -> Iterator[str]:
    """Extensions that a head does not name; those of its own folder go without."""
    top = own.split(".")[2:3]
    for other in sorted(others):
        parts = other.split(".")
        if parts[1] != "extensions" or parts[2:3] == top or len(parts) < 3:
            continue
        if parts[2] != "requirements" and not any(p in head for p in parts[2:]):
            yield f"{own}: imports {other}, which its head does not say"


def main() -> int:
    paths = sorted(PACKAGE.rglob("*.py"))
    known, graph = {module_of(path) for path in paths}, {}
    found = [c for path in paths for c in complaints(path, known, graph)]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        found.append(f"a circle: {' -> '.join(reversed(e.args[1]))}")
    sys.stdout.writelines(f"{c}\n" for c in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
