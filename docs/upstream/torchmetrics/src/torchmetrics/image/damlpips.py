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
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Optional, Union

import torch
from torch import Tensor

from torchmetrics.functional.image.damlpips import (
    _damlpips_check_reduction,
    _damlpips_compute,
    _damlpips_network,
    _damlpips_update,
)
from torchmetrics.metric import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.imports import _MATPLOTLIB_AVAILABLE
from torchmetrics.utilities.plot import _AX_TYPE, _PLOT_OUT_TYPE

__doctest_requires__ = {("DAMLPIPS", "DAMLPIPS.plot"): ["damlpips"]}

if not _MATPLOTLIB_AVAILABLE:
    __doctest_skip__ = ["DAMLPIPS.plot"]


class DAMLPIPS(Metric):
    """Differentiable Adaptive Multi-Layer LPIPS (`DAMLPIPS`_) calculates how different two images look.

    What has moved between the two images is found first and aligned. The images in Oklab and the feature maps of a
    network are then compared, and the pair itself decides how much each position, channel and layer counts, so that
    there are no weights learned on top of the network. A lower score means that images look more alike; images that
    are equal score 0, unrelated photographs about 1.3. The score is symmetric in its two images.

    .. hint::
        Using this metric requires you to have ``damlpips`` package installed. Either install as ``pip install
        torchmetrics[image]`` or ``pip install damlpips``.

    .. note::
        Images whose shorter side is above 256 pixels are averaged down to that first.

    As input to ``forward`` and ``update`` the metric accepts the following input

    - ``preds`` (:class:`~torch.Tensor`): tensor with images of shape ``(N, 3, H, W)``
    - ``target`` (:class:`~torch.Tensor`): tensor with images of shape ``(N, 3, H, W)``

    As output of ``forward`` and ``compute`` the metric returns the following output

    - ``damlpips`` (:class:`~torch.Tensor`): float scalar tensor with the mean or the sum of the scores of all pairs,
      or a tensor of shape ``(N,)`` with each of them if ``reduction`` is ``"none"`` or ``None``

    Args:
        net_type: backbone network. ``"nano"`` comes with the ``damlpips`` package; ``"alex"``, ``"vgg"`` and
            ``"squeeze"`` are those of ``torchvision``, whose weights are downloaded when they are first used
        reduction: how to reduce over all pairs: ``"mean"``, ``"sum"``, or ``"none"`` or ``None`` for all scores
        data_range: least and largest value of an image; ``uint8`` images always hold 0 to 255
        kwargs: Additional keyword arguments, see :ref:`Metric kwargs` for more info.

    Raises:
        ModuleNotFoundError:
            If ``damlpips`` package is not installed
        ValueError:
            If ``net_type`` is not one of ``"nano"``, ``"alex"``, ``"vgg"`` or ``"squeeze"``
        ValueError:
            If ``reduction`` is not one of ``"mean"``, ``"sum"``, ``"none"`` or ``None``

    Example:
        >>> from torch import Generator, rand
        >>> from torchmetrics.image.damlpips import DAMLPIPS
        >>> metric = DAMLPIPS()
        >>> target = rand(4, 3, 64, 64, generator=Generator().manual_seed(42))
        >>> metric(0.5 * target, target)
        tensor(0.55...)
        >>> metric.update(target, target)
        >>> metric.compute()
        tensor(0.27...)

    """

    is_differentiable: bool = True
    higher_is_better: bool = False
    full_state_update: bool = False
    plot_lower_bound: float = 0.0

    scores: list[Tensor]
    sum_scores: Tensor
    total: Tensor

    # the network is not scripted
    __jit_ignored_attributes__: ClassVar[list[str]] = ["net"]

    def __init__(
        self,
        net_type: Literal["nano", "alex", "vgg", "squeeze"] = "nano",
        reduction: Optional[Literal["mean", "sum", "none"]] = "mean",
        data_range: tuple[float, float] = (0.0, 1.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _damlpips_check_reduction(reduction)
        self.net = _damlpips_network(net_type, data_range)
        self.reduction = reduction

        if reduction in ("mean", "sum"):
            self.add_state("sum_scores", default=torch.tensor(0.0), dist_reduce_fx="sum")
            self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")
        else:
            self.add_state("scores", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Update state with the scores of a batch."""
        scores = _damlpips_update(preds, target, self.net)
        if self.reduction in ("mean", "sum"):
            self.sum_scores = self.sum_scores + scores.sum()
            self.total = self.total + len(scores)
        else:
            self.scores.append(scores)

    def compute(self) -> Tensor:
        """Compute the reduced score of all pairs."""
        if self.reduction in ("mean", "sum"):
            return _damlpips_compute(self.sum_scores, self.total, self.reduction)
        return dim_zero_cat(self.scores)

    def plot(
        self, val: Optional[Union[Tensor, Sequence[Tensor]]] = None, ax: Optional[_AX_TYPE] = None
    ) -> _PLOT_OUT_TYPE:
        """Plot a single or multiple values from the metric.

        Args:
            val: a result of ``metric.forward`` or ``metric.compute``, or a list of them. Without it, ``metric.compute``
                is called and its result is plotted
            ax: a matplotlib axis to plot on

        Returns:
            Figure and Axes object

        Raises:
            ModuleNotFoundError:
                If ``matplotlib`` is not installed

        .. plot::
            :scale: 75

            >>> # Example plotting a single value
            >>> from torch import rand
            >>> from torchmetrics.image.damlpips import DAMLPIPS
            >>> metric = DAMLPIPS()
            >>> metric.update(rand(4, 3, 64, 64), rand(4, 3, 64, 64))
            >>> fig_, ax_ = metric.plot()

        .. plot::
            :scale: 75

            >>> # Example plotting multiple values
            >>> from torch import rand
            >>> from torchmetrics.image.damlpips import DAMLPIPS
            >>> metric = DAMLPIPS()
            >>> values = [metric(rand(4, 3, 64, 64), rand(4, 3, 64, 64)) for _ in range(3)]
            >>> fig_, ax_ = metric.plot(values)

        """
        return self._plot(val, ax)
