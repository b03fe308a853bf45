"""What the tests of modules share."""

import pytest

from tests.support.modules import KINDS


@pytest.fixture(params=KINDS)
def make(request):
    """Make an LPIPS, or a DAMLPIPS, on a backbone."""
    return KINDS[request.param]
