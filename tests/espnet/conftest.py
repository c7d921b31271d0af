"""A process that has imported ESPnet, for all trainings of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from train_helpers import Trainings


@pytest.fixture(scope="session")
def trainings(repo) -> Iterator[Trainings]:
    with Trainings(repo) as server:
        yield server
