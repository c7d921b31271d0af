"""Gathers what is wrong with a corpus, so that one run names several things to mend."""

from __future__ import annotations

import logging

from espnet_llada.types import UserError

logger = logging.getLogger(__name__)

SHOWN = 10


class Problems:
    """Complaints, each one line that names a path and the mend."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, complaint: str) -> None:
        """Take note; only the first ``SHOWN`` are kept."""
        self.count += 1
        if len(self._first) < SHOWN:
            self._first.append(complaint)

    def check(self) -> None:
        """Return if there are none.

        Raises:
            UserError: the complaint; where there are several, the first ones are
                logged, and the error gives their number.
        """
        if self.count < 2:
            for complaint in self._first:
                raise UserError(complaint)
            return
        for complaint in self._first:
            logger.error("%s", complaint)
        listed = "all" if self.count <= SHOWN else f"the first {SHOWN}"
        raise UserError(
            f"{self.count} problems ({listed} are listed above), e.g. {self._first[0]}"
        )
