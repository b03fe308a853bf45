"""piq's conventions, against the installed piq."""

import inspect
from functools import partial

import pytest
import torch

import damlpips
from damlpips import DAMLPIPS
from damlpips.adapters.piq import create_metric
from tests.support import reference

piq = pytest.importorskip("piq")


@pytest.fixture(scope="module", autouse=True)
def _registered():
    damlpips.register("piq")


def test_register_is_idempotent_and_leaves_piqs_own_alone() -> None:
    own, kind = piq.LPIPS, piq.DAMLPIPS
    assert damlpips.register("piq") == ["piq.DAMLPIPS", "piq.damlpips"]
    assert piq.LPIPS is own
    assert piq.DAMLPIPS is kind
    assert inspect.getmodule(own).__name__ == "piq.perceptual"


def test_reductions() -> None:
    x, y = reference.noise()
    scores = DAMLPIPS()(x, y)
    for reduction, expected in (("none", scores), ("mean", scores.mean()), ("sum", scores.sum())):
        torch.testing.assert_close(piq.DAMLPIPS(reduction=reduction)(x, y), expected)
        torch.testing.assert_close(piq.damlpips(x, y, reduction=reduction), expected)
    torch.testing.assert_close(piq.DAMLPIPS()(x, y), scores.mean())
    torch.testing.assert_close(piq.damlpips(x, y), scores.mean())


@pytest.mark.parametrize("reduction", [None, "n", 2, "average"])
def test_unknown_reductions_raise_value_error(reduction) -> None:
    with pytest.raises(ValueError, match="Unknown reduction"):
        piq.DAMLPIPS(reduction=reduction)
    with pytest.raises(ValueError, match="Unknown reduction"):
        piq.damlpips(*reference.noise(), reduction=reduction)


def test_is_a_loss_like_piqs() -> None:
    loss = piq.DAMLPIPS()
    assert isinstance(loss, torch.nn.modules.loss._Loss)
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    x, y = reference.noise()
    x.requires_grad_()
    loss(x, y).backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


def test_grey_images_are_accepted() -> None:
    x, y = (t[:, :1] for t in reference.noise())
    torch.testing.assert_close(piq.damlpips(x, y), piq.damlpips(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(piq.DAMLPIPS()(x, y), piq.damlpips(x, y))


def test_identity_is_zero() -> None:
    x, _ = reference.noise()
    assert piq.damlpips(x, x.clone()) == 0


def test_refuses_what_piq_refuses() -> None:
    x, y = reference.noise()
    for call in (piq.DAMLPIPS(check_values=True), partial(piq.damlpips, check_values=True)):
        with pytest.raises(AssertionError, match="same size"):
            call(x, y[:1])
        with pytest.raises(AssertionError, match="number of dimensions"):
            call(x[0], y[0])
        with pytest.raises(AssertionError, match=r"Expected torch\.Tensor"):
            call(x.numpy(), y.numpy())
        with pytest.raises(ValueError, match=r"expected values in \(0.0, 1.0\)"):
            call(x * 255, y * 255)


def test_create_metric_by_name() -> None:
    x, y = reference.noise()
    torch.testing.assert_close(create_metric("damlpips", reduction="none")(x, y), DAMLPIPS()(x, y))
    assert repr(create_metric("damlpips")) == "DAMLPIPS(backbone='nano', reduction='mean')"
    with pytest.raises(ValueError, match="unknown metric 'lpips': expected one of 'damlpips', 'damlpips-alex'"):
        create_metric("lpips")


def test_a_name_taken_by_another_is_not_overwritten(monkeypatch) -> None:
    monkeypatch.setattr(piq, "damlpips", len)
    with pytest.raises(RuntimeError, match=r"piq\.damlpips exists already"):
        damlpips.register("piq")
