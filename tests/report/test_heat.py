"""The heat map: its scale, its colours, and that every picture of a map is this one."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from damlpips import DAMLPIPS
from damlpips.adapters.lightning import picture
from damlpips.report import heat
from damlpips.report.figure import plot_map


def lightness(pixels: np.ndarray) -> np.ndarray:
    return pixels @ (0.2126, 0.7152, 0.0722)


def test_the_colours_end_at_what_a_hundredth_of_the_pixels_exceeds() -> None:
    values = np.linspace(0, 1, 10_001, dtype=np.float32)
    assert heat.limit(values) == pytest.approx(0.99, abs=1e-4)


def test_where_less_than_a_hundredth_differs_they_end_at_the_highest() -> None:
    values = np.zeros((40, 40), np.float32)
    assert heat.limit(values) == 1
    values[3, 4] = 0.25
    assert heat.limit(values) == 0.25


def test_colours_grow_lighter_from_dark_to_light() -> None:
    ramp = np.linspace(0, 3, 101, dtype=np.float32)[None]
    shown = heat.overlay(ramp, np.zeros((1, 101, 3), np.float32), 3.0)
    assert shown.shape == (1, 101, 3)
    grown = lightness(shown)[0]
    assert (np.diff(grown) > 0).all()
    assert grown[0] < 0.01
    assert grown[-1] > 0.9
    np.testing.assert_array_equal(shown[0, -1], colormaps[heat.COLOURS](1.0)[:3])


def test_what_lies_beyond_the_ends_has_their_colours() -> None:
    image = np.full((1, 3, 3), 0.5, np.float32)
    low, end, high = heat.overlay(np.array([[-1.0, 2.0, 9.0]]), image, 2.0)[0]
    np.testing.assert_array_equal(end, high)
    assert lightness(low) < lightness(end)


def test_the_grey_image_shows_where_nothing_differs() -> None:
    image = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    shown = heat.overlay(np.zeros((4, 5), np.float32), image, 1.0)
    dark = heat.LEAST_COVER * np.array(colormaps[heat.COLOURS](0.0)[:3])
    grey = (1 - heat.LEAST_COVER) * (image @ (0.299, 0.587, 0.114))
    np.testing.assert_allclose(shown, dark + grey[..., None], atol=1e-6)


def test_the_palette_is_that_of_the_map() -> None:
    assert heat.palette(3) == ["#000004", "#b73779", "#fcfdbf"]
    assert heat.palette(1, "viridis", 0.5) == ["#21918c"]


def test_plot_map_and_the_lightning_logger_draw_the_same_map() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 40, 48, generator=generator)
    model = DAMLPIPS()
    grey, over = plot_map(model, x, y).axes[2].images
    drawn = over.norm(over.get_array())
    opaque = over.get_alpha()[..., None]
    mixed = opaque * over.cmap(drawn)[..., :3] + (1 - opaque) * grey.get_array()[..., None] / 255
    with torch.no_grad():
        right = picture(model, x[None], y[None])[..., 96:].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(right, mixed, atol=1 / 255)
