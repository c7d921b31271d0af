"""Checks the import rule of the package; ``make lint`` runs it.

A room is a folder of espnet_llada, or a file beside them. It may import itself and the
rooms before it; espnet2 is imported in espnet_llada/espnet alone.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "espnet_llada"
ROOMS = [
    ("types", "import_guards"),
    ("io",),
    ("scoring",),
    ("report",),
    ("networks",),
    ("core",),
    ("baseline", "release", "extensions"),
    ("registry", "build"),
    ("trust",),
    ("inference",),
    ("plan",),
    ("sweep",),
    ("espnet", "bench", "bin", "recipe", "run", "__init__"),
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
MAY_IMPORT = {"scoring": {"types", "io"}, "report": {"types", "io", "scoring"}}
UP = {
    ("core", "extensions"): 15,
    ("core", "baseline"): 1,
    ("sweep", "bin"): 2,
}
"""Imports that still run the wrong way; they may become fewer, and are to be none."""


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def complaints(path: Path, up: Counter[tuple[str, str]]):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room not in FLOOR:
        yield f"{path}: '{room}' has no floor; give it one in {__file__}"
        return
    found = {}  # several names of a statement are one import
    for name, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
        parts = name.split(".")
        where = f"{path.relative_to(PACKAGE.parent)}:{line}"
        if parts[0] in ("espnet2", "espnet") and room != "espnet":
            yield f"{where}: imports {parts[0]}; only espnet_llada/espnet may"
        if parts[0] == "espnet_llada" and len(parts) > 1 and parts[1] in FLOOR:
            found[line, parts[1]] = where
    for (_, other), where in found.items():
        if room in MAY_IMPORT and other not in {room, *MAY_IMPORT[room]}:
            yield f"{where}: '{room}' imports '{other}', which it may not"
        elif FLOOR[other] > FLOOR[room]:
            up[room, other] += 1
            if up[room, other] > UP.get((room, other), 0):
                yield f"{where}: '{room}' imports '{other}', which is above it"


def main() -> int:
    up: Counter[tuple[str, str]] = Counter()
    found = [c for path in sorted(PACKAGE.rglob("*.py")) for c in complaints(path, up)]
    for pair, known in UP.items():
        if up[pair] < known:
            found.append(f"{__file__}: UP {pair}: write {up[pair]}, not {known}")
    sys.stdout.writelines(f"{c}\n" for c in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
