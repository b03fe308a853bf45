"""Images in tests: an assertion that two look alike, and golden images for pytest.

`similar` is the assertion, `golden` the pytest plugin, which pytest loads at its start: it imports neither torch nor
anything else of the package until a test uses its fixture. Imports `report` and what is below it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.testing.similar import assert_similar as assert_similar


def __getattr__(name: str) -> Any:
    if name != "assert_similar":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("damlpips.testing.similar").assert_similar
