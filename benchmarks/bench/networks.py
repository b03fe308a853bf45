"""The networks that all contenders run on: seeded random weights, or those that are part of this package."""

import functools
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from damlpips.nets.table import BACKBONES
from damlpips.nets.weights import load_backbone

# The networks that other packages have, by torchvision's names.
TORCHVISION = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
# The one that the baseline runs on beside a network that it does not have.
STAND_IN = "alex"
HEADS = "v0.1"


@functools.lru_cache(maxsize=1)
def random_state(net: str) -> dict[str, Tensor]:
    """Return seeded random weights of a torchvision network of the table, through which activations keep their size.

    He et al., "Delving deep into rectifiers", arXiv 1502.01852: variance 2 / fan-in. With smaller ones features would
    sink to where packages differ in what keeps them from dividing by zero.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in BACKBONES[net].build().state_dict().items()}
    draws = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: t * math.sqrt(2 / t[0].numel()) if t.ndim == 4 else 0.1 * t for name, t in draws.items()}


def random_weights(net: str, folder: Path) -> Path:
    """Return a file of seeded random weights as this package reads it, made once."""
    file = folder / f"{net}.safetensors"
    if not file.exists():
        save_file({f"features.{name}": t for name, t in random_state(net).items()}, file)
    return file


def bare_network(net: str) -> nn.Module:
    """Return a network as its authors build it, with random weights, or with its own where they are embedded."""
    spec = BACKBONES[net]
    network = spec.build()
    network.load_state_dict(random_state(net) if net in TORCHVISION else load_backbone(net, None, spec.expected_keys()))
    return network.eval().requires_grad_(False)
