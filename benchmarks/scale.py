"""What a score means: scores of known distortions of photographs, and of one picture at several sizes, in Markdown.

    python benchmarks/scale.py FOLDER [--count 100] [--enlarged 20] [--seed 0] [--side 240] [--metric NAME ...]

FOLDER holds photographs, read and cropped as in `benchmarks/ladders.py`. The first table has the median score of each
distortion over `--count` photographs, and the range from the 10th to the 90th percentile. The distortions are those of
`damlpips.evaluation.ladders`, but for the shift, which needs less margin here; the unrelated photograph is the next one
drawn.

The second table has the score of a pair of images enlarged 2 and 4 times (bicubic), divided by the score of the pair
itself, for the first `--enlarged` photographs. "After": both images are enlarged after one of them was distorted.
"Before": the photograph is enlarged first and then distorted so that it looks the same, with blur and shift multiplied
by the factor, and contrast and saturation as they are. Noise and JPEG have no such row: coarse grain and large blocks
cannot be added afterwards. 1.00 means that the score does not depend on the size.
"""

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from ladders import against_one, asking, photographs
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from damlpips.evaluation.custom import MetricFileError
from damlpips.evaluation.ladders import LADDERS
from damlpips.evaluation.named import NamedMetric, UnavailableMetricError, UnknownMetricError, build
from damlpips.evaluation.tables import Table, as_markdown
from damlpips.scoring.images import ScoringError

METRICS = ("damlpips", "damlpips-alex", "damlpips-squeeze")
FACTORS = (2, 4)
QUANTILES = (0.5, 0.1, 0.9)
# a lower score is a rounding error: saturation 0 leaves a grey photograph as it is
LEAST = 1e-6

# the farthest shift, in pixels: the margin at the right and the bottom of a photograph
FARTHEST = 4

# a photograph with a margin for shifts, and an unrelated one
Photographs = tuple[Tensor, Tensor]

# (photograph with a margin for shifts, another one, seed) to the distorted image, without the margin
Distortion = Callable[[Tensor, Tensor, int], Tensor]


def _ladder(name: str, level: float, photograph: Tensor, other: Tensor, seed: int) -> Tensor:
    return LADDERS[name].apply(_window(photograph), level, seed=seed)


def _shifted(pixels: int, photograph: Tensor, other: Tensor, seed: int) -> Tensor:
    return _window(photograph.roll((-pixels, -pixels), (-2, -1)))


def _window(photograph: Tensor, factor: int = 1) -> Tensor:
    """Return a photograph without its margin: the reference of all its distortions."""
    margin = factor * FARTHEST
    return photograph[..., :-margin, :-margin]


def _mirrored(photograph: Tensor, other: Tensor, seed: int) -> Tensor:
    return _window(photograph).flip(-1)


def _unrelated(photograph: Tensor, other: Tensor, seed: int) -> Tensor:
    return _window(other)


def _levels(text: str, name: str, *levels: float) -> dict[str, Distortion]:
    return {text.format(level): partial(_ladder, name, level) for level in levels}


DISTORTIONS: dict[str, Distortion] = {
    **_levels("JPEG, quality {}", "jpeg", 95, 90, 75, 50, 30, 10),
    **_levels("noise, sigma {} of 255", "noise", 2, 5, 10, 20, 40),
    **_levels("blur, sigma {} px", "blur", 0.5, 1, 2, 4),
    **{f"shift, {pixels} px each way": partial(_shifted, pixels) for pixels in (1, 2, 4)},
    **_levels("saturation {}", "saturation", 0),
    **_levels("contrast {}", "contrast", 0.5),
    "mirrored": _mirrored,
    "another photograph": _unrelated,
}

# the rows of the second table
AFTER = (
    *("JPEG, quality 30", "noise, sigma 20 of 255", "blur, sigma 2 px", "shift, 2 px each way"),
    *("saturation 0", "contrast 0.5", "mirrored", "another photograph"),
)
# (enlarged photograph, factor) to what looks like the row of the same name, enlarged after its distortion
BEFORE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "blur, sigma 2 px": lambda x, factor: LADDERS["blur"].apply(_window(x, factor), 2 * factor),
    "shift, 2 px each way": lambda x, factor: _window(x.roll((-2 * factor, -2 * factor), (-2, -1)), factor),
    "saturation 0": lambda x, factor: LADDERS["saturation"].apply(_window(x, factor), 0),
    "contrast 0.5": lambda x, factor: LADDERS["contrast"].apply(_window(x, factor), 0.5),
}


def scores(metric: NamedMetric, images: Sequence[Photographs], *, seed: int, progress: Progress) -> Tensor:
    """Return the score of each distortion of each image, (images, distortions)."""
    shown = progress.track(images, description=f"{metric.name}, distortions")
    rows = []
    for k, (image, other) in enumerate(shown):
        distorted = torch.stack([distort(image, other, seed + k) for distort in DISTORTIONS.values()])
        rows.append(against_one(metric)(_window(image)[None].expand_as(distorted), distorted))
    return torch.stack(rows)


def ratios(metric: NamedMetric, images: Sequence[Photographs], *, seed: int, progress: Progress) -> dict[str, Tensor]:
    """Return the score of each enlarged pair divided by that of the pair itself, (images, factors), by row."""
    shown = progress.track(images, description=f"{metric.name}, sizes")
    found: dict[str, list[list[float]]] = {row: [] for row in (*map(_after, AFTER), *map(_before, BEFORE))}
    for k, (image, other) in enumerate(shown):
        x, distorted = _window(image), {name: DISTORTIONS[name](image, other, seed + k) for name in AFTER}
        at_size = {name: _score(metric, x, y) for name, y in distorted.items()}
        for name, y in distorted.items():
            enlarged = [_score(metric, _enlarged(x, f), _enlarged(y, f)) for f in FACTORS]
            found[_after(name)].append([_ratio(score, at_size[name]) for score in enlarged])
        larger = {f: _enlarged(image, f) for f in FACTORS}
        for name, distort in BEFORE.items():
            enlarged = [_score(metric, _window(x, f), distort(x, f)) for f, x in larger.items()]
            found[_before(name)].append([_ratio(score, at_size[name]) for score in enlarged])
    return {row: torch.tensor(values, dtype=torch.float64) for row, values in found.items()}


def _after(name: str) -> str:
    return f"{name}; after"


def _before(name: str) -> str:
    return f"{name}; before"


def _score(metric: NamedMetric, x: Tensor, y: Tensor) -> float:
    return float(metric.distances(x[None], y[None]))


def _ratio(score: float, at_size: float) -> float:
    return score / at_size if abs(at_size) >= LEAST else math.nan


def _enlarged(x: Tensor, factor: int) -> Tensor:
    larger = F.interpolate(x[None], scale_factor=factor, mode="bicubic", align_corners=False)
    return larger[0].clamp(0, 1)  # bicubic overshoots at edges


def _cell(values: Tensor) -> str:
    median, low, high = torch.nanquantile(values, values.new_tensor(QUANTILES)).tolist()
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


def score_table(
    metrics: Sequence[NamedMetric], images: Sequence[Photographs], *, seed: int, progress: Progress
) -> Table:
    """Return the scores of distortions: a row a distortion, a column a metric."""
    columns = [scores(metric, images, seed=seed, progress=progress).T for metric in metrics]
    rows = tuple((name, *map(_cell, of_metrics)) for name, *of_metrics in zip(DISTORTIONS, *columns, strict=True))
    title = f"Scores of {len(images)} photographs: median (10 to 90 %)"
    return Table(title, ("distortion", *(metric.name for metric in metrics)), rows)


def size_table(
    metrics: Sequence[NamedMetric], images: Sequence[Photographs], *, seed: int, progress: Progress
) -> Table:
    """Return how scores change with the size: a row a distortion, a column a metric and factor."""
    columns = [ratios(metric, images, seed=seed, progress=progress) for metric in metrics]
    rows = tuple((row, *(_cell(v) for column in columns for v in column[row].T)) for row in columns[0])
    names = (f"{metric.name}, {factor} times" for metric in metrics for factor in FACTORS)
    title = f"Scores of enlarged images over those of the same as they are, {len(images)} photographs"
    return Table(f"{title}: median (10 to 90 %)", ("distortion; enlarged", *names), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = asking(__doc__, 100, METRICS)
    parser.add_argument("--enlarged", type=int, default=20)
    options = parser.parse_args(arguments)
    if options.count < 2:
        parser.error(f"--count: expected at least 2 photographs, of which one is unrelated, got {options.count}")
    console = Console(stderr=True)
    try:
        metrics = [build(name) for name in options.metric]
        # with the margin that shifts move into
        bytes_of = photographs(options.folder, count=options.count, seed=options.seed, side=options.side + FARTHEST)
        floats = [image.float() / 255 for image in bytes_of]
        images = list(zip(floats, [*floats[1:], floats[0]], strict=True))
        with torch.inference_mode(), Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            of_distortions = score_table(metrics, images, seed=options.seed, progress=bar)
            of_sizes = size_table(metrics, images[: options.enlarged], seed=options.seed, progress=bar)
    except (MetricFileError, ScoringError, UnavailableMetricError, UnknownMetricError) as error:
        sys.exit(f"error: {error}")
    print(as_markdown(of_distortions))
    print(as_markdown(of_sizes), end="")


if __name__ == "__main__":
    main()
