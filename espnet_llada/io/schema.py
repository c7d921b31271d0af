"""Checks the content of files and options against declared types and bounds.

A kind is an annotation: ``Annotated[int, Meta(ge=1)]``, a dataclass, a ``Struct``; or,
by ``options_of``, the constructor that the options are for, whose own annotations are
then the one place that says what fits. Nothing is converted but a whole number where
a number is wanted: a switch in quotes is a text, and a text is no switch.
"""

from __future__ import annotations

import functools
import inspect
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec import inspect as kinds

from espnet_llada.types import UserError, nearest

LARGEST = 2**31 - 1
"""Of any whole number that counts something."""

Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Natural = Annotated[int, Meta(ge=0, le=LARGEST)]
Jobs = Annotated[int, Meta(ge=1, le=1024)]
"""Processes that run at once."""
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Weight = Annotated[float, Meta(ge=0.0, le=1e6)]
"""Of a loss, or of a score."""
Width = Annotated[int, Meta(ge=1, le=1 << 17)]
"""Of a layer."""
Layers = Annotated[int, Meta(ge=1, le=1 << 10)]
"""Or heads: modules are made one by one, before a file can contradict."""
Tokens = Annotated[int, Meta(ge=1, le=1 << 23)]
"""Of a vocabulary."""
Frames = Annotated[int, Meta(ge=0, le=1500)]
"""Of Whisper's 30 s."""
Dtype = Literal["float32", "bfloat16"]
"""Of frozen weights."""

DEEPEST = 64
"""Levels of a file."""

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_HALF = "has a NUL or half a character"
_PLAIN = {str, int, bool, float, type(None), list, dict}


def named(place: str) -> Any:
    """What ``module:name`` says.

    Raises:
        UserError: this installation lacks the module.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as e:
        raise UserError(
            f"{name}: this installation of espnet_llada lacks {module}; install it "
            "whole"
        ) from e


class OptionsOf:
    """In ``Annotated[Mapping[str, Any], OptionsOf(cls)]``: a mapping of its options.

    Args:
        function: the class; or ``module:name``, which is imported when there is such a
            mapping.
    """

    def __init__(self, function: Callable[..., Any] | str):
        self._function = function

    @property
    def function(self) -> Callable[..., Any]:
        """The class."""
        if not isinstance(self._function, str):
            return self._function
        return named(self._function)

    @property
    def later(self) -> bool:
        """Whether the class is not imported yet."""
        return isinstance(self._function, str)


@functools.cache
def options_of(function: Callable[..., Any]) -> type[Struct]:
    """The options of a class or function: those of its parameters with a default."""
    signature = inspect.signature(function)
    hints = get_type_hints(_called(function), include_extras=True)
    fields = [
        (name, _kind(hints[name]), parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.default is not parameter.empty
    ]
    return msgspec.defstruct(function.__qualname__, fields, forbid_unknown_fields=True)


def _kind(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(map(_kind, get_args(hint)))]  # noqa: UP007
    if get_origin(hint) is Annotated:
        markers = [m for m in get_args(hint) if isinstance(m, OptionsOf)]
        if not markers:
            return hint
        later = markers[0].later
        return dict[str, Any] if later else options_of(markers[0].function)
    return hint


def _later(function: Callable[..., Any]) -> dict[str, OptionsOf]:
    """The options that are mappings of a class which is imported when one is given."""
    hints = get_type_hints(
        function if is_dataclass(function) else _called(function), include_extras=True
    )
    found = {}
    for name, hint in hints.items():
        for part in (hint, *get_args(hint)):
            markers = [m for m in get_args(part) if isinstance(m, OptionsOf)]
            if markers and markers[0].later:
                found[name] = markers[0]
    return found


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    # A dataclass's fields may be those of another module's.
    by_init = isinstance(function, type) and not is_dataclass(function)
    return function.__init__ if by_init else function


def checked(value: Any, kind: Any, where: object = "") -> Any:
    """A value as its kind, e.g. a mapping as the dataclass that it describes.

    Args:
        value: of mappings, lists, texts, numbers, switches and None.
        kind: see above.
        where: it comes from, for messages.

    Raises:
        UserError: names the place, what is there and what fits.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        before = f"{where}: " if where else ""
        raise UserError(f"{before}{_message(str(e), value, kind)}") from e
    except UnicodeEncodeError as e:
        raise UserError(f"{where}: {e.object!r:.80}: {_HALF}") from e


def check_options(
    given: Mapping[str, Any], function: Callable[..., Any], where: object = ""
) -> dict[str, Any]:
    """Check the options given for a class or function.

    Numbers may be NumPy's.

    Raises:
        UserError: an unknown name or a value that does not fit.
    """
    options = checked(
        {name: _own_number(value) for name, value in given.items()},
        options_of(function),
        where,
    )
    for name, later in _later(function).items():
        if given.get(name) is not None:
            check_options(given[name], later.function, f"{where}: {name}")
    return {name: getattr(options, name) for name in given}


def _own_number(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "array": "a list",
    "object": "'key: value' lines",
    "null": "nothing",
}


def _message(message: str, value: Any, kind: Any) -> str:
    """msgspec's message in our words: where, the value, what is allowed."""
    reason, _, place = message.partition(" - at ")
    place = place.removeprefix("`key` in ").strip("`$").removeprefix(".")
    steps = re.findall(r"[^.\[\]]+|\[\d+\]|\[\.\.\.\]", place)
    info, value = _follow(kinds.type_info(kind), value, steps)
    before = f"{place}: " if place else ""
    named = re.search("`(.*)`", reason)
    if reason.startswith("Object contains unknown field") and named:
        known = [field.encode_name for field in getattr(info, "fields", ())]
        key = named[1]
        return f"{before}unknown key '{key}'{nearest(key, known)}"
    if reason.startswith("Object missing required field") and named:
        return f"{before}no {named[1]} in it"
    if reason.startswith("Invalid enum value"):
        allowed = ", ".join(map(str, getattr(info, "values", ())))
    else:
        allowed = reason.partition(", got ")[0].removeprefix("Expected ")
        allowed = re.sub(r"`(.*?)`", lambda m: _type_names(m[1]), allowed)
    mend = _mend(value, reason)
    return f"{before}{_quoted(value)} does not fit; allowed: {allowed}{mend}"


def _quoted(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of so many digits"  # some are refused by repr itself
    text = reprlib.repr(value) if isinstance(value, (list, dict)) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _type_names(names: str) -> str:
    return " or ".join(_NAMES.get(name, name) for name in names.split(" | "))


def _mend(value: Any, reason: str) -> str:
    written = "true|false" if "`bool" in reason else r"[-+.0-9]+(e[-+0-9]+)?"
    wanted = re.search("`(int|float|bool)", reason)
    if wanted and isinstance(value, str) and re.fullmatch(written, value, re.I):
        return "; write it without quotes"
    if type(value) in (int, float, bool) and "`str" in reason:
        return "; write it in quotes"
    return ""


def _follow(info: Any, value: Any, steps: list[str]) -> tuple[Any, Any]:
    """Type and value at a path, as far as they are known."""
    for step in steps:
        info = _without_none(info)
        if isinstance(value, list) and step[1:-1].isdigit():
            value = value[int(step[1:-1])]
            info = getattr(info, "item_type", None)
        elif isinstance(value, dict) and step in value:
            value = value[step]
            fields = {f.encode_name: f.type for f in getattr(info, "fields", ())}
            info = fields.get(step)
        else:
            return None, value
    return _without_none(info), value


def _without_none(info: Any) -> Any:
    if isinstance(info, kinds.Metadata):  # of a Meta with a description
        info = info.type
    if not isinstance(info, kinds.UnionType):
        return info
    others = [t for t in info.types if not isinstance(t, kinds.NoneType)]
    return others[0] if len(others) == 1 else info


def check_plain(content: Any, where: object, most: int) -> None:
    """Refuse content that is not plain data.

    That is: a value inside itself or many times over (YAML's aliases), nesting that
    is too deep, a key that is no text, a text that no file could hold or be called.
    (Numbers are held to bounds where they are used; a training's may be infinite.)

    Args:
        content: what a parser has made of a file.
        where: the file, for messages.
        most: values in it, one for each time that it is seen.

    Raises:
        UserError: names the file and what it is.
    """
    for count, (value, depth) in enumerate(_values(content)):
        if count > most or depth > DEEPEST:
            raise UserError(f"{where}: nested too deep, or in itself; write it plainly")
        if type(value) not in _PLAIN:
            raise UserError(f"{where}: {value!s:.60}: write it in quotes")
        if isinstance(value, str) and _UNWRITABLE.search(value):
            raise UserError(f"{where}: {value[:60]!r}: {_HALF}")
        for key in value if isinstance(value, dict) else ():
            if not isinstance(key, str):
                raise UserError(f"{where}: key {key!s:.60}: write it in quotes")


def _values(content: Any) -> Iterator[tuple[Any, int]]:
    stack = [(content, 1)]
    while stack:
        value, depth = stack.pop()
        yield value, depth
        if isinstance(value, dict):
            stack += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            stack += [(inner, depth + 1) for inner in value]


@dataclass(frozen=True)
class OptionField:
    """An option of a dataclass of options.

    Attributes:
        name: its own.
        kind: annotated.
        default: its value where none is given.
        text: what it is.
        choices: the values it may have, where they are few.
    """

    name: str
    kind: Any
    default: Any
    text: str
    choices: tuple[Any, ...] = ()


def option_fields(cls: type) -> list[OptionField]:
    """The options of a dataclass: annotations describe each in one place."""
    hints, found = get_type_hints(cls, include_extras=True), []
    for field in fields(cls):
        kind, *notes = get_args(hints[field.name])
        texts = [n.description for n in notes if getattr(n, "description", None)]
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        given = field.name, hints[field.name], field.default
        found.append(OptionField(*given, " ".join(texts), choices))
    return found


def require(holds: bool, name: str, value: object, allowed: object) -> None:
    """Refuse an option's value in one line, unless it ``holds``.

    Raises:
        UserError: names the option, its value and what is allowed.
    """
    if not holds:
        raise UserError(f"{name}: {value!r} does not fit; allowed: {allowed}")
