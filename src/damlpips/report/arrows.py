"""Where the parts of an image have gone: DAMLPIPS's displacement field as arrows over the reference."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from damlpips.models.damlpips import DAMLPIPS
from damlpips.report.figure import displayed, pair_of
from damlpips.report.heat import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# arrows along the shorter side
ARROWS = 16
WIDTH = 7.0


@torch.no_grad()
def plot_displacement(model: DAMLPIPS, distorted: Tensor, reference: Tensor, *, title: str | None = None) -> "Figure":
    """Draw how far each place of the reference has moved in the distorted image.

    An arrow leads from a place of the reference to where it is in the distorted image, u = -`model.displacement`; its
    colour is its length in pixels. A pair in which nothing moves has no arrows.

    Args:
        model: a `DAMLPIPS` that aligns: version 2.
        distorted, reference: (3, H, W) or (1, 3, H, W), as for `plot_map`.
        title: instead of the root mean square of the displacement.

    Returns:
        A figure outside `pyplot`: save it with `damlpips.report.figure.save`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError, ValueError: images that the model refuses, more than one pair, a model that does not align.

    Example:
        >>> import torch
        >>> from damlpips import DAMLPIPS
        >>> from damlpips.report.arrows import plot_displacement
        >>> reference = torch.rand(3, 48, 64)
        >>> figure = plot_displacement(DAMLPIPS(), reference, reference)
        >>> figure.axes[0].get_title()
        'displacement from reference to distorted: 0 pixels'
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    if not isinstance(model, DAMLPIPS):
        raise TypeError(f"model: expected a DAMLPIPS (of a metric its .model), got {type(model).__name__}")
    x, y = pair_of(model, distorted, reference)
    by = -model.displacement(x, y)[0].cpu()
    height, width = by.shape[1:]
    length = by.square().sum(0).sqrt()
    figure = Figure(figsize=(WIDTH, WIDTH * height / width + 0.6), layout="constrained")
    axes = figure.add_subplot()
    grey = displayed(y[0], model.value_range).mean(0).numpy()
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, alpha=0.6)
    said = f"displacement from reference to distorted: {length.square().mean().sqrt():.3g} pixels"
    axes.set_title(said if title is None else title, fontsize=10)
    axes.set_axis_off()
    if length.max() > 0:
        step = max(1, min(height, width) // ARROWS)
        rows, columns = (range(step // 2, side, step) for side in (height, width))
        at = by[:, rows, :][:, :, columns]
        arrows = axes.quiver(
            *(columns, rows, at[0], at[1], length[rows, :][:, columns]),
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.003,
            cmap="viridis",
        )
        figure.colorbar(arrows, ax=axes, label="pixels", shrink=0.8)
    return figure
