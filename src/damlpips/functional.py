"""LPIPS and DAMLPIPS in one call. The module of each set of options is built once and kept."""

import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from damlpips import checks
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


def lpips(
    x: Images,
    y: Images,
    *,
    backbone: str | Backbone = "alex",
    weights: str | os.PathLike[str] | None = None,
    heads: str | os.PathLike[str] = "v0.1",
    value_range: tuple[float, float] = (0.0, 1.0),
    reduction: str = "none",
    grey: checks.Grey = None,
    resize: checks.Resize = None,
    check_values: bool = True,
) -> Tensor:
    """Return the LPIPS distance of each pair, (N,), or its mean or sum; see `damlpips.LPIPS`.

    Runs on the images' device. The module is built on the first call with its options and kept for the next.

    Example:
        >>> import torch
        >>> from damlpips.functional import lpips
        >>> x = torch.rand(2, 3, 64, 64)
        >>> lpips(x, x, backbone="gabor", heads="uniform")
        tensor([0., 0.])
    """
    options = _hashable(
        {
            "backbone": backbone,
            "weights": weights,
            "heads": heads,
            "value_range": value_range,
            "reduction": reduction,
            "grey": grey,
            "resize": resize,
            "check_values": check_values,
        }
    )
    return _module(LPIPS, _device(x), options)(x, y)


def damlpips(
    x: Images,
    y: Images,
    *,
    backbone: str | Backbone = DEFAULT_BACKBONE,
    weights: str | os.PathLike[str] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    reduction: str = "none",
    grey: checks.Grey = None,
    resize: checks.Resize = None,
    check_values: bool = True,
    rho: float = 0.25,
    gamma: float = 0.5,
) -> Tensor:
    """Return the DAMLPIPS distance of each pair, (N,), or its mean or sum; see `damlpips.DAMLPIPS`.

    Runs on the images' device. The module is built on the first call with its options and kept for the next.

    Example:
        >>> import torch
        >>> from damlpips.functional import damlpips
        >>> x = torch.rand(2, 3, 64, 64)
        >>> damlpips(x, x)
        tensor([0., 0.])
    """
    options = _hashable(
        {
            "backbone": backbone,
            "weights": weights,
            "value_range": value_range,
            "reduction": reduction,
            "grey": grey,
            "resize": resize,
            "check_values": check_values,
            "rho": rho,
            "gamma": gamma,
        }
    )
    return _module(DAMLPIPS, _device(x), options)(x, y)
