"""The panels of a figure of two images, and how they are laid out."""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING, Any

from damlpips.report import heat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

BAR_COLOUR = "#7B3F8C"
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 12.0, 10.0, 8.5
# Inches: a letter of LABEL_SIZE is about this wide, a line of bars at least this high.
LETTER, LINE = 0.085, 0.2
# Space around panels, for a heading, for the headline, below a panel with a scale, and for the names of the bars.
PAD, HEADING, HEADLINE, SCALE, NAMES = 0.08, 0.24, 0.4, 0.5, 0.7
LEAST_WIDTH, PANEL_AREA = 2.2, 10.5
# The colour bar: how far below its panel, and how high.
STRIP_GAP, STRIP = 0.08, 0.13
# Images wider than this many times their height are panoramas.
WIDE = 2.6


@dataclass(frozen=True)
class Grid:
    """A figure, its four panels, and the size of an image in inches."""

    figure: "Figure"
    panels: "list[Axes]"
    width: float
    height: float

    @property
    def cell(self) -> float:
        """The width of an image's panel."""
        return _cell(self.width)


def grid(aspect: float, bars: int) -> Grid:
    """Return a figure with three panels for images of an aspect (width over height), and one for the bars.

    Wide images are stacked, tall ones stand side by side.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    chart_width, chart_height = 3.0, max(1.8, LINE * bars)
    if aspect > WIDE:
        width = 8.0
        height = width / aspect
        widths, heights = [width], [height] * 3 + [chart_height]
    elif aspect < 1 / WIDE:
        height = 6.0
        width = height * aspect
        widths, heights = [_cell(width)] * 3 + [chart_width], [max(height, chart_height)]
    else:
        width, height = (PANEL_AREA * aspect) ** 0.5, (PANEL_AREA / aspect) ** 0.5
        widths, heights = [_cell(width), max(width, chart_width)], [height, max(height, chart_height)]
    across = sum(widths) + 2 * len(widths) * PAD + NAMES
    up = sum(heights) + len(heights) * (HEADING + 2 * PAD) + HEADLINE + SCALE * (2 if len(widths) == 1 else 1)
    engine = ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD, wspace=0, hspace=0)
    figure = Figure(figsize=(across, up), layout=engine)
    found = figure.subplots(len(heights), len(widths), squeeze=False, width_ratios=widths, height_ratios=heights)
    return Grid(figure, list(found.flat), width, height)


def _cell(width: float) -> float:
    """Return the width of an image's panel: a narrow image is centred in one that has room for its heading."""
    return max(width, LEAST_WIDTH)


def headline(grid: Grid, text: str) -> None:
    """Write what stands above all panels."""
    _write(grid.figure.suptitle, text, TITLE_SIZE, grid.figure.get_figwidth())


def picture(grid: Grid, index: int, image: "NDArray", what: str, name: str) -> None:
    """Draw an image (H, W, 3), uint8, under what it is and its name."""
    _show(grid.panels[index], image)
    _write(grid.panels[index].set_title, f"{what}: {name}" if name else what, LABEL_SIZE, grid.cell)


def heat_map(grid: Grid, index: int, values: "NDArray", image: "NDArray", limit: float | None) -> None:
    """Draw a map (H, W) over an image in grey, and below it what the colours up to `limit` stand for."""
    from matplotlib.cm import ScalarMappable

    panel = grid.panels[index]
    end = heat.limit(values) if limit is None else float(limit)
    scale = heat.scale(values, end)
    _show(panel, heat.grey(image), cmap="gray", vmin=0, vmax=255)
    _show(panel, values, cmap=heat.COLOURS, norm=scale, alpha=heat.cover(scale(values).filled(1.0)))
    _write(panel.set_title, "where they differ", LABEL_SIZE)

    # wider than a narrow image; the colours are those that hide the image entirely
    across = grid.cell / grid.width
    strip = panel.inset_axes(((1 - across) / 2, -(STRIP_GAP + STRIP) / grid.height, across, STRIP / grid.height))
    bar = grid.figure.colorbar(
        ScalarMappable(scale, heat.COLOURS),
        cax=strip,
        orientation="horizontal",
        ticks=(ticks := _ticks(end, 4 if grid.cell > 3 else 2)),
        extend="max" if values.max() > end else "neither",
        extendfrac=0.03,
    )
    bar.minorticks_off()
    bar.set_ticklabels([f"{value:.2g}" for value in ticks])
    bar.set_label("distance at each place", size=LABEL_SIZE)
    strip.tick_params(labelsize=TICK_SIZE)


def _ticks(end: float, count: int) -> list[float]:
    """Return 0 and values up to `end`, evenly spaced in colour, of two digits each."""
    ticks = [0.0]
    for k in range(1, count + 1):
        value = end * (k / count) ** (1 / heat.EXPONENT)
        step = 10.0 ** (floor(log10(value)) - 1)
        # 1e-6 makes up for rounding just below a whole number
        ticks.append(min(floor(value / step + 1e-6) * step, end))
    return ticks


def bars(grid: Grid, index: int, layers: dict[str, float]) -> None:
    """Draw a bar a layer, fine ones above, with its value."""
    panel = grid.panels[index]
    drawn = panel.barh(range(len(layers)), list(layers.values()), height=0.6, color=BAR_COLOUR)
    panel.set_yticks(range(len(layers)), list(layers), fontsize=LABEL_SIZE)
    panel.invert_yaxis()
    labels = [f"{value:#.3g}" if value else "0" for value in layers.values()]
    panel.bar_label(drawn, labels, padding=3, fontsize=TICK_SIZE)
    panel.margins(x=0.18)
    if not any(layers.values()):
        panel.set_xlim(0, 1)
    panel.tick_params(axis="x", labelsize=TICK_SIZE)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlabel("added to the score", fontsize=LABEL_SIZE)
    _write(panel.set_title, "what each layer adds", LABEL_SIZE)


def _show(panel: "Axes", values: "NDArray", **options: Any) -> None:
    # explicit, since a style may have other defaults
    panel.imshow(values, origin="upper", aspect="equal", **options)
    panel.set_axis_off()
    panel.set_anchor("N")


def _write(write: Callable[..., Any], text: str, size: float, room: float | None = None) -> None:
    """Write a text literally, never as a formula, and shorten it in the middle if it is wider than `room` inches."""
    letters = len(text) if room is None else max(12, int(room / (LETTER * size / LABEL_SIZE)))
    if len(text) > letters:
        text = f"{text[: (letters - 1) // 2]}…{text[-(letters // 2) :]}"
    write(text, fontsize=size, parse_math=False)
