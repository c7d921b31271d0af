"""Unusable utterances are skipped, logged once and counted, up to a limit."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from espnet_llada.types import UserError

logger = logging.getLogger(__name__)

LIMIT = 0.01
"""Share of a set that may be bad. More indicates a fault of the whole set (a wrong
path, a broken disk), which skipping utterances would hide."""

_NAMED = 3  # utterances that an error lists


class BadUtterances:
    """The utterances of one set of data that cannot be used.

    Args:
        source: the set, as messages name it: a file or a directory.
        total: utterances of the set; 0: unknown, so there is no limit.
    """

    def __init__(self, source: str, total: int):
        self.source, self.total = source, total
        self.reasons: dict[str, str] = {}

    def add(self, utt_id: str, reason: str) -> None:
        """Leave an utterance out; logged the first time."""
        if utt_id not in self.reasons:
            self.reasons[utt_id] = reason
            self.report(utt_id, reason)

    def report(self, utt_id: str, reason: str) -> None:
        """Log that an utterance is left out."""
        logger.warning("%s: '%s' is left out: %s", self.source, utt_id, reason)

    def check(self) -> None:
        """Raise if too many are left out.

        Raises:
            UserError: with the count and the first utterances.
        """
        check(self.source, self.reasons, len(self.reasons), self.total)

    def __str__(self) -> str:
        return f"{self.source}: {len(self.reasons)} of {self.total} utterances left out"


def check(source: str, reasons: Mapping[str, str], count: int, total: int) -> None:
    """As ``BadUtterances.check``, where ``reasons`` may be some of ``count``.

    Raises:
        UserError: with the count and the first utterances.
    """
    if not total or count <= LIMIT * total:
        return
    first = "; ".join(f"{u} ({r})" for u, r in list(reasons.items())[:_NAMED])
    more = f"; and {count - _NAMED} more" if count > _NAMED else ""
    raise UserError(
        f"{source}: {count} of {total} utterances cannot be used, which is above "
        f"{LIMIT:.0%}: {first}{more}; repair or remove them"
    )
