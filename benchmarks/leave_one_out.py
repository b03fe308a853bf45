"""Heads learned from judgements of all contents but one, and how well they agree with people on that one.

    python benchmarks/leave_one_out.py SET... [--backbone nano ...] [--choices 60]

SET is what `damlpips fit` takes: choices, comparisons and ratings. Each content is held out in turn, and the heads of
LPIPS are learned from the others, of all sets together; the distances of the held-out contents make up one table. 2AFC
of it is printed as Markdown, a row for uniform, published and learned heads on each backbone, with 95 % intervals over
contents; and what learning gains over uniform heads, on the same bootstrap samples.

At most `--choices` of each content and set are drawn, by the seed, from comparisons or from pairs of rated images. A
set with one content has no interval.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from damlpips import LPIPS
from damlpips.calibration.choices import Choices, read
from damlpips.calibration.recipe import Recipe
from damlpips.calibration.subjects import Heads
from damlpips.calibration.training import Batches, FitError, Rows, train
from damlpips.cli.agree import load_sets
from damlpips.evaluation.datasets import DatasetError
from damlpips.evaluation.datasets.layouts import AUTO
from damlpips.evaluation.figures import compare, evaluate
from damlpips.evaluation.judgements import Choice, JudgedSet
from damlpips.models.registry import published
from damlpips.nets.table import BACKBONES
from damlpips.scoring.images import ScoringError

# few choices: larger steps, and the loss that has fewest parameters
RECIPE = Recipe(loss="likelihood", learning_rate=1e-2, epochs=10, decay_epochs=10)
UNIFORM, LEARNED = "uniform", "learned from the others"
Distances = NDArray[np.float64]


def drawn(judged: JudgedSet, most: int, seed: int) -> JudgedSet:
    """Return a set with at most some comparisons of each content, drawn by the seed; ratings stay."""
    if judged.kind_of_judgement is not Choice:
        return judged
    rng = np.random.default_rng(seed)
    contents = np.array([judgement.content for judgement in judged.judgements])
    kept = [rng.permutation(np.flatnonzero(contents == content))[:most] for content in np.unique(contents)]
    return replace(judged, judgements=tuple(judged.judgements[k] for k in np.sort(np.concatenate(kept))))


def learned(heads: Heads, choices: Choices, recipe: Recipe) -> Distances:
    """Return the distance of both pairs of each choice by heads that know no choice of its content, (n, 2)."""
    found = np.full((len(choices), 2), np.nan)
    for content in np.unique(choices.contents):
        out = choices.contents == content
        learner = heads.learner(recipe, "")
        train(
            *(learner, Batches(Rows(choices, heads.of), np.flatnonzero(~out), recipe, 0)),
            device=heads.metric.encoder.device,
            devices=1,
            checkpoints=None,
            callbacks=(),
            enable_progress_bar=False,
            logger=False,
        )
        found[out] = weighed(heads, choices, torch.cat(learner.each_head()))[out]
    return found


def weighed(heads: Heads, choices: Choices, weights: torch.Tensor) -> Distances:
    """Return the distance of both pairs of each choice by heads one behind the other, (n, 2)."""
    return choices.of_pairs(heads.table.distances(weights))


def by_heads(backbone: str, choices: Choices, recipe: Recipe, cache: Path | None) -> dict[str, Distances]:
    """Return the distances of all choices by uniform, published and learned heads."""
    with ExitStack() as stack:
        metric = LPIPS(backbone, heads="uniform")
        heads = Heads(metric, choices, stack, cache=cache, workers=0, progress=None)
        weights = {UNIFORM: torch.ones(sum(BACKBONES[backbone].channels))}
        if backbone in published():
            weights["v0.1"] = torch.cat(list(LPIPS(backbone).definition.heads or ()))
        known = {name: weighed(heads, choices, w) for name, w in weights.items()}
        return {**known, LEARNED: learned(heads, choices, recipe)}


def as_sets(choices: Choices) -> list[tuple[NDArray[np.bool_], JudgedSet]]:
    """Return which choices are of each set, and these as a set."""
    found = []
    for number, judged in enumerate(choices.sets):
        of_set = choices.of_set == number
        judgements = tuple(
            Choice(choices.pairs[choices.first[k]], choices.pairs[choices.second[k]], *votes, str(choices.contents[k]))
            for k, votes in zip(np.flatnonzero(of_set), choices.for_each[of_set].tolist(), strict=True)
        )
        found.append((of_set, JudgedSet(judged.judged_set.name, judgements)))
    return found


def table(found: dict[tuple[str, str], Distances], choices: Choices, samples: int) -> list[list[str]]:
    """Return the cells of the table, its head first."""
    sets = as_sets(choices)
    options = {"samples": samples, "headline_only": True}
    rows = [["network", "heads", *(f"{judged.name} ({len(judged.judgements)})" for _, judged in sets)]]
    for (backbone, heads), distances in found.items():
        figures = [evaluate(judged, distances[of_set], **options).headline for of_set, judged in sets]
        rows.append([backbone, heads, *(interval(f"{f.value:.3f}", f.low, f.high, ".2f") for f in figures)])
    for backbone in dict.fromkeys(backbone for backbone, _ in found):
        one, other = found[backbone, LEARNED], found[backbone, UNIFORM]
        gains = [compare(judged, one[of_set], other[of_set], **options)["2AFC"] for of_set, judged in sets]
        rows.append(
            [backbone, "learned less uniform", *(interval(f"{g.value:+.3f}", g.low, g.high, "+.2f") for g in gains)]
        )
    ceilings = [evaluate(judged, found[next(iter(found))][of_set], **options).ceilings for of_set, judged in sets]
    rows += [["people", name, *(f"{of[name]:.3f}" for of in ceilings)] for name in ceilings[0]]
    return rows


def interval(value: str, low: float, high: float, spelled: str) -> str:
    """Return a figure with its interval, where it has one."""
    return value if np.isnan(low) else f"{value} ({low:{spelled}} to {high:{spelled}})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", metavar="SET", type=Path, nargs="+")
    parser.add_argument("--backbone", choices=list(BACKBONES), action="append")
    parser.add_argument("--choices", metavar="N", type=int, default=60)
    parser.add_argument(
        "--epochs", metavar="N", type=int, default=RECIPE.epochs, help="and as many with a falling rate"
    )
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--cache", metavar="FOLDER", type=Path)
    options = parser.parse_args(arguments)
    try:
        recipe = replace(RECIPE, epochs=options.epochs, decay_epochs=options.epochs)
        sets = [drawn(judged, options.choices, recipe.seed) for judged in load_sets(options.sets, AUTO)]
        choices = read(sets, most=options.choices, seed=recipe.seed)
        if len(np.unique(choices.contents)) < 2:
            parser.error("expected two contents at least: one is held out")
        found = {}
        for backbone in options.backbone or ["nano", "squeeze", "alex"]:
            print(f"{backbone} ...", file=sys.stderr)
            for heads, distances in by_heads(backbone, choices, recipe, options.cache).items():
                found[backbone, heads] = distances
    except (DatasetError, FitError, ScoringError, ValueError) as error:
        parser.error(str(error))
    head, *rows = table(found, choices, options.samples)
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
