"""Full-reference metrics of other libraries: how each is called, and which way its score points.

A library is imported when one of its metrics, or the list of pyiqa's, is asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# luma of ITU-R BT.601
LUMA = (0.299, 0.587, 0.114)

# rates two images each by itself, and guesses which is better: no distance between them
NO_DISTANCE = ("fgresq_pair",)


@dataclass(frozen=True)
class Peer:
    """A metric of another library.

    Attributes:
        place: `module:attribute` of a function of (distorted, reference), or of a class whose objects are such.
        lower_is_closer: whether its score is a distance.
        options: of the function, or of the class.
        grey: whether it takes images of one channel only.
        white: the largest value of an image.
    """

    place: str
    lower_is_closer: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    grey: bool = False
    white: float = 1.0


class Built(NamedTuple):
    """A metric that is ready: (distorted, reference), each (N, 3, H, W) in [0, 1], to N scores."""

    score: Callable[[Tensor, Tensor], Tensor]
    lower_is_closer: bool
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Library:
    """Another library.

    Attributes:
        name: of the package, and in front of its metrics.
        names: returns its metrics' names.
        build: makes one of them.
        is_light: whether the names are known without importing the library.
    """

    name: str
    names: Callable[[], Iterable[str]]
    build: Callable[[str, torch.device], Built]
    is_light: bool = True

    def full_names(self) -> list[str]:
        """Return the names of its metrics with its own in front."""
        return [f"{self.name}:{name}" for name in self.names()]


_UNREDUCED = {"reduction": "none"}
_RANGED = {"data_range": 1.0}

# under piq's own names
PIQ = {
    name: Peer(f"piq:{name}", lower_is_closer, options)
    for names, lower_is_closer, options in (
        (("psnr", "ssim", "multi_scale_ssim", "information_weighted_ssim", "vif_p"), False, _UNREDUCED | _RANGED),
        (("fsim", "vsi", "haarpsi", "dss", "srsim"), False, _UNREDUCED | _RANGED),
        (("gmsd", "multi_scale_gmsd", "mdsi", "PieAPP"), True, _UNREDUCED | _RANGED),
        (("LPIPS", "DISTS", "ContentLoss", "StyleLoss"), True, _UNREDUCED),
    )
    for name in names
}

_FUNCTIONAL = "torchmetrics.functional.image:"
_LPIPS = "torchmetrics.image.lpip:LearnedPerceptualImagePatchSimilarity"

# torchmetrics' own names are long: these are short ones
TORCHMETRICS = {
    "psnr": Peer(f"{_FUNCTIONAL}peak_signal_noise_ratio", False, _RANGED),
    "ssim": Peer(f"{_FUNCTIONAL}structural_similarity_index_measure", False, _RANGED),
    "ms-ssim": Peer(f"{_FUNCTIONAL}multiscale_structural_similarity_index_measure", False, _RANGED),
    "psnrb": Peer(f"{_FUNCTIONAL}peak_signal_noise_ratio_with_blocked_effect", False, _RANGED, grey=True),
    "uqi": Peer(f"{_FUNCTIONAL}universal_image_quality_index", False),
    "scc": Peer(f"{_FUNCTIONAL}spatial_correlation_coefficient", False),
    # its constant, the variance of the noise of an eye, is for this range
    "vif": Peer(f"{_FUNCTIONAL}visual_information_fidelity", False, white=255.0),
    "sam": Peer(f"{_FUNCTIONAL}spectral_angle_mapper", True),
    "ergas": Peer(f"{_FUNCTIONAL}error_relative_global_dimensionless_synthesis", True),
    "rase": Peer(f"{_FUNCTIONAL}relative_average_spectral_error", True),
    "rmse-sw": Peer(f"{_FUNCTIONAL}root_mean_squared_error_using_sliding_window", True),
    "d-lambda": Peer(f"{_FUNCTIONAL}spectral_distortion_index", True),
    # the network: torchmetrics' function and its metric load it again for every pair
    "dists": Peer("torchmetrics.functional.image.dists:DISTSNetwork", True),
    # normalize: its images are in [0, 1]
    **{f"lpips-{net}": Peer(_LPIPS, True, {"net_type": net, "normalize": True}) for net in ("alex", "vgg", "squeeze")},
}


def _pair_by_pair(function: Callable[[Tensor, Tensor], Any], distorted: Tensor, reference: Tensor) -> Tensor:
    """Score every pair alone: some metrics have no score a pair, or one that depends on the rest of the batch."""
    pairs = zip(distorted.split(1), reference.split(1), strict=True)
    return torch.stack([torch.as_tensor(function(x, y), device=x.device).reshape(()) for x, y in pairs])


def luma(x: Tensor) -> Tensor:
    """Return the luma of images (..., 3, H, W), (..., 1, H, W)."""
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(-3, keepdim=True)


def _build_peer(table: Mapping[str, Peer], name: str, device: torch.device) -> Built:
    peer = table[name]
    module, attribute = peer.place.split(":")
    member = getattr(import_module(module), attribute)
    function: Callable[[Tensor, Tensor], Any]
    if isinstance(member, type) and issubclass(member, nn.Module):
        function = member(**peer.options).to(device).eval()
    else:
        function = partial(member, **peer.options)

    def of_prepared(distorted: Tensor, reference: Tensor) -> Any:
        return function(*(peer.white * (luma(x) if peer.grey else x) for x in (distorted, reference)))

    options = {"call": peer.place, "grey": peer.grey, "white": peer.white, **peer.options}
    return Built(partial(_pair_by_pair, of_prepared), peer.lower_is_closer, options)


def _pyiqa_configurations() -> dict[str, dict[str, Any]]:
    """Return pyiqa's full-reference metrics with what pyiqa builds each from, without those of this package."""
    own = import_module("damlpips.adapters.pyiqa").NAMES
    configurations = import_module("pyiqa.default_model_configs").DEFAULT_CONFIGS
    return {
        name: configuration
        for name, configuration in configurations.items()
        if configuration.get("metric_mode") == "FR" and name not in (*NO_DISTANCE, *own)
    }


def _build_pyiqa(name: str, device: torch.device) -> Built:
    metric = import_module("pyiqa").create_metric(name, device=device)
    configuration = _pyiqa_configurations()[name]
    return Built(partial(_pair_by_pair, metric), bool(metric.lower_better), configuration["metric_opts"])


LIBRARIES = {
    library.name: library
    for library in (
        Library("pyiqa", _pyiqa_configurations, _build_pyiqa, is_light=False),
        Library("piq", PIQ.keys, partial(_build_peer, PIQ)),
        Library("torchmetrics", TORCHMETRICS.keys, partial(_build_peer, TORCHMETRICS)),
    )
}
