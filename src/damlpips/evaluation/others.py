"""Metrics that stand beside the first one in the rows of `damlpips score`, by name."""

import json
from importlib.metadata import version

import torch
from torch import Tensor

from damlpips.evaluation import named
from damlpips.evaluation.peers import LIBRARIES
from damlpips.scoring.several import OtherMetric, Said
from damlpips.version import SCORES

# what PSNR, SSIM and MS-SSIM compare: all colours, or luma
CHANNELS = ("rgb", "y")
# Y of ITU-R BT.601 from R, G, B in [0, 1]: 16 to 235 of 255, as MATLAB's rgb2ycbcr
LUMA, BLACK, WHITE = (65.481, 128.553, 24.966), 16.0, 255.0
LIBRARY = "torchmetrics"
# names without a library: torchmetrics' functions of these names, with their description and unit
FIDELITY = {"psnr": ("PSNR", "dB"), "ssim": ("SSIM", ""), "ms-ssim": ("MS-SSIM", "")}
# an identity's parts that change the last digits at most, as a run may that goes on elsewhere
MACHINE = ("device", "torch")


def luma(images: Tensor) -> Tensor:
    """Return the luma of images (N, 3, H, W) in [0, 1], (N, 1, H, W) in [16, 235] / 255, which is not rounded.

    Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255

    Reference:
        ITU-R BT.601; MATLAB's rgb2ycbcr, by which image restoration reports PSNR and SSIM "on the Y channel".

    Example:
        >>> luma(torch.ones(1, 3, 1, 1)).mul(255).round().item()
        235.0
    """
    return ((images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True) + BLACK) / WHITE


def build(name: str, *, device: torch.device | str = "cpu", channels: str = "rgb") -> OtherMetric:
    """Build a metric by its name: `psnr`, `ssim`, `ms-ssim`, or any that `named.build` takes.

    The first three are torchmetrics' functions with its defaults and a data range of 1, an image at a time, of
    `channels`: "rgb", or "y" for the luma of BT.601.

    Raises:
        UnknownMetricError, MetricFileError, UnavailableMetricError: as `named.build`.
        ValueError: unknown channels.
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels: expected one of {', '.join(CHANNELS)}, got {channels!r}")
    if name in FIDELITY:
        return _fidelity(name, torch.device(device), channels)
    found = named.build(name, device=device)
    identity = {key: value for key, value in json.loads(found.identity).items() if key not in MACHINE}
    description = f"{name} ({identity['library']} {identity['version']})"
    said = Said.of(name, description, identity, lower_is_closer=found.lower_is_closer)
    return OtherMetric.of_function(found.score, said)


def _fidelity(name: str, device: torch.device, channels: str) -> OtherMetric:
    score, lower_is_closer, options = LIBRARIES[LIBRARY].build(name, device)
    title, unit = FIDELITY[name]
    release = version(LIBRARY)
    seen = {"rgb": "RGB", "y": "Y of BT.601"}[channels]
    description = f"{title}{f' in {unit}' if unit else ''} ({LIBRARY} {release}; {seen}; data range 1)"
    identity = {"library": LIBRARY, "version": release, "channels": channels, "options": options, "scores": SCORES}

    def scores(distorted: Tensor, reference: Tensor) -> Tensor:
        return score(distorted, reference) if channels == "rgb" else score(luma(distorted), luma(reference))

    said = Said.of(name, description, identity, lower_is_closer=lower_is_closer, unit=unit)
    return OtherMetric.of_function(scores, said)
