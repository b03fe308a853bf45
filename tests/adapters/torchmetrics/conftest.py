"""Tests that take `make` run for both metrics."""

import pytest

from tests.support.metrics import KINDS, Make


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    return KINDS[request.param]
