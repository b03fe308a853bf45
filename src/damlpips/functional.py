"""LPIPS and DAMLPIPS in one call. The module of each set of options is built once and kept."""

import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from damlpips.features import Backbone, Encoded
from damlpips.models import DAMLPIPS, DEFAULT_BACKBONE, LPIPS, Images, PerceptualDistance


@lru_cache(maxsize=16)
def _module(kind: type[PerceptualDistance], device: torch.device, options: tuple[tuple[str, Any], ...]) -> Any:
    return kind(**dict(options)).to(device)


def _device(x: Images) -> torch.device:
    # anything else is refused by the module, with a better message than can be given here
    return x.device if isinstance(x, (Tensor, Encoded)) else torch.device("cpu")


def _hashable(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return options as a key: paths as text, lists as tuples."""

    def plain(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        return tuple(value) if isinstance(value, list) else value

    return tuple((name, plain(value)) for name, value in sorted(options.items()))


def lpips(x: Images, y: Images, *, backbone: str | Backbone = "alex", **options: Any) -> Tensor:
    """Return the LPIPS distance of each pair, (N,), or its mean or sum; lower is closer.

    Runs on the images' device. The module is built on the first call with its options and kept for the next.

    Args:
        x, y: (N, 3, H, W), or what `LPIPS.encode` returned.
        backbone, options: those of `damlpips.LPIPS` (`weights`, `heads`, `comparison`, `reduction`, ...).

    Raises:
        TypeError, ValueError, WeightsError: as `damlpips.LPIPS`.

    Example:
        >>> import torch
        >>> from damlpips.functional import lpips
        >>> x = torch.rand(2, 3, 64, 64)
        >>> lpips(x, x, backbone="nano", heads="uniform")
        tensor([0., 0.])
    """
    return _module(LPIPS, _device(x), _hashable({"backbone": backbone, **options}))(x, y)


def damlpips(x: Images, y: Images, *, backbone: str | Backbone = DEFAULT_BACKBONE, **options: Any) -> Tensor:
    """Return the DAMLPIPS distance of each pair, (N,), or its mean or sum; lower is closer.

    Runs on the images' device. The module is built on the first call with its options and kept for the next.

    Args:
        x, y: (N, 3, H, W), or what `DAMLPIPS.encode` returned.
        backbone, options: those of `damlpips.DAMLPIPS` (`weights`, `value_range`, `reduction`, `rho`, `gamma`, ...).

    Raises:
        TypeError, ValueError, WeightsError: as `damlpips.DAMLPIPS`.

    Example:
        >>> import torch
        >>> from damlpips.functional import damlpips
        >>> x = torch.rand(2, 3, 64, 64)
        >>> damlpips(x, x)
        tensor([0., 0.])
    """
    return _module(DAMLPIPS, _device(x), _hashable({"backbone": backbone, **options}))(x, y)
