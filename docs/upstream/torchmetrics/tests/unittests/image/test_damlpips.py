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
import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from torchmetrics.functional.image.damlpips import damlpips
from torchmetrics.image.damlpips import DAMLPIPS
from torchmetrics.utilities.imports import _DAMLPIPS_AVAILABLE
from unittests._helpers import seed_all
from unittests._helpers.testers import MetricTester

seed_all(42)

# a difference in brightness and noise: values stay in [0, 1]
_target = torch.rand(4, 2, 3, 48, 48)
_preds = 0.8 * _target + 0.2 * torch.rand(4, 2, 3, 48, 48)


def _reference_damlpips(preds: Tensor, target: Tensor, reduction: str = "mean", scale: float = 1.0) -> np.ndarray:
    """Score each pair by itself with the package's own function, on images in [0, 1]."""
    from damlpips.functional import damlpips as reference

    pairs = zip((preds / scale).split(1), (target / scale).split(1), strict=True)
    scores = torch.cat([reference(*pair) for pair in pairs]).numpy()
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](scores)


@pytest.mark.skipif(not _DAMLPIPS_AVAILABLE, reason="test requires that damlpips is installed")
class TestDAMLPIPS(MetricTester):
    """Test class for `DAMLPIPS` metric."""

    # float32: a batch is summed in another order than its pairs one by one; on a GPU so is every convolution
    atol: float = 1e-4 if torch.cuda.is_available() else 1e-6

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("ddp", [pytest.param(True, marks=pytest.mark.DDP), False])
    def test_damlpips(self, reduction, ddp):
        """Test class implementation of metric."""
        self.run_class_metric_test(
            ddp=ddp,
            preds=_preds,
            target=_target,
            metric_class=DAMLPIPS,
            reference_metric=partial(_reference_damlpips, reduction=reduction),
            metric_args={"reduction": reduction},
            check_ddp_sorting=ddp and reduction == "none",
        )

    @pytest.mark.DDP
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_damlpips_dist_sync_on_step(self, reduction):
        """Test that values of a step are those of all processes."""
        self.run_class_metric_test(
            ddp=True,
            preds=_preds,
            target=_target,
            metric_class=DAMLPIPS,
            reference_metric=partial(_reference_damlpips, reduction=reduction),
            metric_args={"reduction": reduction},
            dist_sync_on_step=True,
        )

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_damlpips_functional(self, reduction):
        """Test functional implementation of metric."""
        self.run_functional_metric_test(
            preds=_preds,
            target=_target,
            metric_functional=damlpips,
            reference_metric=partial(_reference_damlpips, reduction=reduction),
            metric_args={"reduction": reduction},
        )

    def test_damlpips_data_range(self):
        """Test that images of another range score as those in [0, 1]."""
        self.run_functional_metric_test(
            preds=255 * _preds,
            target=255 * _target,
            metric_functional=damlpips,
            reference_metric=partial(_reference_damlpips, scale=255.0),
            metric_args={"data_range": (0.0, 255.0)},
        )

    def test_damlpips_differentiability(self):
        """Test the differentiability of the metric, according to its `is_differentiable` attribute.

        Without the function: gradients leave out how the field of displacements depends on the images, so they are
        not those of finite differences.

        """
        self.run_differentiability_test(preds=_preds, target=_target, metric_module=DAMLPIPS)

    def test_damlpips_half_cpu(self):
        """Test dtype support of the metric on CPU."""
        self.run_precision_test_cpu(_preds, _target, DAMLPIPS, damlpips)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="test requires cuda")
    def test_damlpips_half_gpu(self):
        """Test dtype support of the metric on GPU."""
        self.run_precision_test_gpu(_preds, _target, DAMLPIPS, damlpips)


@pytest.mark.skipif(not _DAMLPIPS_AVAILABLE, reason="test requires that damlpips is installed")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", None])
def test_equal_images_score_zero(reduction):
    """Test the lower bound, which is reached by equal images alone."""
    metric = DAMLPIPS(reduction=reduction)
    assert torch.all(metric(_target[0], _target[0]) == metric.plot_lower_bound)
    assert torch.all(damlpips(_preds[0], _target[0], reduction=reduction) > metric.plot_lower_bound)


@pytest.mark.skipif(not _DAMLPIPS_AVAILABLE, reason="test requires that damlpips is installed")
def test_updates_keep_no_graph():
    """Test that what is accumulated is free of gradients, and survives pickling."""
    metric = DAMLPIPS()
    metric.update(_preds[0].clone().requires_grad_(), _target[0])
    assert not metric.compute().requires_grad
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.compute()


@pytest.mark.skipif(not _DAMLPIPS_AVAILABLE, reason="test requires that damlpips is installed")
@pytest.mark.parametrize("make", [DAMLPIPS, partial(damlpips, _preds[0], _target[0])])
def test_error_on_wrong_init(make):
    """Test that unknown options raise the expected errors."""
    with pytest.raises(ValueError, match=r"Argument `net_type` must be one of .*"):
        make(net_type="resnet")
    with pytest.raises(ValueError, match=r"Argument `reduction` must be one of .*"):
        make(reduction="median")


@pytest.mark.skipif(not _DAMLPIPS_AVAILABLE, reason="test requires that damlpips is installed")
@pytest.mark.parametrize(
    ("preds", "target"),
    [
        (torch.rand(1, 1, 48, 48), torch.rand(1, 3, 48, 48)),  # wrong number of channels
        (torch.rand(1, 3, 48, 48), torch.rand(1, 3, 40, 48)),  # sizes that differ
        (torch.rand(1, 3, 48, 48) + 1, torch.rand(1, 3, 48, 48)),  # values out of range
        (torch.rand(1, 3, 48, 48), torch.full((1, 3, 48, 48), torch.nan)),  # not a number
    ],
)
def test_error_on_wrong_update(preds, target):
    """Test that input which cannot be scored raises, and leaves the state as it was."""
    metric = DAMLPIPS()
    metric.update(_preds[0], _target[0])
    before = metric.compute()
    with pytest.raises(ValueError, match=r"expected|must have one size"):
        metric.update(preds, target)
    metric._computed = None
    assert metric.compute() == before


def test_error_without_package(monkeypatch):
    """Test that the error says what to install."""
    # in its package the function has taken the module's name
    monkeypatch.setattr(sys.modules[damlpips.__module__], "_DAMLPIPS_AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError, match="pip install damlpips"):
        DAMLPIPS()
