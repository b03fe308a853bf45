"""LPIPS and DAMLPIPS in one call. The module of each set of options is built once and kept."""

import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from damlpips import checks
from damlpips.models.base import PerceptualDistance
from damlpips.models.damlpips import DAMLPIPS
from damlpips.models.encoder import Images
from damlpips.models.lpips import LPIPS
from damlpips.models.pairwise import distances
from damlpips.models.registry import Metric
from damlpips.nets.backbone import Backbone
from damlpips.nets.encoded import Encoded
from damlpips.nets.table import DEFAULT_BACKBONE


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


def pairwise(
    x: Images,
    y: Images | None = None,
    *,
    metric: str | PerceptualDistance = "damlpips",
    block: int | None = None,
    **options: Any,
) -> Tensor:
    """Return the distance of every x_i and every y_j, (N, M); lower is closer.

    Without y it is that of every x_i and x_j, (N, N): symmetric, each pair compared once, zeros on the diagonal. Every
    image goes through the backbone once, some at a time; the feature maps of all are kept until the end, and pairs are
    compared in blocks. Distances equal those of the pairs alone but for float32 rounding, 1e-5 of their value.

    Gradients pass wherever the images ask for them; blocks are then compared again in the backward pass, so that only
    the graph of the network's passes is kept.

    Args:
        x, y: (N, 3, H, W) and (M, 3, H, W), or what `encode` returned. With one image as y it is (N, 1): a reference
            and its candidates.
        metric: `"damlpips"`, `"lpips"`, or a module of one of the two, on the images' device.
        block: pairs that are compared at a time; None: as many as have 64 MiB of feature maps. A block lies within the
            images of two passes through the backbone, about 10 x 10 of 256 x 256.
        options: those of the module where `metric` is a name (`backbone`, `weights`, `value_range`, ...).

    Raises:
        TypeError, ValueError, WeightsError: as the module; sizes of x and y that differ; options beside a module.

    Example:
        >>> import torch
        >>> from damlpips.functional import pairwise
        >>> pairwise(torch.ones(3, 3, 64, 64))
        tensor([[0., 0., 0.],
                [0., 0., 0.],
                [0., 0., 0.]])
    """
    names = [known.value for known in reversed(Metric)]
    if isinstance(metric, str):
        kind = Metric(checks.one_of("metric", metric, names)).kind
        if "reduction" in options:
            raise TypeError("reduction: a matrix of distances has none")
        module: PerceptualDistance = _module(kind, _device(x), _hashable(options))
    elif not isinstance(metric, PerceptualDistance):
        raise TypeError(f"metric: expected {' or '.join(map(repr, names))}, or a module, got {type(metric).__name__}")
    elif options:
        raise TypeError(f"options: a module brings its own, got {', '.join(options)}")
    else:
        module = metric
    return distances(module, x, y, block=block)
