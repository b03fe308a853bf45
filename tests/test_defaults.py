"""torch's default type and default device make no difference: to what is made, loaded, used or reset under them."""

import functools
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, LPIPSMetric, functional
from damlpips.adapters import piq
from damlpips.nets import shared
from damlpips.report import heat
from tests.support.reference import Tiny

# A narrower type, a wider one, and another device; both at once, since a failure tells which of the two it was.
DEFAULTS: dict[str, Callable[[], Any]] = {
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "float16 on meta": lambda: (torch.set_default_dtype(torch.float16), torch.set_default_device("meta")),
}


@pytest.fixture(params=DEFAULTS)
def changed(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    """Change the defaults when called; they are restored, and no network or module is kept from before."""
    functional._module.cache_clear()
    gc.collect()
    shared._instances.clear()
    before = torch.get_default_dtype()
    yield DEFAULTS[request.param]
    torch.set_default_dtype(before)
    torch.set_default_device(None)
    functional._module.cache_clear()


def pair() -> tuple[Tensor, Tensor]:
    x, y = torch.rand(2, 2, 3, 56, 60, generator=torch.Generator().manual_seed(0))
    return x, y


X, Y = pair()
BYTES = (255 * X).to(torch.uint8), (255 * Y).to(torch.uint8)
TINY = Backbone(Tiny(), min_size=9, name="tiny")


def metric_value(metric: Any, *pairs: tuple[Tensor, Tensor], **options: Any) -> Tensor:
    for x, y in pairs:
        metric.update(x, y, **options)
    return metric.compute()


def gradient(module: Any) -> Tensor:
    x = X.clone().requires_grad_()
    module(x, Y).sum().backward()
    assert x.grad is not None
    return x.grad


MODULES: dict[str, Callable[[], Any]] = {
    "DAMLPIPS": lambda: DAMLPIPS(),
    "LPIPS": lambda: LPIPS("nano", heads="uniform"),
    "sorted": lambda: LPIPS("nano", heads="uniform", comparison="spatial+sort"),
    "own network": lambda: DAMLPIPS(TINY),
    "viewed smaller": lambda: DAMLPIPS(viewing_side=48),
    "tiles": lambda: DAMLPIPS(tile=48, viewing_side=None),
    "tiles of LPIPS": lambda: LPIPS("nano", heads="uniform", tile=48),
    "resized": lambda: DAMLPIPS(resize=50),
    "deterministic": lambda: DAMLPIPS(deterministic=True),
    "double": lambda: DAMLPIPS().double(),
    "half": lambda: DAMLPIPS(dtype=torch.bfloat16),
}
USES: dict[str, Callable[[Any], Tensor]] = {
    "score": lambda m: m(X, Y),
    "bytes": lambda m: m(*BYTES),
    "half": lambda m: m(X.half(), Y),
    "map": lambda m: m.spatial_map(X, Y),
    "encoded": lambda m: m(X, m.encode(Y[:1])),
    "keys": lambda m: torch.stack([m(X, Y, reference_key=["a", "b"]) for _ in range(2)]),
    "gradient": gradient,
    "pairwise": lambda m: functional.pairwise(X, metric=m),
}
METRICS: dict[str, Callable[[], Tensor]] = {
    "mean": lambda: metric_value(DAMLPIPSMetric(), (X, Y), (Y, X)),
    "sum": lambda: metric_value(LPIPSMetric("nano", heads="uniform", reduction="sum"), (X, Y)),
    "none": lambda: metric_value(DAMLPIPSMetric(reduction="none"), (X, Y)),
    "index": lambda: metric_value(DAMLPIPSMetric(), (X, Y), (X, Y), index=[1, 2]),
    "keys": lambda: metric_value(DAMLPIPSMetric(), (X, Y), (X, Y), reference_key=torch.arange(2, device="cpu")),
    "skipped": lambda: metric_value(DAMLPIPSMetric(on_error="skip"), (X.where(Y > 1e-5, torch.nan), Y)),
    "video": lambda: metric_value(DAMLPIPSMetric(video=True), (X[None], Y[None])),
    "functional": lambda: functional.damlpips(X, Y),
    "piq": lambda: piq.create_metric("damlpips")(X, Y),
    "heat map": lambda: torch.from_numpy(heat.overlay(X[0, 0].numpy(), Y[0].permute(1, 2, 0).numpy(), 1.0)),
}


@functools.cache
def uses(module: str) -> dict[str, Tensor]:
    """Return what a module gives under torch's own defaults."""
    return {name: use(MODULES[module]()) for name, use in USES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_made_under_them(changed: Callable[[], Any], module: str) -> None:
    expected = uses(module)
    gc.collect()
    changed()
    for name, use in USES.items():
        torch.testing.assert_close(use(MODULES[module]()), expected[name], rtol=0, atol=0, msg=f"{module}, {name}")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_made_before(changed: Callable[[], Any], module: str) -> None:
    made = MODULES[module]()
    expected = made(X, Y)
    made = MODULES[module]()
    changed()
    assert torch.equal(made(X, Y), expected)
    assert torch.equal(made.double()(X, Y), MODULES[module]().double()(X, Y))


@pytest.mark.parametrize("case", METRICS)
@pytest.mark.filterwarnings("ignore:.*skipped")
def test_a_metric(changed: Callable[[], Any], case: str) -> None:
    expected = METRICS[case]()
    changed()
    torch.testing.assert_close(METRICS[case](), expected, rtol=0, atol=0)


def test_a_metric_made_before_and_reset_under_them(changed: Callable[[], Any]) -> None:
    made, expected = DAMLPIPSMetric(), metric_value(DAMLPIPSMetric(), (X, Y))
    changed()
    made.update(Y, X)
    made.reset()
    assert torch.equal(metric_value(made, (X, Y)), expected)
    assert made.device == torch.device("cpu")
    made.persistent(True)
    again = DAMLPIPSMetric()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.compute(), expected)
    again.merge_state(made)
    assert again.update_count == 2
    assert torch.equal(made(X, Y), expected)


def test_files_under_them(changed: Callable[[], Any], tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    from damlpips.scoring.images import read_image

    values = (65535 * X[0]).permute(1, 2, 0).numpy().astype("uint16")
    cv2.imwrite(str(tmp_path / "deep.png"), values)
    cv2.imwrite(str(tmp_path / "grey.tiff"), values[..., 0])
    cv2.imwrite(str(tmp_path / "bytes.png"), (values >> 8).astype("uint8"))
    files = {name: name != "bytes.png" for name in ("deep.png", "grey.tiff", "bytes.png")}
    expected = {name: read_image(tmp_path / name, deep=deep) for name, deep in files.items()}
    changed()
    for name, deep in files.items():
        found = read_image(tmp_path / name, deep=deep)
        assert found.dtype == expected[name].dtype
        assert torch.equal(found, expected[name])
