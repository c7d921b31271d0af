"""A command in place of a file, which the user has allowed to run."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from typing import TypeVar

from espnet_llada.types import UserError

Result = TypeVar("Result")


def is_command(place: str) -> bool:
    """Whether kaldiio would run it as a command."""
    return place.strip().startswith("|") or place.strip().endswith("|")


class Pipe(str):
    """A place such as ``sox a.wav -t wav - |`` whose command may be run.

    A plain str of that look is never run: the kind is the permission. Only
    ``table.read_scp`` makes one, where its caller has asked the user.
    """

    __slots__ = ()

    def read(self, reader: Callable[[str], Result]) -> Result:
        """What ``reader`` makes of a file with the command's output.

        Raises:
            UserError: the command fails, or ``reader`` raises it.
        """
        with tempfile.NamedTemporaryFile() as output:
            self._run(output)
            try:
                return reader(output.name)
            except UserError as e:
                raise UserError(str(e).replace(output.name, self)) from e

    def _run(self, output) -> None:
        command = self.rstrip().removesuffix("|")
        done = subprocess.run(
            command,
            shell=True,  # as Kaldi does: they are written for one
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").split("\n")
            reason = next((line for line in reversed(said) if line.strip()), "")
            raise UserError(
                f"{self}: exit code {done.returncode} ({reason.strip():.120}); "
                "run it by hand"
            )
