"""Time and memory against pixels, both logarithmic: a panel for each backbone and task."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from .cells import Measured, Outcome
from .contenders import TASKS

MIB = 1 << 20
# M. Okabe and K. Ito's colours, which people with any common colour blindness tell apart; markers say it again.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999", "#F0E442")
MARKERS = "osv^DPX<>"
QUANTITIES = ("ms", "peak MiB")


def draw(file: Path, outcomes: Sequence[Outcome]) -> None:
    """Draw outcomes of one environment; the suffix of the file says the format."""
    from matplotlib import pyplot as plt

    backbones = list(dict.fromkeys(o.cell.backbone for o in outcomes))
    tasks = [task for task in TASKS if any(o.cell.task == task for o in outcomes)]
    names = list(dict.fromkeys(m.name for o in outcomes for m in o.measured))
    rows = [(quantity, task) for quantity in QUANTITIES for task in tasks]
    size = (1 + 3.2 * len(backbones), 1 + 2.6 * len(rows))
    figure, axes = plt.subplots(len(rows), len(backbones), figsize=size, squeeze=False, layout="constrained")
    for of_row, (quantity, task) in zip(axes, rows, strict=True):
        for axis, backbone in zip(of_row, backbones, strict=True):
            mine = [o for o in outcomes if (o.cell.backbone, o.cell.task) == (backbone, task)]
            for number, name in enumerate(names):
                places, values = line(mine, name, quantity)
                style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
                axis.plot(places, values, ms=4, lw=1, label=name, **style)
            if not any(len(drawn.get_xdata()) for drawn in axis.lines):
                axis.set_visible(False)  # nothing was measured there, and nothing has no logarithm
                continue
            axis.set(xscale="log", yscale="log", title=f"{backbone}, {task}")
            axis.grid(alpha=0.3)
        of_row[0].set_ylabel(quantity)
    for axis in axes[-1]:
        axis.set_xlabel("pixels of a batch")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(names)), fontsize=9)
    with plt.rc_context({"svg.fonttype": "none"}):  # text as text: a tenth of the bytes
        figure.savefig(file)
    plt.close(figure)


def line(outcomes: Sequence[Outcome], name: str, quantity: str) -> tuple[list[int], list[float]]:
    """Return the pixels at which a contender was measured, and its median there."""
    found: dict[int, list[float]] = defaultdict(list)
    for outcome in outcomes:
        if measured := outcome.of(name):
            found[outcome.cell.pixels].append(_value(measured, quantity))
    places = sorted(found)
    return places, [statistics.median(found[place]) for place in places]


def _value(measured: Measured, quantity: str) -> float:
    if quantity == QUANTITIES[0]:
        return 1000 * statistics.median(measured.seconds)
    return (measured.peak_bytes or 0) / MIB
