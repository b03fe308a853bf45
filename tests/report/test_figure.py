"""Pictures of a pair: what they show, what they refuse, and that nothing global changes."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, Encoded
from damlpips.report import panels
from damlpips.report.figure import FORMATS, plot_map, render, save

MODELS = {
    "damlpips": (DAMLPIPS, ["image", "layer 1", "layer 2", "layer 3", "motion"]),
    "lpips": (lambda **options: LPIPS("nano", heads="uniform", **options), ["layer 1", "layer 2", "layer 3"]),
}


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def images(height: int = 40, width: int = 56) -> tuple[Tensor, Tensor]:
    """Return a distorted image and its reference, (3, H, W), uint8."""
    generator = torch.Generator().manual_seed(height + width)
    reference = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    distorted = reference.clone()
    distorted[:, : height // 2] //= 2
    return distorted, reference


def drawn_labels(axis) -> list:
    """Return the labels of an axis but for those of ticks beyond its ends, which are not drawn."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def boxes(figure) -> list:
    """Return the boxes of all text and of the images of a figure, in pixels, as they are drawn."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    children = [child for axes in figure.axes for child in axes.child_axes]
    texts = [
        *figure.texts,
        *([figure._suptitle] if figure._suptitle not in figure.texts else []),
        *(axes.title for axes in figure.axes),
        *(axes.xaxis.label for axes in (*figure.axes[3:], *children)),
        *(label for axes in (*figure.axes[3:], *children) for label in drawn_labels(axes.xaxis)),
        *drawn_labels(figure.axes[3].yaxis),
        *(text for axes in figure.axes for text in axes.texts),
    ]
    shown = [text.get_window_extent(renderer) for text in texts if text.get_text() and text.get_visible()]
    return [*shown, *(axes.images[0].get_window_extent(renderer) for axes in figure.axes[:3])]


class TestParts:
    def test_the_images_come_as_they_are(self, kind: str) -> None:
        distorted, reference = images()
        figure = plot_map(MODELS[kind][0](), distorted, reference, distorted_name="d.png", reference_name="r.png")
        assert len(figure.axes) == 4
        assert [axes.get_title() for axes in figure.axes[:2]] == ["reference: r.png", "distorted: d.png"]
        for axes, image in zip(figure.axes, (reference, distorted), strict=False):
            np.testing.assert_array_equal(axes.images[0].get_array(), image.permute(1, 2, 0).numpy())

    def test_the_heat_map_is_the_spatial_map_over_grey(self, kind: str) -> None:
        distorted, reference = images()
        model = MODELS[kind][0]()
        grey, heat = plot_map(model, distorted, reference).axes[2].images
        with torch.no_grad():
            expected = model.spatial_map(distorted[None], reference[None])[0, 0].numpy()
        np.testing.assert_array_equal(heat.get_array(), expected)
        luma = Image.fromarray(distorted.permute(1, 2, 0).numpy()).convert("L")
        np.testing.assert_allclose(grey.get_array(), np.asarray(luma, float), atol=1)
        # brighter and more opaque where the images differ more
        order = np.argsort(expected.ravel())
        assert (np.diff(heat.get_alpha().ravel()[order]) >= 0).all()
        assert (heat.get_alpha() >= 0.4).all()
        lightness = heat.cmap(heat.norm(expected.ravel()[order]))[:, :3].sum(1)
        assert lightness[-1] > lightness[len(order) // 2] > lightness[0]

    def test_the_bars_are_the_layers_and_the_title_their_sum(self, kind: str) -> None:
        distorted, reference = images()
        build, names = MODELS[kind]
        model = build()
        figure = plot_map(model, distorted, reference)
        panel = figure.axes[3]
        with torch.no_grad():
            added = model.per_layer(distorted[None], reference[None])[0].tolist()
            score = float(model(distorted[None], reference[None]))
        assert [bar.get_width() for bar in panel.patches] == added
        assert [label.get_text() for label in panel.get_yticklabels()] == names
        assert [text.get_text() for text in panel.texts] == [f"{value:#.3g}" if value else "0" for value in added]
        assert panel.yaxis_inverted()  # from fine above to coarse
        assert figure.get_suptitle() == f"{type(model).__name__} (nano): {score:.4g} (lower is closer)"

    def test_the_colour_bar_ends_where_a_hundredth_of_the_places_is_above(self) -> None:
        figure = plot_map(DAMLPIPS(), *images())
        (strip,) = figure.axes[2].child_axes
        heat = figure.axes[2].images[1]
        values = np.asarray(heat.get_array())
        low, high = strip.get_xlim()
        assert (low, high) == (heat.norm.vmin, heat.norm.vmax) == (0, pytest.approx(np.quantile(values, 0.99)))
        assert np.mean(values > high) == pytest.approx(0.01, abs=0.002)
        ticks = strip.get_xticks()
        assert ticks[0] == 0
        assert 0.9 * high < ticks[-1] <= high
        # the label beside a tick is its value, whole
        assert [float(label.get_text()) for label in strip.get_xticklabels()] == pytest.approx(ticks)
        assert strip.get_xlabel() == "distance at each place"

    def test_a_limit_makes_pictures_compare(self) -> None:
        for pair in (images(), images(64, 64)):
            panel = plot_map(DAMLPIPS(), *pair, limit=3).axes[2]
            assert (panel.images[1].norm.vmin, panel.images[1].norm.vmax) == panel.child_axes[0].get_xlim() == (0, 3)

    def test_equal_images(self) -> None:
        image = images()[0]
        figure = plot_map(DAMLPIPS(), image, image)
        assert "0 (lower is closer)" in figure.get_suptitle()
        assert figure.axes[2].child_axes[0].get_xlim() == (0, 1)
        assert [text.get_text() for text in figure.axes[3].texts] == ["0"] * 5
        assert render(figure, dpi=30)

    @pytest.mark.parametrize("end", [1e-9, 0.3, 1.0, 2.9999, 7.77, 123456.0])
    def test_ticks_are_what_their_labels_say_and_end_with_the_colours(self, end: float) -> None:
        ticks = panels._ticks(end, 4)
        assert [float(f"{tick:.2g}") for tick in ticks] == pytest.approx(ticks, rel=1e-9)
        assert ticks == sorted(set(ticks))
        assert 0.9 * end < ticks[-1] <= end

    def test_negative_weights_have_colours_below_zero(self) -> None:
        model = LPIPS("nano", heads="uniform")
        heads = [-torch.ones(maps.shape[1]) for maps in model.encode(images()[0][None]).features]
        model.definition = replace(model.definition, heads=heads)
        heat = plot_map(model, *images()).axes[2].images[1]
        assert heat.norm.vmin == heat.get_array().min() < 0 < heat.norm.vmax


class TestImages:
    def test_a_batch_of_one_and_floats_are_the_same_picture(self) -> None:
        distorted, reference = images()
        expected = plot_map(DAMLPIPS(), distorted, reference)
        signed = [(image / 127.5 - 1)[None].requires_grad_() for image in (distorted, reference)]
        figure = plot_map(DAMLPIPS(value_range=(-1, 1)), *signed)
        for one, other in zip(figure.axes[:2], expected.axes[:2], strict=True):
            np.testing.assert_array_equal(one.images[0].get_array(), other.images[0].get_array())
        found, map_of_bytes = (f.axes[2].images[1].get_array() for f in (figure, expected))
        np.testing.assert_allclose(found, map_of_bytes, rtol=1e-3, atol=1e-4)

    def test_resized_images_are_drawn_as_they_were_compared(self) -> None:
        distorted, reference = images()
        figure = plot_map(DAMLPIPS(resize="reference"), distorted[:, :32, :48], reference)
        assert {axes.images[0].get_array().shape[:2] for axes in figure.axes[:3]} == {(40, 56)}
        figure = plot_map(DAMLPIPS(resize=20), distorted, reference)
        assert {axes.images[-1].get_array().shape[:2] for axes in figure.axes[:3]} == {(20, 28)}

    def test_grey_images(self) -> None:
        distorted, reference = (image[:1] for image in images())
        figure = plot_map(DAMLPIPS(grey="repeat"), distorted, reference)
        assert figure.axes[0].images[0].get_array().shape == (40, 56, 3)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda x: x.expand(2, -1, -1, -1), ValueError, r"distorted: expected one image, .* got \(2, 3, 40, 56\)"),
            (lambda x: x[0], ValueError, r"distorted: expected one image, \(3, H, W\) or \(1, 3, H, W\), got \(40, 56"),
            (lambda x: x[:2], ValueError, r"expected \(N, 3, H, W\), got \(1, 2, 40, 56\)"),
            (lambda x: x[..., :50], ValueError, r"must have one size, got 40 x 50 and 40 x 56: use resize='reference'"),
            (lambda x: x.float(), TypeError, "must both be floats or both uint8"),
            (lambda x: x.numpy(), TypeError, r"distorted: expected a torch\.Tensor .* got ndarray"),
            (lambda x: DAMLPIPS().encode(x[None]), TypeError, f"distorted: .* got {Encoded.__name__}"),
        ],
    )
    def test_refusals(self, change, error: type, message: str) -> None:
        distorted, reference = images()
        with pytest.raises(error, match=message):
            plot_map(DAMLPIPS(), change(distorted), reference)

    def test_what_is_no_model(self) -> None:
        with pytest.raises(TypeError, match=r"model: expected .*\(of a metric its \.model\), got DAMLPIPSMetric"):
            plot_map(DAMLPIPSMetric(), *images())

    @pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
    def test_limits_that_are_none(self, limit: float) -> None:
        with pytest.raises(ValueError, match=f"limit: expected a finite number above 0, got {limit}"):
            plot_map(DAMLPIPS(), *images(), limit=limit)
        with pytest.raises(TypeError, match="limit: expected None or a number, got '1'"):
            plot_map(DAMLPIPS(), *images(), limit="1")

    def test_a_score_that_is_not_finite(self) -> None:
        distorted, reference = (image / 255 for image in images())
        with pytest.raises(ValueError, match="the score of the pair is nan, not a finite number"):
            plot_map(DAMLPIPS(check_values=False), distorted * torch.nan, reference)


class TestLayout:
    @pytest.mark.parametrize(("height", "width"), [(224, 336), (64, 64), (32, 300), (300, 32)])
    def test_no_text_lies_over_another_or_an_image_or_leaves_the_page(self, height: int, width: int) -> None:
        name = "a rather long name of a file that was sent by somebody else.png"
        figure = plot_map(DAMLPIPS(), *images(height, width), distorted_name=name, reference_name=name)
        found = boxes(figure)
        assert len(found) >= 20
        page = figure.bbox
        for k, box in enumerate(found):
            assert page.x0 <= box.x0 < box.x1 <= page.x1, box
            assert page.y0 <= box.y0 < box.y1 <= page.y1, box
            for other in found[k + 1 :]:
                overlap_x = min(box.x1, other.x1) - max(box.x0, other.x0)
                overlap_y = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert overlap_x < 1 or overlap_y < 1, (box, other)

    @pytest.mark.parametrize(("height", "width"), [(224, 336), (300, 32), (32, 300)])
    def test_images_keep_their_proportions_in_one_size(self, height: int, width: int) -> None:
        figure = plot_map(DAMLPIPS(), *images(height, width))
        sizes = boxes(figure)[-3:]
        assert len({(round(box.width), round(box.height)) for box in sizes}) == 1
        assert sizes[0].width / sizes[0].height == pytest.approx(width / height, rel=0.02)
        # most of what there is room for
        assert max(sizes[0].width / figure.bbox.width, sizes[0].height / figure.bbox.height) > 0.35

    def test_names_are_text_and_never_formulas(self) -> None:
        figure = plot_map(DAMLPIPS(), *images(), title="$x", distorted_name="$\\bad$ {", reference_name="é_^")
        assert figure.axes[1].get_title() == "distorted: $\\bad$ {"
        assert figure.get_suptitle() == "$x"
        assert b"\\bad$ {" in render(figure, "svg", dpi=30)


class TestFiles:
    def test_pixels(self) -> None:
        figure = plot_map(DAMLPIPS(), *images())
        size = [int(100 * inches) for inches in figure.get_size_inches()]
        assert Image.open(BytesIO(render(figure, dpi=100))).size == tuple(size)
        assert all(650 < side < 1100 for side in size)

    def test_formats_by_their_ending(self, tmp_path: Path) -> None:
        figure = plot_map(DAMLPIPS(), *images(), distorted_name="d.png")
        for name in ("map.png", "map.SVG", "map.pdf"):
            save(figure, tmp_path / name, dpi=30)
        assert Image.open(tmp_path / "map.png").format == "PNG"
        assert (tmp_path / "map.pdf").read_bytes().startswith(b"%PDF")
        texts = [text.text for text in ElementTree.parse(tmp_path / "map.SVG").iter("{http://www.w3.org/2000/svg}text")]
        assert {"distorted: d.png", "layer 1", "where they differ"} <= set(texts)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map.SVG", "map.pdf", "map.png"]
        with pytest.raises(ValueError, match=r"map\.gif: expected a name that ends in one of \.png, \.svg, \.pdf"):
            save(figure, tmp_path / "map.gif")
        with pytest.raises(ValueError, match="unknown format 'gif'"):
            render(figure, "gif")

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_equal_pictures_are_equal_files(self, suffix: str) -> None:
        one, other = (render(plot_map(DAMLPIPS(), *images()), suffix, dpi=30) for _ in range(2))
        assert one == other


class TestNothingGlobal:
    def test_pyplot_is_never_loaded(self) -> None:
        code = """
import sys, torch
from damlpips import DAMLPIPS, report
assert "matplotlib" not in sys.modules
import matplotlib
before = matplotlib.rcParams.copy()  # dict() would choose a backend
report.render(report.plot_map(DAMLPIPS(), torch.rand(3, 32, 32), torch.rand(3, 32, 32)), dpi=30)
assert matplotlib.rcParams.copy() == before
print("matplotlib.pyplot" in sys.modules)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr

    def test_a_style_of_the_user_does_not_break_it(self) -> None:
        import matplotlib

        with matplotlib.rc_context({"image.origin": "lower", "image.cmap": "jet", "axes.grid": True}):
            figure = plot_map(DAMLPIPS(), *images())
        assert {axes.images[0].origin for axes in figure.axes[:3]} == {"upper"}
        assert [image.get_cmap().name for image in figure.axes[2].images] == ["gray", "magma"]
        assert not any(axes.axison for axes in figure.axes[:3])

    def test_without_matplotlib_the_error_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'damlpips\[viz\]'"):
            plot_map(DAMLPIPS(), *images())

    def test_no_graph_is_built_and_the_model_is_as_it_was(self) -> None:
        model = DAMLPIPS()
        x, y = (image / 255 for image in images())
        before = model(x[None], y[None])
        x.requires_grad_()
        plot_map(model, x, y)
        assert x.grad is None
        assert torch.is_grad_enabled()
        torch.testing.assert_close(model(x[None], y[None]).detach(), before)
