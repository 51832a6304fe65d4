from collections.abc import Iterator

import pytest

from tests.router.deployment.rounds import Rounds


@pytest.fixture
def rounds(monkeypatch) -> Iterator[Rounds]:
    rounds = Rounds(monkeypatch)
    yield rounds
    rounds.external.stop()
