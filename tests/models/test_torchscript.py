"""TorchScript: a model that holds a module can be scripted, traces follow sizes, and the rest says the way."""

import io
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*legacy TorchScript.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*to_torchscript. has been deprecated"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]

KINDS: dict[str, Any] = {
    "DAMLPIPS": DAMLPIPS,
    "LPIPS": lambda **options: LPIPS("nano", heads="uniform", **options),
    "sorted": lambda **options: LPIPS("nano", heads="uniform", comparison="spatial+sort", **options),
}
HELD: dict[str, Any] = {
    **KINDS,
    "DAMLPIPSMetric": DAMLPIPSMetric,
    "LPIPSMetric": lambda: LPIPSMetric("nano", heads="uniform"),
    "scores that are kept": lambda: DAMLPIPSMetric(reduction="none"),
    "collection": lambda: MetricCollection({"a": DAMLPIPSMetric(), "b": DAMLPIPSMetric(rho=0.5)}),
}


class Holder(lightning.LightningModule):
    """A network that holds something of this package for its training."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.network = torch.nn.Conv2d(3, 3, 1)
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class Caller(torch.nn.Module):
    """A network whose forward is a loss."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(x, y)


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    x, y = torch.rand(2, 1, 3, 64, 72, generator=torch.Generator().manual_seed(0))
    return x, y


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("method", ["script", "trace"])
def test_a_model_that_holds_it(held: str, method: str, pair: tuple[Tensor, Tensor]) -> None:
    model, saved = Holder(HELD[held]()), io.BytesIO()
    torch.jit.save(model.to_torchscript(method=method, example_inputs=pair[0]), saved)
    saved.seek(0)
    assert torch.equal(torch.jit.load(saved)(pair[0]), model(pair[0]))
    # what is held is still what it was
    assert type(model.held) is type(HELD[held]())
    model.held(*pair)


@pytest.mark.parametrize("held", HELD)
def test_onnx_by_way_of_torchscript_of_a_model_that_holds_it(held: str, pair: tuple[Tensor, Tensor]) -> None:
    file = io.BytesIO()
    torch.onnx.export(Holder(HELD[held]()), (pair[0],), file, dynamo=False)
    assert file.getbuffer().nbytes > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_done_names_the_way(kind: str, pair: tuple[Tensor, Tensor]) -> None:
    for module in (KINDS[kind](), Caller(KINDS[kind]())):
        with pytest.raises(torch.jit.Error, match=r"cannot be scripted: use torch.export.export or torch.jit.trace"):
            torch.jit.script(module)(*pair)
        with pytest.raises(RuntimeError, match=r"cannot be exported to ONNX by way of TorchScript: use dynamo=True"):
            torch.onnx.export(module, pair, io.BytesIO(), dynamo=False)


SIZES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "shorter side": {"resize": 48},
    "size": {"resize": (50, 40)},
    "deterministic": {"deterministic": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_a_trace(kind: str, options: dict[str, Any], pair: tuple[Tensor, Tensor]) -> None:
    module = KINDS[kind](**options)
    trace = torch.jit.trace(module, pair, check_trace=False)  # which would trace twice; its values are checked below
    for x, y in (pair, [torch.rand(1, 3, 90, 60) for _ in range(2)]):
        torch.testing.assert_close(trace(x, y), module(x, y), rtol=1e-5, atol=1e-7)


def test_a_trace_that_looks_at_smaller_images(pair: tuple[Tensor, Tensor]) -> None:
    module = DAMLPIPS(viewing_side=48)
    torch.testing.assert_close(torch.jit.trace(module, pair)(*pair), module(*pair), rtol=1e-5, atol=1e-7)
