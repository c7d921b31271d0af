"""What every command shares: a YAML beside the options, and one-line errors."""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Callable
from typing import Any

from espnet_llada.bin import process
from espnet_llada.bin.malloc import keep_freed_memory
from espnet_llada.types import UserError, nearest, os_reason
from espnet_llada.yaml_file import read_yaml

_SHELL_ONLY = ("config", "help", "trust_model")  # a file must not ask to be trusted


class OptionParser(argparse.ArgumentParser):
    """An argparse parser whose ``--config`` YAML sets the defaults of its options.

    The command line wins over the YAML. An unknown option or key is a UserError that
    names the nearest known one; nothing is ignored in silence.
    """

    def __init__(self, *args, **kwargs):
        # An abbreviation would hide a misspelt option, and break when one is added.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        """As argparse's; an option that is left over is refused by name."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            raise UserError(
                f"unknown option {rest[0]}{nearest(rest[0], self._names())}"
            )
        return parsed

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, after ``--config`` has set the defaults."""
        parsed, rest = super().parse_known_args(args, copy.copy(namespace))
        config = getattr(parsed, "config", None)
        # A parser around subcommands sees their --config too; it is theirs to read.
        if not config or all(a.dest != "config" for a in self._actions):
            return parsed, rest
        self.set_defaults(**self._checked(config))
        return super().parse_known_args(args, namespace)

    def _names(self) -> list[str]:
        names = [o for a in self._actions for o in a.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names += parser._names()
        return names

    def _checked(self, path: str) -> dict[str, Any]:
        actions = {a.dest: a for a in self._actions}
        values = {}
        for key, value in read_yaml(path).items():
            if key in _SHELL_ONLY and key in actions:
                raise UserError(f"{path}: {key} is for the command line; take it out")
            if key not in actions:
                raise UserError(f"{path}: unknown key '{key}'{nearest(key, actions)}")
            values[key] = self._converted(path, actions[key], value)
        return values

    def _converted(self, path: str, action: argparse.Action, value: Any) -> Any:
        if value is None or action.type is None:
            converted = value
        else:
            try:
                converted = action.type(value if action.type is bool else str(value))
            except (ValueError, argparse.ArgumentTypeError) as e:
                raise UserError(
                    f"{path}: '{action.dest}: {value}' is not a valid value"
                ) from e
        if action.choices and converted not in action.choices:
            allowed = ", ".join(map(str, action.choices))
            raise UserError(f"{path}: '{action.dest}: {value}' is not one of {allowed}")
        return converted

    def error(self, message: str):
        """argparse's own complaints, as one line without the usage block."""
        raise UserError(f"{message}; see {self.prog} --help")


def run_main(main: Callable[..., Any], cmd: list[str] | None = None) -> None:
    """Run ``main(cmd)`` and end the process; what went wrong is one line on stderr.

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
    process.end()
    raise SystemExit(status)


def _outcome(main: Callable[..., Any], cmd: list[str] | None) -> tuple[Any, str]:
    """Exit status, and what is to be said of it."""
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
