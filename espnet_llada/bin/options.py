"""Option parsing of all commands, also from a YAML, and one-line errors."""

from __future__ import annotations

import argparse
import copy
import logging
import re
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from msgspec import Meta

from espnet_llada.bin import process
from espnet_llada.inference.options import hint
from espnet_llada.io.files import read_yaml
from espnet_llada.io.malloc import keep_freed_memory
from espnet_llada.io.schema import checked
from espnet_llada.types import UserError, os_reason

WHOLE = Annotated[int, Meta(ge=-(2**62), le=2**62)]
FINITE = Annotated[float, Meta(ge=-1e300, le=1e300)]
_SWITCH = {
    **dict.fromkeys(("true", "1", "yes"), True),
    **dict.fromkeys(("false", "0", "no"), False),
}


class OfKind:
    """Type of an option that is a number or a switch, also in a YAML.

    Args:
        kind: a number with its bounds, or ``bool`` (see ``schema``).
    """

    def __init__(self, kind: Any):
        self.kind = kind
        self._base = get_args(kind)[0] if get_origin(kind) is Annotated else kind

    def __call__(self, text: str) -> Any:
        """Parse a value of the command line."""
        try:
            return checked(self._read(text), self.kind)
        except UserError as e:
            raise argparse.ArgumentTypeError(str(e)) from e

    def _read(self, text: str) -> Any:
        """The number; or the text itself if it is none."""
        if self._base is bool and text.lower() in _SWITCH:
            return _SWITCH[text.lower()]
        # int() and float() also take 1_000, spaces and the digits of any script.
        if not re.fullmatch(r"[-+.a-zA-Z0-9]+", text):
            return text
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        return text


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of descriptions and examples; compact options."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=22)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if len(action.option_strings) < 2:
            return super()._format_action_invocation(action)
        value = action.nargs != 0 and self._format_args(action, action.dest.upper())
        return ", ".join(action.option_strings) + (f" {value}" if value else "")


class _Help(argparse.Action):
    """``--help``; ``--help all`` shows rare options and extensions too."""

    def __init__(self, option_strings: Sequence[str], dest: str, **rest: Any):
        super().__init__(
            option_strings,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            nargs="?",
            metavar="all",
            help="show this, or all options",
        )

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if values == "all":
            parser.add_groups()
        for action in parser._actions:
            if action.dest in parser.rare and values != "all":
                action.help = argparse.SUPPRESS
            if action is self and not (parser.rare or parser.groups):
                self.metavar, self.nargs, self.help = None, 0, "show this"
        parser.print_help()
        parser.exit()


str2bool = OfKind(bool)
"""Type of a switch as in ESPnet: true or false."""

# A file must not ask to be trusted.
_SHELL_ONLY = ("config", "help", "version", "trust_model")


class OptionParser(argparse.ArgumentParser):
    """An argparse parser whose ``--config`` YAML sets the defaults of its options.

    The command line wins over the YAML. An unknown option or key is a UserError that
    names the nearest known one; nothing is silently ignored.
    """

    groups: Mapping[str, Callable[[], None]] = {}
    """Functions that add the options ``--NAME`` and ``--NAME.option``, called when one
    of them is used; in a YAML NAME is a mapping, true or false."""

    rare: Sequence[str] = ()
    """Options shown by ``--help all`` only."""

    def __init__(self, *args, add_help: bool = True, **kwargs):
        kwargs.setdefault("formatter_class", _Formatter)
        # An abbreviation would hide a misspelt option, and break when one is added.
        super().__init__(*args, allow_abbrev=False, add_help=False, **kwargs)
        self._added: set[str] = set()  # of the groups
        self.register("type", int, OfKind(WHOLE))
        self.register("type", float, OfKind(FINITE))
        if add_help:
            self.add_argument("-h", "--help", action=_Help)

    def parse_args(self, args=None, namespace=None):
        """As argparse's; an unknown option is a UserError."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            name = rest[0].partition("=")[0]
            raise UserError(f"unknown option {name}{hint(name, self._names())}")
        return parsed

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, with the defaults of ``--config``."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            self._add_group(re.split("[.=]", word.removeprefix("--"))[0])
        parsed, rest = super().parse_known_args(args, copy.copy(namespace))
        config = getattr(parsed, "config", None)
        # A parser around subcommands sees their --config too; it is theirs to read.
        if not config or all(a.dest != "config" for a in self._actions):
            return parsed, rest
        values = self.values_of(read_yaml(config), config)
        self.set_defaults(**_not_overruled(values, vars(parsed)))
        return super().parse_known_args(args, namespace)

    def _add_group(self, name: str) -> None:
        if name in self.groups and name not in self._added:
            self._added.add(name)
            self.groups[name]()

    def add_groups(self) -> None:
        """Add all of ``groups``."""
        for name in self.groups:
            self._add_group(name)

    def _names(self) -> list[str]:
        self.add_groups()
        shown = [a for a in self._actions if a.help != argparse.SUPPRESS]
        names = [o for a in shown for o in a.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names += parser._names()
        return names

    def values_of(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Check the options of a YAML.

        Args:
            given: {option without dashes: value}.
            where: they come from, for messages.

        Raises:
            UserError: an unknown option, or a value that does not fit.
        """
        flat: dict[str, Any] = {}
        for key, value in given.items():
            flat |= (
                self._flat(key, value, where) if key in self.groups else {key: value}
            )
        known = {a.dest: a for a in self._actions if a.option_strings}
        for key in flat:
            if key in _SHELL_ONLY and f"--{key}" in self._option_string_actions:
                raise UserError(f"{where}: {key} is for the command line; take it out")
            if key not in known:
                names = [name.lstrip("-") for name in self._names()]
                raise UserError(f"{where}: unknown key '{key}'{hint(key, names)}")
        return {k: self._value(v, known[k], where) for k, v in flat.items()}

    def _flat(self, group: str, value: Any, where: str) -> dict[str, Any]:
        """A group of a YAML, by the names of the command line."""
        self._add_group(group)
        if isinstance(value, dict) and value:
            return {f"{group}.{name}": inner for name, inner in value.items()}
        if value is not None and value != {} and not isinstance(value, bool):
            raise UserError(
                f"{where}: {group}: {reprlib.repr(value)} does not fit; allowed: "
                "'option: value' lines, true or false"
            )
        return {group: value is not None and value is not False}

    def _value(self, value: Any, action: argparse.Action, where: str) -> Any:
        if value is None and action.default is None:
            return None
        kind = self._kind(action)
        value = checked(value, kind, f"{where}: {action.dest}")
        if kind is not str:
            return value
        try:
            value = self._get_value(action, value)
            self._check_value(action, value)
        except argparse.ArgumentError as e:
            raise UserError(f"{where}: {action.dest}: {e.message}") from e
        return value

    def _kind(self, action: argparse.Action) -> Any:
        if action.nargs == 0:  # a switch by its name alone
            return bool
        function = self._registry_get("type", action.type, action.type)
        kind = getattr(function, "kind", str)
        many = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
        return list[kind] if many else kind

    def error(self, message: str):
        """argparse's own complaints, as one line without the usage block."""
        raise UserError(f"{message}; see {self.prog} --help")


def _not_overruled(
    values: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """A YAML's options, without groups that the command line turns on or off."""

    def overruled(name: str) -> bool:
        group, _, option = name.partition(".")
        if option:
            return given.get(group) is False
        return values[name] is False and any(k.startswith(f"{name}.") for k in given)

    return {k: v for k, v in values.items() if not overruled(k)}


def run_main(main: Callable[..., Any], cmd: list[str] | None = None) -> None:
    """Run ``main(cmd)`` and end the process; an error is one line on stderr.

    A UserError, a file's or the memory's failure end as ``error: …`` and exit code 2,
    an interrupt as 130. Output that is lost is an error too; where its reader (head,
    grep -q) has gone, without a word.
    """
    process.begin(runs_main=True)
    keep_freed_memory()
    status, complaint = _outcome(main, cmd)
    lost = process.flush_stdout()
    if isinstance(lost, BrokenPipeError):
        status = status or 1
    elif lost:
        status, complaint = 2, complaint or f"error: {os_reason(lost)}"
    if complaint:
        process.say(complaint)
    process.end(status)


def _outcome(main: Callable[..., Any], cmd: list[str] | None) -> tuple[Any, str]:
    """Exit status and message."""
    try:
        return main(cmd) or 0, ""
    except SystemExit as e:  # of --help
        return e.code, ""
    except UserError as e:
        return 2, f"error: {e}"
    except KeyboardInterrupt:
        return 130, "interrupted"
    except BrokenPipeError:
        return 1, ""
    except OSError as e:
        logging.debug("", exc_info=True)
        return 2, f"error: {os_reason(e)}"
    except MemoryError:
        return 2, "error: out of memory; give it less at once, or a smaller model"
    except UnicodeEncodeError as e:
        around = e.object[max(0, e.start - 60) : e.end + 60]
        return 2, f"error: '{around}' cannot be written in {e.encoding}; rename it"
