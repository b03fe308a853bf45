"""What torchmetrics' own tests ask of a metric: `MetricTester`, whose file its wheel does not have, by its contract.

Names, arguments, defaults and checks are those of `tests/unittests/_helpers/testers.py` in torchmetrics 1.9, as far as
tests of metrics of images use them, so that such a test runs on this class as it does there. Two things are stricter:
`ddp=True` always starts two processes, and each process has the rank of its place.
"""

import copy
import pickle
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from . import processes  # so that the two files work in a copy of torchmetrics' tests, too

PROCESSES = 2


@cache
def _group() -> processes.Group:
    return processes.Group(PROCESSES)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _close(found: Tensor, expected: Any, atol: float, in_any_order: bool = False) -> None:
    assert isinstance(found, Tensor)
    one = found.detach().cpu().numpy()
    two = np.asarray(expected.detach().cpu() if isinstance(expected, Tensor) else expected)
    assert one.shape == two.shape
    if in_any_order:
        one, two = np.sort(one, axis=None), np.sort(two, axis=None)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=atol)


def _batch(values: dict[str, Any], k: int) -> dict[str, Any]:
    return {name: value[k] if isinstance(value, Tensor) else value for name, value in values.items()}


def _test_class(
    rank: int,
    world: int,
    *,
    preds: Tensor,
    target: Tensor,
    metric_class: Callable[..., Metric],
    reference_metric: Callable[..., Any],
    metric_args: dict[str, Any],
    dist_sync_on_step: bool,
    check_dist_sync_on_step: bool,
    check_batch: bool,
    check_scriptable: bool,
    check_state_dict: bool,
    check_picklable: bool,
    check_ddp_sorting: bool,
    atol: float,
    device: str,
    updates: dict[str, Any],
) -> None:
    """Check one metric on batches of which this process sees every `world`-th."""
    assert len(preds) == len(target)
    assert len(preds) % world == 0
    metric = metric_class(dist_sync_on_step=dist_sync_on_step, **metric_args)
    for constant in ("is_differentiable", "higher_is_better"):
        with pytest.raises(RuntimeError):
            setattr(metric, constant, not getattr(metric, constant))
    if check_scriptable:
        torch.jit.script(metric)
    clone = metric.clone()
    assert clone is not metric
    assert type(clone) is type(metric)

    metric = metric.to(device)
    preds, target = preds.to(device), target.to(device)
    updates = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in updates.items()}
    if check_picklable:
        metric = pickle.loads(pickle.dumps(metric))
    twin = copy.deepcopy(metric)

    def reference(batches: list[int]) -> Any:
        images = (torch.cat([values[k] for k in batches]).cpu() for values in (preds, target))
        return reference_metric(*images)

    for k in range(rank, len(preds), world):
        value = metric(preds[k], target[k], **_batch(updates, k))
        if world == 1 and k == 0:
            twin.update(preds[k], target[k], **_batch(updates, k))
            _close(value, twin.compute(), 1e-8)
        if metric.dist_sync_on_step and check_dist_sync_on_step and rank == 0:
            _close(value, reference(list(range(k, k + world))), atol, check_ddp_sorting)
        elif check_batch and not metric.dist_sync_on_step:
            _close(value, reference([k]), atol, check_ddp_sorting)

    assert hash(metric)
    if check_state_dict:
        assert metric.state_dict() == {}
    _close(metric.compute(), reference(list(range(len(preds)))), atol, check_ddp_sorting)


def _test_precision(
    preds: Tensor,
    target: Tensor,
    metric_module: Callable[..., Metric] | None = None,
    metric_functional: Callable[..., Tensor] | None = None,
    metric_args: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.half,
    *,
    device: str,
    **updates: Any,
) -> None:
    """Check that images of half precision have a value."""
    assert metric_module is not None or metric_functional is not None
    x, y = preds[0].to(device, dtype), target[0].to(device, dtype)
    options = _batch(updates, 0)
    if metric_module is not None:
        assert isinstance(metric_module(**(metric_args or {})).to(device)(x, y, **options), Tensor)
    if metric_functional is not None:
        assert isinstance(metric_functional(x, y, **(metric_args or {}), **options), Tensor)


class MetricTester:
    """Base class of torchmetrics' tests of metrics.

    `preds` and `target` have batches along their first axis; so have tensors among further arguments of `update`, which
    the reference is not given.
    """

    atol: float = 1e-8

    def run_class_metric_test(
        self,
        ddp: bool,
        preds: Tensor,
        target: Tensor,
        metric_class: Callable[..., Metric],
        reference_metric: Callable[..., Any],
        dist_sync_on_step: bool = False,
        metric_args: dict[str, Any] | None = None,
        check_dist_sync_on_step: bool = True,
        check_batch: bool = True,
        check_scriptable: bool = True,
        check_state_dict: bool = True,
        check_picklable: bool = True,
        atol: float | None = None,
        check_ddp_sorting: bool = False,
        **updates: Any,
    ) -> None:
        """Compare the values of each batch and of all batches with a reference's, in one process or two."""
        work = partial(
            _test_class,
            preds=preds,
            target=target,
            metric_class=metric_class,
            reference_metric=reference_metric,
            metric_args=metric_args or {},
            dist_sync_on_step=dist_sync_on_step,
            check_dist_sync_on_step=check_dist_sync_on_step,
            check_batch=check_batch,
            check_scriptable=check_scriptable,
            check_state_dict=check_state_dict,
            check_picklable=check_picklable,
            check_ddp_sorting=check_ddp_sorting,
            atol=atol or self.atol,
            device=_device(),
            updates=updates,
        )
        if ddp:
            _group().run(work)
        else:
            work(0, 1)

    def run_functional_metric_test(
        self,
        preds: Tensor,
        target: Tensor,
        metric_functional: Callable[..., Tensor],
        reference_metric: Callable[..., Any],
        metric_args: dict[str, Any] | None = None,
        **updates: Any,
    ) -> None:
        """Compare the values of the first half of the batches with a reference's."""
        assert len(preds) == len(target)
        device = _device()
        for k in range(len(preds) // 2):
            options = {**(metric_args or {}), **_batch(updates, k)}
            value = metric_functional(preds[k].to(device), target[k].to(device), **options)
            _close(value, reference_metric(preds[k].cpu(), target[k].cpu()), self.atol)

    run_precision_test_cpu = staticmethod(partial(_test_precision, device="cpu"))
    run_precision_test_gpu = staticmethod(partial(_test_precision, device="cuda"))

    @staticmethod
    def run_differentiability_test(
        preds: Tensor,
        target: Tensor,
        metric_module: Callable[..., Metric],
        metric_functional: Callable[..., Tensor] | None = None,
        metric_args: dict[str, Any] | None = None,
        **updates: Any,
    ) -> None:
        """Check that values have a gradient if `is_differentiable` says so, and that of finite differences."""
        metric = metric_module(**(metric_args or {}))
        x, y = preds[0, :2].clone().requires_grad_(), target[0, :2]
        assert metric(x, y, **updates).requires_grad is metric.is_differentiable
        if metric.is_differentiable and metric_functional is not None:
            function = partial(metric_functional, **(metric_args or {}))
            assert torch.autograd.gradcheck(function, (x.detach().double().requires_grad_(), y))
