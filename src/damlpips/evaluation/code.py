"""Which code a number goes through: between two releases it changes, and the number with it."""

import ast
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def digest(*modules: str) -> str:
    """Return a digest of the files of some of this package's modules, named as in `evaluation.peers`."""
    found = hashlib.sha256()
    for module in sorted(set(modules)):
        found.update(module.encode() + b"\0" + _file(module).read_bytes() + b"\0")
    return found.hexdigest()


def with_imports(module: str) -> set[str]:
    """Return a module of this package and all of the package's that it imports, at whatever time and by whatever way.

    Example:
        >>> from damlpips.evaluation.code import with_imports
        >>> "distance" in with_imports("models"), "metrics" in with_imports("models")
        (True, False)
    """
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(_file(name).read_bytes())):
            waiting += [name for name in _imported(node) if _file(name).exists()]
    return seen


def _imported(node: ast.AST) -> list[str]:
    """Return the modules of this package that a statement may import: `from damlpips import a` may be a name, too."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name.removeprefix("damlpips.") for name in names if name.startswith("damlpips.")]


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
