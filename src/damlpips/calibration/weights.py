"""Heads and networks in files, as `heads=PATH` and `weights=PATH` load them; and a network that has learned nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from damlpips.files import replacing
from damlpips.models.lpips import LPIPS
from damlpips.nets.table import BACKBONES

SUFFIX = ".safetensors"


def weights_path(path: Path) -> Path:
    """Return where the network is that belongs to a file of heads: beside it, `NAME.weights.safetensors`."""
    return path.with_suffix(f".weights{SUFFIX}")


def write_heads(heads: Sequence[Tensor], path: Path) -> None:
    """Write heads, (C_l,) each, in the format of `lpips`."""
    write({f"lin{k}.model.1.weight": w.reshape(1, -1, 1, 1).contiguous() for k, w in enumerate(heads)}, path)


def write(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name: all of them, or no file."""
    with replacing(path) as whole:
        save_file(dict(state), whole)


def at_random(name: str, seed: int) -> dict[str, Tensor]:
    """Return the weights with which a network of the table is built, as its files have them.

    Raises:
        ValueError: a network with batch normalisation, which needs statistics of images from the start.
    """
    spec = BACKBONES[name]
    (stream,) = np.random.SeedSequence(seed).spawn(1)  # another than that of the heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream.generate_state(1).item()))
        state = spec.build().state_dict()
    if any(key.endswith("running_mean") for key in state):
        raise ValueError(f"backbone: {name!r} has batch normalisation and cannot start at random: tune it instead")
    return {spec.prefix + key: tensor.contiguous() for key, tensor in state.items()}


def rebuilt(metric: LPIPS, **files: Path) -> LPIPS:
    """Return the metric with other `weights` or `heads`, on the same device."""
    options = {**metric.settings.changed(), **{name: str(path) for name, path in files.items()}}
    return LPIPS(metric.source.backbone, **options).to(metric.encoder.device)
