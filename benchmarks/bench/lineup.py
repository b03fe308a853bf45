"""The contenders on a backbone: this package's metrics, those of other packages, and the network alone."""

import inspect
from pathlib import Path

import torch
from torch import Tensor, nn

from damlpips import DAMLPIPS, LPIPS
from damlpips.models.settings import VIEWING_SIDE
from damlpips.nets.backbone import MEMORY_FORMAT

from .contenders import BASELINE, FORWARD, Contender, Field, Place
from .networks import HEADS, STAND_IN, TORCHVISION, bare_network, random_weights
from .peers import PEERS, peers


def field(net: str, folder: Path, place: Place) -> Field:
    """Return all contenders on a backbone; random weights are kept in `folder`."""
    if net in TORCHVISION:
        others, left_out = peers(net, place, PEERS)
    else:
        # the others would tell nothing that their own network's table does not
        others, left_out = peers(STAND_IN, place, [BASELINE])
    return Field((*others, *ours(net, folder, place), *floors(net, place)), left_out)


def ours(net: str, folder: Path, place: Place, **also: object) -> list[Contender]:
    """Return this package's metrics, with options that all of them take."""
    published = net in TORCHVISION
    weights = random_weights(net, folder) if published else None
    heads, claims = (HEADS, "LPIPS") if published else ("uniform", None)

    def built(kind: type[nn.Module], **options: object) -> nn.Module:
        return in_dtype(kind, place.dtype, backbone=net, weights=weights, **also, **options).to(place.device)

    return [
        Contender("LPIPS", built(LPIPS, heads=heads), claims=claims),
        Contender("DAMLPIPS", built(DAMLPIPS)),
        # smaller images are not scaled down, so that both would be the same
        Contender("DAMLPIPS, viewing_side=None", built(DAMLPIPS, viewing_side=None), above=VIEWING_SIDE),
    ]


def in_dtype(kind: type[nn.Module], dtype: torch.dtype, **options: object) -> nn.Module:
    """Return a module whose network runs in `dtype`: by its option where it has one, else as a whole."""
    if dtype == torch.float32:
        return kind(**options)
    if "dtype" in inspect.signature(kind).parameters:
        return kind(**options, dtype=dtype)
    return kind(**options).to(dtype)


def floors(net: str, place: Place) -> list[Contender]:
    """Return the network's own pass over both batches: convolutions, rectifiers and pooling, and nothing else.

    Channels last, as this package runs it.
    """
    network = bare_network(net).to(place.device, place.dtype)

    def run(images: Tensor) -> Tensor:
        last = network(images.to(place.dtype, memory_format=MEMORY_FORMAT))
        return last[-1] if isinstance(last, list) else last

    def joined(x: Tensor, y: Tensor) -> Tensor:
        return run(torch.cat([x, y]))

    def in_two(x: Tensor, y: Tensor) -> Tensor:
        second = run(y)
        first = run(x)
        del second  # both are held at the end, as by a metric
        return first

    # joined, a gradient to the first images would go through the second ones, too
    return [
        Contender("network, joined", joined, is_score=False, tasks=(FORWARD,)),
        Contender("network, in two", in_two, is_score=False),
    ]
