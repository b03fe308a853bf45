"""This package's metrics in other libraries: one module or folder for each library, named after it.

An adapter holds conventions of the other library and nothing of the metrics; it imports that library, `models` and
whatever else lies below. A new one gets a module here and an extra in pyproject.toml, and if users build its metrics by
a name, a `register()` that returns the names and a place in `ECOSYSTEMS`. Importing this module imports no library.
"""

from importlib import import_module
from importlib.util import find_spec

from damlpips.checks import one_of

ECOSYSTEMS = ("pyiqa", "piq")


def register(*ecosystems: str) -> list[str]:
    """Make this package's metrics known to pyiqa and piq, and return the names that can now be used.

    pyiqa then builds `damlpips`, `damlpips-alex`, `damlpips-vgg`, `damlpips-squeeze`, `lpips-fast`, `lpips-fast-vgg`
    and `lpips-fast-squeeze` with `pyiqa.create_metric`; piq gets `piq.DAMLPIPS` and `piq.damlpips`. Calling it again
    changes nothing.

    Args:
        ecosystems: `"pyiqa"`, `"piq"`; without any, those of the two that are installed.

    Raises:
        ImportError: an ecosystem that was named is not installed, or neither is.
        ValueError: an unknown ecosystem.

    Example:
        >>> import damlpips
        >>> names = damlpips.register("piq")
        >>> import piq
        >>> piq.DAMLPIPS()
        DAMLPIPS(backbone='nano', reduction='mean')
    """
    wanted = [one_of("ecosystem", e, ECOSYSTEMS) for e in ecosystems] or [e for e in ECOSYSTEMS if find_spec(e)]
    if not wanted:
        raise ImportError(
            "neither pyiqa nor piq is installed: pip install 'damlpips[pyiqa]' or pip install 'damlpips[piq]'"
        )
    for ecosystem in wanted:
        if find_spec(ecosystem) is None:
            raise ImportError(f"{ecosystem} is not installed: pip install 'damlpips[{ecosystem}]'")
    return [name for e in wanted for name in import_module(f"damlpips.adapters.{e}").register()]
