"""How much a mask changes the scores of what it covers: a Markdown table.

    python benchmarks/masks.py FOLDER [--count 40] [--seed 0] [--side 240] [--metric NAME ...]

FOLDER holds photographs, read and cropped as in `benchmarks/ladders.py`; distortions are those of
`damlpips.evaluation.ladders`. The score with a mask is compared with that of the same places where the network sees the
whole images, what is outside included: cells have the median relative deviation, and the largest of all photographs in
brackets. The square is also compared with a crop, at whose border the network sees zeros.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from ladders import asking, photographs
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS
from damlpips.checks import one_of
from damlpips.evaluation.ladders import LADDERS
from damlpips.evaluation.tables import Table, as_markdown
from damlpips.models.base import PerceptualDistance
from damlpips.nets.weights import WeightsError
from damlpips.scoring.images import ScoringError

METRICS: dict[str, Callable[[], PerceptualDistance]] = {
    "lpips-alex": lambda: LPIPS("alex"),
    "lpips-squeeze": lambda: LPIPS("squeeze"),
    "damlpips": DAMLPIPS,
    "damlpips:1": lambda: DAMLPIPS(version=1),
}
DISTORTIONS = {"noise, sigma 20": ("noise", 20.0), "blur, sigma 2 px": ("blur", 2.0), "contrast 0.5": ("contrast", 0.5)}


def square(side: int) -> Tensor:
    """Return a mask of a quarter of the image, (1, 1, side, side)."""
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    part = slice(side // 4, side // 4 + side // 2)
    mask[..., part, part] = True
    return mask


def blob(side: int) -> Tensor:
    """Return a mask with a wavy outline and a hole."""
    down, across = (v - side / 2 for v in torch.meshgrid(*[torch.arange(float(side))] * 2, indexing="ij"))
    radius, angle = (down.square() + across.square()).sqrt() / side, torch.atan2(down, across)
    return ((radius < 0.3 + 0.06 * torch.sin(5 * angle)) & (radius > 0.08))[None, None]


def stripes(side: int, width: int) -> Tensor:
    """Return a mask of lines, as wide as `width` pixels and 60 apart."""
    return (torch.arange(side) % 60 < width).expand(1, 1, side, side)


MASKS = {
    "square": square,
    "blob": blob,
    **{f"lines of {width} px": lambda side, width=width: stripes(side, width) for width in (20, 10, 4, 1)},
}


def of_covered_places(model: PerceptualDistance, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Return the scores of the places that a mask covers, where the network has seen all of the images."""
    encoded = model.encoder.pair(x, y, (x.shape[2], x.shape[3]))
    return model.definition.layers(*encoded, None, mask.float().expand(len(x), -1, -1, -1)).sum(1)


def deviations(model: PerceptualDistance, images: Sequence[Tensor], *, seed: int) -> dict[str, list[float]]:
    """Return the relative deviation of each photograph's score, by the mask and what it is compared with."""
    found: dict[str, list[float]] = {name: [] for name in (*MASKS, "square, beside its crop")}
    for k, image in enumerate(images):
        y = torch.stack([LADDERS[name].apply(image, level, seed=seed + k) for name, level in DISTORTIONS.values()])
        x = image[None].expand_as(y)
        side = image.shape[-1]
        for name, mask in ((name, make(side)) for name, make in MASKS.items()):
            masked = model(x, y, mask=mask)
            found[name] += (masked / of_covered_places(model, x, y, mask) - 1).tolist()
            if name == "square":
                part = slice(side // 4, side // 4 + side // 2)
                crop = model(x[..., part, part], y[..., part, part])
                found["square, beside its crop"] += (masked / crop - 1).tolist()
    return found


def _cell(values: Sequence[float], which: int) -> str:
    of_distortion = torch.tensor(values[which :: len(DISTORTIONS)])
    return f"{of_distortion.median():+.2f} ({of_distortion[of_distortion.abs().argmax()]:+.2f})"


def table(metrics: Sequence[str], images: Sequence[Tensor], *, seed: int, progress: Progress) -> Table:
    """Return the deviations: a row a metric and mask, a column a distortion."""
    rows = []
    for metric in progress.track(metrics):
        for name, values in deviations(METRICS[metric](), images, seed=seed).items():
            rows.append((metric, name, *(_cell(values, k) for k in range(len(DISTORTIONS)))))
    title = f"Scores with a mask over those without one, less 1, {len(images)} photographs: median (largest)"
    return Table(title, ("metric", "mask", *DISTORTIONS), tuple(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    options = asking(__doc__, 40, tuple(METRICS)).parse_args(arguments)
    console = Console(stderr=True)
    try:
        metrics = [one_of("metric", name, METRICS) for name in options.metric]
        images = [
            i.float() / 255
            for i in photographs(options.folder, count=options.count, seed=options.seed, side=options.side)
        ]
        with torch.inference_mode(), Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            found = table(metrics, images, seed=options.seed, progress=bar)
    except (ScoringError, ValueError, WeightsError) as error:
        sys.exit(f"error: {error}")
    print(as_markdown(found), end="")


if __name__ == "__main__":
    main()
