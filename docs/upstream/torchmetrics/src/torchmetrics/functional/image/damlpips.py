# Copyright The Lightning team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
from typing import Literal, Optional, Union

from torch import Tensor, nn

from torchmetrics.utilities.imports import _DAMLPIPS_AVAILABLE

__doctest_requires__ = {"damlpips": ["damlpips"]}

_NET_TYPES = ("nano", "alex", "vgg", "squeeze")
_REDUCTIONS = ("mean", "sum", "none", None)


def _damlpips_check_reduction(reduction: Optional[str]) -> None:
    """Raise for a reduction that does not exist, before a network is loaded."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"Argument `reduction` must be one of {_REDUCTIONS}, but got {reduction}")


def _damlpips_network(net_type: str, data_range: tuple[float, float]) -> nn.Module:
    """Return the module that scores pairs. Its weights are frozen, and shared by all that use the same network.

    Args:
        net_type: backbone network, one of ``"nano"``, ``"alex"``, ``"vgg"`` or ``"squeeze"``
        data_range: least and largest value of an image

    """
    if not _DAMLPIPS_AVAILABLE:
        raise ModuleNotFoundError(
            "DAMLPIPS metric requires that `damlpips` is installed."
            " Either install as `pip install torchmetrics[image]` or `pip install damlpips`."
        )
    if net_type not in _NET_TYPES:
        raise ValueError(f"Argument `net_type` must be one of {_NET_TYPES}, but got {net_type}.")

    from damlpips import DAMLPIPS

    return DAMLPIPS(net_type, value_range=data_range, check_values=True)


def _damlpips_update(preds: Tensor, target: Tensor, net: nn.Module) -> Tensor:
    """Return the score of each pair, (N,); the module checks shapes, types and the range of values."""
    return net(preds, target)


def _damlpips_compute(
    scores: Tensor, total: Union[int, Tensor], reduction: Optional[Literal["mean", "sum", "none"]] = "mean"
) -> Tensor:
    """Reduce scores, or their sum, of ``total`` pairs."""
    if reduction == "mean":
        return scores.sum() / total
    if reduction == "sum":
        return scores.sum()
    return scores


def damlpips(
    preds: Tensor,
    target: Tensor,
    net_type: Literal["nano", "alex", "vgg", "squeeze"] = "nano",
    reduction: Optional[Literal["mean", "sum", "none"]] = "mean",
    data_range: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Differentiable Adaptive Multi-Layer LPIPS (`DAMLPIPS`_) calculates how different two images look.

    What has moved between the two images is found first and aligned. The images in Oklab and the feature maps of a
    network are then compared, and the pair itself decides how much each position, channel and layer counts, so that
    there are no weights learned on top of the network. A lower score means that images look more alike; images that
    are equal score 0, unrelated photographs about 1.3. The score is symmetric in its two images.

    Args:
        preds: images of shape ``(N, 3, H, W)``
        target: images of shape ``(N, 3, H, W)``
        net_type: backbone network. ``"nano"`` comes with the ``damlpips`` package; ``"alex"``, ``"vgg"`` and
            ``"squeeze"`` are those of ``torchvision``, whose weights are downloaded when they are first used
        reduction: how to reduce over the batch dimension: ``"mean"``, ``"sum"``, or ``"none"`` or ``None`` for the
            scores of all pairs
        data_range: least and largest value of an image; ``uint8`` images always hold 0 to 255

    Return:
        Scalar tensor, or tensor of shape ``(N,)`` without a reduction

    Raises:
        ModuleNotFoundError:
            If ``damlpips`` package is not installed
        ValueError:
            If ``net_type`` or ``reduction`` is not one of the above
        ValueError:
            If shapes are not equal or not ``(N, 3, H, W)``, or values are outside of ``data_range``

    Example:
        >>> from torch import Generator, rand
        >>> from torchmetrics.functional.image.damlpips import damlpips
        >>> target = rand(4, 3, 64, 64, generator=Generator().manual_seed(42))
        >>> damlpips(target, target)
        tensor(0.)
        >>> damlpips(0.5 * target, target)
        tensor(0.55...)
        >>> damlpips(0.5 * target, target, reduction="none").shape
        torch.Size([4])

    """
    _damlpips_check_reduction(reduction)
    net = _damlpips_network(net_type, data_range).to(preds.device)
    return _damlpips_compute(_damlpips_update(preds, target, net), len(preds), reduction)
