"""Which facts that nobody disputes hold for metrics: a shift by a pixel is slight, another photograph is far away, ...

    python benchmarks/facts.py FOLDER [--example FOLDER] [--count 20] [--seed 0] [--side 240] [--metric NAME ...]

FOLDER holds photographs, read and cropped as in `benchmarks/ladders.py`. The facts are those of
`damlpips.evaluation.facts`, each a ratio of the median scores of two distortions over the photographs. The first table
has a row a claim, with the largest ratio of its facts beside the largest with which they hold; the second one has the
median scores. Metrics are named as for `damlpips agree --metric`, `FILE.py:NAME` included.

`--example` names a folder with the images of the original LPIPS's example, ex_ref.png, ex_p0.png (blurred) and
ex_p1.png (warped), of which the warped one is closer by at least a tenth.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from ladders import against_one, asking, photographs
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from damlpips.evaluation.custom import MetricFileError
from damlpips.evaluation.facts import BELOW, CLAIMS, DISTORTIONS, Fact, median, scores
from damlpips.evaluation.named import NamedMetric, UnavailableMetricError, UnknownMetricError, build
from damlpips.evaluation.tables import Table, as_markdown
from damlpips.scoring.images import ScoringError, read_image

METRICS = ("damlpips", "damlpips-alex", "damlpips-squeeze", "lpips-alex", "lpips-squeeze")
REFERENCE, BLURRED, WARPED = "ex_ref.png", "ex_p0.png", "ex_p1.png"
EXAMPLE = {"in LPIPS's example, the warped image is below the blurred one": (Fact(WARPED, BLURRED, BELOW),)}

# scores of distortions by name, of one metric
Scores = dict[str, float]


def measured(
    metric: NamedMetric, images: Sequence[Tensor], example: Sequence[Tensor], *, seed: int, progress: Progress
) -> Scores:
    """Return the median scores of distortions over photographs, and those of an example's images, if there is one."""
    others = [*images[1:], images[0]]
    shown = progress.track(list(zip(images, others, strict=True)), description=metric.name)
    found = median([scores(against_one(metric), x, y, seed=seed + k) for k, (x, y) in enumerate(shown)])
    if example:
        reference, *distorted = (image[None].float() / 255 for image in example)
        found |= {
            name: float(metric.distances(reference, y) - metric.distances(reference, reference))
            for name, y in zip((BLURRED, WARPED), distorted, strict=True)
        }
    return found


def fact_table(found: dict[str, Scores], count: int) -> Table:
    """Return the largest ratio of each claim: a row a claim, a column a metric."""
    claims = CLAIMS | (EXAMPLE if all(WARPED in scores_of for scores_of in found.values()) else {})
    rows = [
        (claim, f"{facts[0].at_most:.2f}", *(_cell(facts, scores_of) for scores_of in found.values()))
        for claim, facts in claims.items()
    ]
    every = [fact for facts in claims.values() for fact in facts]
    held = (sum(fact.holds(scores_of) for fact in every) for scores_of in found.values())
    rows.append(("facts that hold", "", *(f"{number} of {len(every)}" for number in held)))
    title = f"Ratio of the slight score to the strong one, the largest of each claim: {count} photographs"
    return Table(title, ("claim", "at most", *found), tuple(rows))


def _cell(facts: Sequence[Fact], scores_of: Scores) -> str:
    """Return the largest ratio, and how many of the facts do not hold."""
    ratios = torch.tensor([fact.ratio(scores_of) for fact in facts])
    failed = sum(not fact.holds(scores_of) for fact in facts)
    # one that has no meaning is the largest
    return f"{float(ratios.max()):.2f}" + (f", {failed} of {len(facts)} fail" if failed else "")


def score_table(found: dict[str, Scores], count: int) -> Table:
    """Return the median scores: a row a distortion, a column a metric."""
    rows = [(name, *(f"{scores_of[name]:.3f}" for scores_of in found.values())) for name in DISTORTIONS]
    return Table(f"Median scores of {count} photographs", ("distortion", *found), tuple(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = asking(__doc__, 20, METRICS)
    parser.add_argument("--example", metavar="FOLDER", type=Path)
    options = parser.parse_args(arguments)
    if options.count < 2:
        parser.error(f"--count: expected at least 2 photographs, of which one is unrelated, got {options.count}")
    console = Console(stderr=True)
    try:
        metrics = [build(name) for name in options.metric]
        images = photographs(options.folder, count=options.count, seed=options.seed, side=options.side)
        names = (REFERENCE, BLURRED, WARPED) if options.example else ()
        example = [read_image(options.example / name) for name in names]
        with torch.inference_mode(), Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            found = {
                metric.name: measured(metric, images, example, seed=options.seed, progress=bar) for metric in metrics
            }
    except (MetricFileError, ScoringError, UnavailableMetricError, UnknownMetricError) as error:
        sys.exit(f"error: {error}")
    print(as_markdown(fact_table(found, len(images))))
    print(as_markdown(score_table(found, len(images))), end="")


if __name__ == "__main__":
    main()
