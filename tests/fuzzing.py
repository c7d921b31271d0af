"""Makes shipped files and options wrong, in the ways that people and bit errors do."""

from __future__ import annotations

import copy
import datetime
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

import yaml

from espnet_llada.types import UserError

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.5, 1e308, 5e-324, math.inf, -math.inf, math.nan),
    *("", " ", "8", "0.5", "false", "null", "nan", "x\0y", "é", "٣", "1_0", "\ud800"),
    *("~nobody/x", "..", "/", "/dev/null", "n" * 300, "owner/model\n", "{}", "{0.x}"),
    *([], [1], ["a", "a"], [[]], {}, {"a": 1}, {1: 2}, {None: 1}),
    datetime.date(2026, 1, 1),
]

SNIPPETS = [
    *("[" * 2000, "{a: " * 2000, "- " * 2000, "\t", "\0", "\ufeff", "---\n", "...\n"),
    "!!python/object/apply:os.system [false]\n",
    "!!python/name:os.system\n",
    "!mine {a: 1}\n",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    ),
    *("&a [*a]\n", "a: &a {a: *a}\n", "<<: 5\n", "<<: [1]\n", "? [1, 2]\n: 3\n"),
    *("1: 2\n", "null: 1\n", "on: 1\n", "2026-01-01: 1\n", "a: 2026-99-01\n"),
    *(
        "steps: 8\nsteps: 9\n",
        f"steps: {'9' * 5000}\n",
        "a: !!int x\n",
        "a: !!float y\n",
    ),
    *(
        "a: !!binary %\n",
        "a: !!timestamp x\n",
        "a: !!set {b}\n",
        "*nothing\n",
        "%YAML 9\n",
    ),
    "a: 0o7777777777777777777777777777\n",
    "a: 1:99:99:99:99\n",
]


def paths(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where the nodes of nested mappings and lists are."""
    yield at
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, child in inside:
        yield from paths(child, (*at, key))


def mutated(random: Random, value: Any) -> Any:
    """A copy in which a few things are wrong."""
    value = copy.deepcopy(value)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = [p for p in paths(value) if p]
        if not places:
            return random.choice(ODD)
        value = _changed(random, value, random.choice(places))
    return value


def _changed(random: Random, value: Any, place: tuple) -> Any:
    if random.random() < 0.02:
        return random.choice(ODD)
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    key, kind = place[-1], random.randrange(10)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        new = random.choice([f"{key}s", 5, None, True, "", "é"])
        parent[new] = parent.pop(key)
    elif kind == 2 and isinstance(parent, dict):
        parent[random.choice(["extra", 3, ""])] = random.choice(ODD)
    elif kind == 3:
        parent[key] = [parent[key]]
    elif kind == 4 and not isinstance(parent[key], (dict, list)):
        parent[key] = str(parent[key])
    else:
        parent[key] = copy.deepcopy(random.choice(ODD))
    return value


def as_yaml(random: Random, value: Any) -> bytes:
    """A mutated value as YAML, at times with the text itself damaged."""
    text = yaml.dump(mutated(random, value), sort_keys=False)
    if random.random() < 0.3:
        lines = yaml.dump(value, sort_keys=False).splitlines(True)
        place = random.randrange(len(lines) + 1)
        text = "".join([*lines[:place], random.choice(SNIPPETS), *lines[place:]])
    return damaged(random, text)


def as_json(random: Random, value: Any) -> bytes:
    """A mutated value as JSON."""
    mad = mutated(random, value)
    try:
        text = json.dumps(mad, default=str)
    except TypeError:  # keys
        text = "{1: 2}"
    if random.random() < 0.2:
        whole = json.dumps(value)
        place = random.randrange(len(whole) + 1)
        more = random.choice(["[" * 100_000, '{"a":' * 20_000, "NaN", "9" * 5000, ","])
        text = whole[:place] + more + whole[place:]
    return damaged(random, text)


def damaged(random: Random, text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    kind = random.randrange(40)
    place = random.randrange(len(content) + 1)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes([random.randrange(256)]) + content[place + 1 :]
    if kind == 2:
        return text.encode("utf-16", "surrogatepass")
    return content


WORDS = [
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "-0.0",
        "0",
        "9" * 30,
        "9" * 5000,
        "1_0",
        "٣",
    ),
    *("", " ", "x", "true", "false", "None", "[]", "1e-400", "0x10", "½", "n" * 300),
    *("2147483648", "1.5", "++1", "8 ", "\u200b8", "~nobody/x", "/", "..", "é", "-"),
]


def command_line(random: Random, options: dict[str, list[str]]) -> list[str]:
    """Options with odd values; ``options`` has good values of each."""
    words = []
    names = random.sample(sorted(options), min(len(options), random.randint(1, 3)))
    for name in names:
        odd = random.random() < 0.7 or not options[name]
        words += [name, random.choice(WORDS if odd else options[name])]
    if random.random() < 0.1:
        words.append(random.choice([*WORDS, "--stepz", "--", "--steps"]))
    return words


def one_line(error: UserError) -> bool:
    """Whether a message is what a user should see."""
    text = str(error)
    return bool(text.strip()) and len(text.splitlines()) == 1
