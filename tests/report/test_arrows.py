"""The displacement as arrows."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from damlpips import DAMLPIPS, LPIPS
from damlpips.report.arrows import plot_displacement
from damlpips.report.figure import save
from tests.support.moved import moved, picture


@pytest.fixture(scope="module")
def metric() -> DAMLPIPS:
    return DAMLPIPS(version=2)


def test_arrows_lead_from_the_reference_to_the_distorted_image(metric: DAMLPIPS, tmp_path: Path) -> None:
    reference, distorted = (moved(picture(96), shift=shift) for shift in ((0, 0), (5, -3)))
    figure = plot_displacement(metric, distorted, reference)
    axes = figure.axes[0]
    (arrows,) = (c for c in axes.collections if hasattr(c, "U"))
    middle = slice(len(arrows.U) // 3, -len(arrows.U) // 3)
    assert abs(arrows.U[middle].mean() - 5) < 0.3
    assert abs(arrows.V[middle].mean() + 3) < 0.3
    assert axes.get_title().startswith("displacement from reference to distorted: 5.")  # the root of 34 is 5.8
    save(figure, tmp_path / "arrows.png")
    with Image.open(tmp_path / "arrows.png") as image:
        assert min(image.size) > 300


def test_no_arrows_where_nothing_moves(metric: DAMLPIPS) -> None:
    image = moved(picture(96))
    figure = plot_displacement(metric, image, image, title="still")
    assert not figure.axes[0].collections
    assert figure.axes[0].get_title() == "still"


def test_models_that_find_no_displacement() -> None:
    image = torch.rand(3, 48, 48)
    with pytest.raises(TypeError, match="model: expected a DAMLPIPS"):
        plot_displacement(LPIPS("nano", heads="uniform"), image, image)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="displacement: nothing is aligned with version=1"):
        plot_displacement(DAMLPIPS(version=1), image, image)
