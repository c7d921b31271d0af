"""Checks the import rule of the package; ``make lint`` runs it.

Each module may import modules of lower rank only (or of its own room); espnet2 is
imported in espnet_llada/espnet alone, and nothing heavy at the top of the package.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "espnet_llada"
RANKS = [
    (
        "types",
        "compiling",
        "import_guards",
        "frozen",
        "quantize",
        "unusable",
        "vocabulary",
        "data_file",
        "device",
        "schema",
    ),
    ("kaldi", "sampler_options"),
    ("weights", "scoring"),
    ("audio",),
    ("adapter",),
    ("lm",),
    ("sampler",),
    ("misreading", "objective", "pointer", "prefix", "rough"),
    ("cutting", "first_pass", "silence", "slots"),
    ("parts",),
    ("listening",),
    ("passes",),
    ("decoder", "checkpoint", "packed"),
    ("autoregressive", "model"),
    ("architectures", "rereading", "trust"),
    ("blueprint",),
    ("plan", "decode_file", "loading", "recognizer", "release", "release_import"),
    ("api", "trace", "whisper_decoder"),
    ("deliberation", "page"),
    ("espnet", "bin", "bench", "recipe", "run", "__init__"),
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
SCORING_MAY_IMPORT = {"types", "kaldi", "scoring"}


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def complaints(path: Path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room not in RANK:
        yield f"{path}: '{room}' has no rank; give it one in {__file__}"
        return
    for name, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
        parts = name.split(".")
        where = f"{path.relative_to(PACKAGE.parent)}:{line}"
        if parts[0] in ("espnet2", "espnet") and room != "espnet":
            yield f"{where}: imports {parts[0]}; only espnet_llada/espnet may"
        if parts[0] != "espnet_llada" or len(parts) < 2:
            continue
        other = parts[1] if parts[1] in RANK else "__init__"
        if other == "__init__":
            continue
        if RANK[other] > RANK[room]:
            yield f"{where}: '{room}' imports '{other}', which is above it"
        if room == "scoring" and other not in SCORING_MAY_IMPORT:
            yield f"{where}: scoring imports '{other}'; it may import types and kaldi"


def main() -> int:
    found = [c for path in sorted(PACKAGE.rglob("*.py")) for c in complaints(path)]
    sys.stdout.writelines(f"{c}\n" for c in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
