"""LPIPS and DAMLPIPS in one call. The module of each set of options is built once and kept."""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from damlpips import checks
from damlpips.models import volumes
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


def lpips(
    x: Images, y: Images, *, mask: Tensor | None = None, backbone: str | Backbone = "alex", **options: Any
) -> Tensor:
    """Return the LPIPS distance of each pair, (N,), or its mean or sum; lower is closer.

    Runs on the images' device. The module is built on the first call with its options and kept for the next.

    Args:
        x, y: (N, 3, H, W), or what `LPIPS.encode` returned.
        mask: bool, (N, 1, H, W): only where it is True is compared; see `LPIPS.per_layer`.
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
    return _module(LPIPS, _device(x), _hashable({"backbone": backbone, **options}))(x, y, mask=mask)


def damlpips(
    x: Images, y: Images, *, mask: Tensor | None = None, backbone: str | Backbone = DEFAULT_BACKBONE, **options: Any
) -> Tensor:
    """Return the DAMLPIPS distance of each pair, (N,), or its mean or sum; lower is closer.

    Runs on the images' device. The module is built on the first call with its options and kept for the next.

    Args:
        x, y: (N, 3, H, W), or what `DAMLPIPS.encode` returned.
        mask: bool, (N, 1, H, W): only where it is True is compared; see `DAMLPIPS.per_layer`.
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
    return _module(DAMLPIPS, _device(x), _hashable({"backbone": backbone, **options}))(x, y, mask=mask)


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
    if isinstance(metric, str) and "reduction" in options:
        raise TypeError("reduction: a matrix of distances has none")
    return distances(_chosen(metric, x, options), x, y, block=block)


def volume(
    x: Tensor,
    y: Tensor,
    *,
    axes: str | Sequence[str] = ("depth", "height", "width"),
    pool: str = "mean",
    metric: str | PerceptualDistance = "damlpips",
    **options: Any,
) -> Tensor:
    """Return the distance of each pair of volumes, (N,), or its mean or sum; lower is closer.

    D(x, y) = mean_a pool_s d(x_as, y_as), where x_as is slice s of x along axis a, and d the distance of two images.

    Slices go through the network a few at a time: without gradients memory does not grow with the volume, and with
    them they are compared again in the backward pass, so that only the volumes are kept. What runs through several
    slices is seen only by the axes that cut it.

    Args:
        x, y: (N, C, D, H, W), floats in `value_range` or uint8; C as the network takes it, or 1 with `grey="repeat"`.
        axes: `"depth"`, whose slices are images (H, W), `"height"`, (D, W), `"width"`, (D, H); one or several.
        pool: `"mean"` over the slices of an axis, or `"max"`, the slice that differs most.
        metric: `"damlpips"`, `"lpips"`, or a module of one of the two, on the volumes' device.
        options: those of the module where `metric` is a name (`backbone`, `grey`, `value_range`, `reduction`, ...).

    Raises:
        TypeError, ValueError, WeightsError: as the module; other shapes, unequal numbers of volumes or of slices, an
            unknown axis; options beside a module.

    Example:
        >>> import torch
        >>> from damlpips.functional import volume
        >>> x = torch.rand(2, 1, 16, 32, 32)
        >>> volume(x, x, axes="depth", grey="repeat")
        tensor([0., 0.])
    """
    return volumes.distances(_chosen(metric, x, options), x, y, axes=axes, pool=pool)


def slices(
    x: Tensor, y: Tensor, *, axis: str = "depth", metric: str | PerceptualDistance = "damlpips", **options: Any
) -> Tensor:
    """Return the distance of each pair of slices of volumes along an axis, (N, S); lower is closer.

    Args:
        x, y, metric, options: as for `volume`; there is no `reduction`.
        axis: `"depth"`, `"height"` or `"width"`, along which the S slices lie.

    Raises:
        TypeError, ValueError, WeightsError: as `volume`.

    Example:
        >>> import torch
        >>> from damlpips.functional import slices
        >>> x = torch.zeros(1, 3, 4, 32, 32)
        >>> slices(x, x)
        tensor([[0., 0., 0., 0.]])
    """
    if isinstance(metric, str) and "reduction" in options:
        raise TypeError("reduction: slices have a distance each")
    return volumes.slice_distances(_chosen(metric, x, options), x, y, axis=axis)


def _chosen(metric: str | PerceptualDistance, x: Images, options: dict[str, Any]) -> PerceptualDistance:
    """Return the module of a name and options, or the module that was given."""
    names = [known.value for known in reversed(Metric)]
    if isinstance(metric, str):
        return _module(Metric(checks.one_of("metric", metric, names)).kind, _device(x), _hashable(options))
    if not isinstance(metric, PerceptualDistance):
        raise TypeError(f"metric: expected {' or '.join(map(repr, names))}, or a module, got {type(metric).__name__}")
    if options:
        raise TypeError(f"options: a module brings its own, got {', '.join(options)}")
    return metric
