"""What is done when modules are imported: old names are found, and pyiqa learns the names of the metrics."""

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from typing import Any


class Moved:
    """Finds modules by the names that they had in earlier versions: a finder and its loader in one.

    Args:
        names: where the modules are now, by their old names.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._names else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to make an empty module."""

    def exec_module(self, module: Any) -> None:
        """Put the module of today in the place of the empty one that was made for its old name."""
        sys.modules[module.__name__] = import_module(self._names[module.__name__])


class AfterImport:
    """Calls a function once a package has been imported, at once if it has been already.

    An error of the function becomes a warning: the package of others works without.
    """

    def __init__(self, package: str, function: Callable[[], object]) -> None:
        self._package, self._function = package, function

    def install(self) -> None:
        """Start to watch for the package."""
        if self._package in sys.modules:
            self._call()
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != self._package:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)  # type: ignore[arg-type]
            if spec is not None and spec.loader is not None:
                spec.loader = _Then(spec.loader, self._call)
                return spec
        return None

    def _call(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        try:
            self._function()
        except Exception as error:
            warnings.warn(
                f"damlpips could not be registered with {self._package}: {error}", RuntimeWarning, stacklevel=2
            )


class _Then(Loader):
    """A package's own loader, and a call after it."""

    def __init__(self, loader: Any, call: Callable[[], object]) -> None:
        self._loader, self._call = loader, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._call()
