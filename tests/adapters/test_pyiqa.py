"""pyiqa builds this package's metrics by name; against the installed pyiqa."""

import warnings

import pytest
import torch

import damlpips
from damlpips import DAMLPIPS
from tests.support import reference

pyiqa = pytest.importorskip("pyiqa")

NAMES = [
    *("damlpips", "damlpips-alex", "damlpips-vgg", "damlpips-squeeze"),
    *("lpips-fast", "lpips-fast-vgg", "lpips-fast-squeeze"),
]


@pytest.fixture(scope="module", autouse=True)
def _registered():
    damlpips.register("pyiqa")


def create(name: str, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyiqa.create_metric(name, device=torch.device("cpu"), **options)


def test_register_is_idempotent_and_leaves_pyiqas_own_alone() -> None:
    own = pyiqa.default_model_configs.DEFAULT_CONFIGS["lpips"].copy()
    before = pyiqa.list_models()
    assert damlpips.register("pyiqa") == NAMES
    assert damlpips.register("pyiqa") == NAMES
    assert pyiqa.list_models() == before
    assert pyiqa.default_model_configs.DEFAULT_CONFIGS["lpips"] == own
    assert set(NAMES) <= set(pyiqa.list_models(metric_mode="FR"))


def test_scores_are_the_modules() -> None:
    x, y = reference.noise()
    metric = create("damlpips")
    assert metric.lower_better
    scores = metric(x, y)
    assert scores.shape == (2, 1)
    torch.testing.assert_close(scores[:, 0], DAMLPIPS()(x, y), rtol=0, atol=0)
    assert not scores.requires_grad
    torch.testing.assert_close(metric(x[:1], y[:1]), scores[:1])


def test_grey_images_are_repeated() -> None:
    x, y = (t[:, :1] for t in reference.noise())
    torch.testing.assert_close(create("damlpips")(x, y)[:, 0], DAMLPIPS(grey="repeat")(x, y), rtol=0, atol=0)


def test_range_is_pyiqas_to_check() -> None:
    x, y = reference.noise()
    with pytest.raises(AssertionError, match="normalized to"):
        create("damlpips")(x * 2, y)
    with torch.no_grad():
        assert torch.isfinite(create("damlpips", as_loss=True)(x * 2 - 0.5, y))


def test_file_paths(tmp_path) -> None:
    from PIL import Image

    x, y = ((t[:1] * 255).round().to(torch.uint8) for t in reference.noise())
    for name, image in (("x", x), ("y", y)):
        Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    metric = create("damlpips")
    score = metric(str(tmp_path / "x.png"), str(tmp_path / "y.png"))
    # pyiqa divides by 255 before the backbone sees the image; the module scales uint8 itself, one rounding apart
    torch.testing.assert_close(score[:, 0], DAMLPIPS()(x, y), rtol=1e-5, atol=0)


@pytest.mark.parametrize("identical", [False, True])
def test_as_loss_gives_finite_gradients(identical: bool) -> None:
    x, y = reference.noise()
    x = (y.clone() if identical else x).requires_grad_()
    loss = create("damlpips", as_loss=True)(x, y)
    assert loss.shape == ()
    loss.backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum() > 0) != identical


def test_loss_weight_and_reduction() -> None:
    x, y = reference.noise()
    scores = DAMLPIPS()(x, y)
    weight = torch.tensor([[1.0], [3.0]])
    loss = create("damlpips", as_loss=True, loss_weight=weight, loss_reduction="sum")(x, y)
    torch.testing.assert_close(loss, (scores * weight[:, 0]).sum())
    torch.testing.assert_close(create("damlpips", as_loss=True, loss_reduction="none")(x, y)[:, 0], scores)


@pytest.mark.cuda
def test_images_follow_the_metric_between_devices() -> None:
    x, y = reference.noise()
    metric = pyiqa.create_metric("damlpips", device=torch.device("cuda"))
    on_cuda = metric(x, y)
    assert on_cuda.device.type == "cuda"
    # convolutions sum in another order on another device
    torch.testing.assert_close(metric.to("cpu")(x, y).cpu(), on_cuda.cpu(), rtol=1e-4, atol=1e-6)


def test_a_name_taken_by_another_is_not_overwritten(monkeypatch) -> None:
    configs = pyiqa.default_model_configs.DEFAULT_CONFIGS
    monkeypatch.setitem(configs, "damlpips", {"metric_opts": {"type": "Another"}})
    with pytest.raises(RuntimeError, match="knows a metric 'damlpips' already"):
        damlpips.register("pyiqa")
    assert configs["damlpips"]["metric_opts"]["type"] == "Another"
