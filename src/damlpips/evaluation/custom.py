"""Metrics of one's own, named FILE.py:NAME: what a Python file calls NAME makes one when it is called."""

import difflib
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from damlpips.files import open_regular, reason
from damlpips.models.base import PerceptualDistance
from damlpips.models.lpips import LPIPS
from damlpips.nets.backbone import Backbone

SUFFIX = ".py"


class MetricFileError(ValueError):
    """A file that cannot be read, or a name in it that makes no metric; the message names both."""


class Made(NamedTuple):
    """A metric that is ready.

    Attributes:
        score: (distorted, reference), each (N, 3, H, W) in [0, 1], to N distances.
        encode: what a reference can be put through once, for this package's own modules; else None.
        options: what a distance depends on besides the images: the file's bytes, weights, options.
    """

    score: Callable[[Any, Any], Tensor]
    encode: Callable[[Tensor], Any] | None
    options: dict[str, Any]


def split(name: str) -> tuple[Path, str] | None:
    """Return the file and the name in it that a metric's name stands for, None if it is no such name."""
    file, _, attribute = (name, "", "") if name.endswith(SUFFIX) else name.rpartition(":")
    return (Path(file), attribute) if file.endswith(SUFFIX) else None


def build(name: str, device: torch.device) -> Made:
    """Return the metric that NAME in FILE.py makes; a `damlpips.Backbone` is LPIPS on it, with uniform heads.

    Raises:
        MetricFileError, Exception: as `made`.
    """
    found, options = made(name, device)
    if isinstance(found, Backbone):
        found = LPIPS(found, heads="uniform").to(device)
        options = {**options, **_state(found)}
    encode = torch.no_grad()(found.encode) if isinstance(found, PerceptualDistance) else None
    return Made(_checked(found, name), encode, options)


def made(name: str, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """Run FILE.py, call its NAME without arguments, and return what this makes, and what that depends on.

    The file's bytes are read once: what is run is what the digest is of. It is run alone: modules beside it cannot be
    imported unless they are on Python's path.

    Raises:
        MetricFileError: no such file, no such name, not a callable, nothing callable made.
        Exception: whatever the file raises.
    """
    file, attribute = split(name) or (Path(name), "")
    if not attribute.isidentifier():
        raise MetricFileError(f"{name}: expected FILE{SUFFIX}:NAME, got {attribute!r} for a name")
    try:
        with open_regular(file) as opened:
            source = opened.read()
    except OSError as error:
        raise MetricFileError(f"{name}: {reason(error)}") from error
    digest = hashlib.sha256(source).hexdigest()
    maker = _named(_module(file, source, digest), attribute, name)
    found = maker()
    if not callable(found):
        raise MetricFileError(
            f"{name}: expected it to make a callable of batches of images, it made {type(found).__name__}"
        )
    if isinstance(found, nn.Module):
        found = found.to(device).eval()
    return found, {"file": digest, **_state(found)}


def _module(file: Path, source: bytes, digest: str) -> ModuleType:
    """Return what the source makes when it is run; that of one file is run once."""
    path = str(file.absolute())
    # under a name: dataclasses look for the module that they are in
    name = f"damlpips_metric_{hashlib.sha256(f'{digest} {path}'.encode(errors='surrogateescape')).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named(module: ModuleType, attribute: str, name: str) -> Callable[[], Any]:
    known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "no name is near it"
        raise MetricFileError(f"{name}: no {attribute!r} in this file: {hint}")
    found = getattr(module, attribute)
    if not callable(found):
        raise MetricFileError(
            f"{name}: expected a callable that makes the metric, got {type(found).__name__} {attribute!r}"
        )
    return found


def _checked(made: Callable[[Any, Any], Any], name: str) -> Callable[[Any, Any], Tensor]:
    """Return the metric as one that gives nothing but a distance a pair."""

    def score(distorted: Any, reference: Any) -> Tensor:
        found, n = made(distorted, reference), len(distorted)
        if not isinstance(found, Tensor) or found.shape != (n,) or found.is_complex():
            got = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"{name}: expected a distance a pair, a tensor ({n},) of real numbers, got {got}")
        return found

    return score


def _state(made: Any) -> dict[str, Any]:
    """Return the digest of a module's parameters and buffers, and the options of this package's modules in it."""
    if not isinstance(made, nn.Module):
        return {}
    digest = hashlib.sha256()
    for name, tensor in _tensors(made):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    own = [module.load().configuration() for module in made.modules() if isinstance(module, PerceptualDistance)]
    return {"state": digest.hexdigest(), "own": own}


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # not state_dict: buffers that are not saved count, too
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
