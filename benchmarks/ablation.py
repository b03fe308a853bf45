"""What each part and each constant of DAMLPIPS contributes: agreement with observers, part by part.

    DAMLPIPS_WEIGHTS_DIR=WEIGHTS python benchmarks/ablation.py SETS [--backbone NAME ...] [--json FILE] [--plot FILE]
    python benchmarks/ablation.py --from-json FILE [--from-json FILE ...] [--backbone NAME ...] --plot FILE

SETS is what `damlpips agree` reads. Prints a Markdown table: DAMLPIPS as it is, without each part, and with each
constant around its value; for each set the headline figure (SRCC, 2AFC), and their mean. `--json` keeps the figures;
`--plot` plots the mean against each constant, with `--from-json` that of earlier runs: for each backbone the last one
counts.
"""

import argparse
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from damlpips import DAMLPIPS
from damlpips.evaluation.datasets import load
from damlpips.evaluation.figures import headline_of
from damlpips.evaluation.judgements import Choice, FilePair, JudgedSet, Rating
from damlpips.models.settings import VIEWING_SIDE
from damlpips.ops import colour, distance
from damlpips.scoring.images import read_image

BATCH = 8

# the figures of each variant, one per set and their mean
Figures = dict[str, list[float]]

# name of the constant: where it stands, values around its own
CONSTANTS: dict[str, tuple[Any, tuple[float, ...]]] = {
    "IMAGE_SHARE": (distance, (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0)),
    "TEXTURE_SHARE": (distance, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
    "FUSION_GAIN": (distance, (5.0, 10.0, 20.0, 40.0, 80.0)),
    "PEAK_POWER": (distance, (1.0, 1.5, 2.0, 3.0)),
    "ADAPTATION": (colour, (0.0, 0.5, 0.75, 1.0)),
    "PHOTOGRAPH_ENERGY": (colour, (0.02, 0.04, 0.08)),
    "rho": (None, (0.0, 0.25, 1.0)),
    "gamma": (None, (0.0, 0.5, 1.0)),
    "viewing_side": (None, (128, 192, 256, 384, 0)),
}
# These only combine distances that have been computed.
MIXING = ("IMAGE_SHARE", "TEXTURE_SHARE", "FUSION_GAIN")
OFF = {
    "no image layer": {"IMAGE_SHARE": 0.0},
    "no network": {"IMAGE_SHARE": 1.0},
    "no texture": {"TEXTURE_SHARE": 0.0},
    "mean, no peaks": {"PEAK_POWER": 1.0},
    "no adaptation to tints": {"ADAPTATION": 0.0},
    "channels alike": {"gamma": 0.0},
    "normalised by the place alone": {"rho": 1.0},
    "as large as they are": {"viewing_side": 0},
}


def variants() -> dict[str, dict[str, float]]:
    around = {f"{name} = {value:g}": {name: value} for name, (_, values) in CONSTANTS.items() for value in values}
    return {"DAMLPIPS": {}, **OFF, **around}


def distances(backbone: str, pairs: list[FilePair], changes: dict[str, dict[str, float]]) -> dict[str, dict]:
    """Return the distance of each pair under each change; what a change does not affect is computed once."""
    found: dict[str, dict] = {name: {} for name in changes}
    for side in sorted({change.get("viewing_side", VIEWING_SIDE) for change in changes.values()}):
        model = DAMLPIPS(backbone, viewing_side=int(side) or None)
        mine = {name: c for name, c in changes.items() if c.get("viewing_side", VIEWING_SIDE) == side}
        for reference, group in groupby(pairs, key=lambda pair: pair[0]):
            x = model.encode(read_image(reference)[None])
            for batch in batches([other for _, other in group]):
                y = model.encode(torch.stack([read_image(other) for other in batch]))
                compared: dict[tuple, tuple] = {}
                for name, change in mine.items():
                    key = tuple(item for item in change.items() if item[0] not in MIXING)
                    with changed(model, change):
                        if key not in compared:
                            layers = model.definition.compared(x.expand(len(batch)), y)
                            compared[key] = tuple(
                                torch.stack([getattr(layer, part) for layer in layers], 1)
                                for part in ("structure", "texture")
                            )
                        scores = distance.fuse(*compared[key]).sum(1)
                    found[name].update({(reference, o): float(s) for o, s in zip(batch, scores, strict=True)})
    return found


def batches(files: list[Path]) -> Iterator[list[Path]]:
    for k in range(0, len(files), BATCH):
        yield files[k : k + BATCH]


def changed(model: DAMLPIPS, change: dict[str, float]) -> ExitStack:
    stack = ExitStack()
    for name, value in change.items():
        where = CONSTANTS[name][0]
        if where is not None:
            stack.enter_context(mock.patch.object(where, name, value))
        elif name != "viewing_side":
            weighing = model.definition.weighing._replace(**{name: value})
            definition = replace(model.definition, weighing=weighing)
            stack.enter_context(mock.patch.object(model, "definition", definition))
    return stack


def headline(judged: JudgedSet, of_pair: Mapping[FilePair, float]) -> float:
    table = np.array([[of_pair[pair] for pair in judgement.pairs] for judgement in judged.judgements])
    figure = headline_of(judged, table if judged.kind_of_judgement is Choice else table[:, 0])
    return figure(np.arange(len(table)))


def measured(file: Path, backbones: Sequence[str]) -> dict[str, Figures]:
    """Return the figures of each backbone, and print each as soon as it is known."""
    sets = [judged for judged in load(file) if judged.kind_of_judgement in (Rating, Choice)]
    pairs = sorted({pair for judged in sets for judgement in judged.judgements for pair in judgement.pairs})
    print(f"| backbone | variant | {' | '.join(s.name for s in sets)} | mean |\n|---|---|{'---|' * (len(sets) + 1)}")
    results: dict[str, Figures] = {}
    for backbone in backbones:
        results[backbone] = {}
        for name, of_pair in distances(backbone, pairs, variants()).items():
            cells = [headline(judged, of_pair) for judged in sets]
            results[backbone][name] = [*cells, math.fsum(cells) / len(cells)]
            print(f"| {backbone} | {name} | {' | '.join(f'{c:.3f}' for c in results[backbone][name])} |", flush=True)
    return results


def earlier(files: Sequence[Path], backbones: Sequence[str] | None) -> dict[str, Figures]:
    """Return the figures that earlier runs kept, for some backbones or for all."""
    found = {backbone: figures for file in files for backbone, figures in json.loads(file.read_text()).items()}
    return {backbone: found[backbone] for backbone in backbones or found}


def own_value(name: str) -> float:
    where, _ = CONSTANTS[name]
    return getattr(where, name) if where else inspect.signature(DAMLPIPS).parameters[name].default


def draw(file: Path, results: dict[str, Figures]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(10, 8), sharey=True, constrained_layout=True)
    for axis, (name, (_, values)) in zip(axes.flat, CONSTANTS.items(), strict=True):
        places = [v or 512 if name == "viewing_side" else v for v in values]  # 0: the images' own sides
        for (backbone, table), marker in zip(results.items(), "os^Dv", strict=False):
            axis.plot(places, [table[f"{name} = {v:g}"][-1] for v in values], marker=marker, ms=4, label=backbone)
        axis.axvline(own_value(name), color="0.6", lw=1, zorder=0)
        if name in ("FUSION_GAIN", "PHOTOGRAPH_ENERGY"):
            axis.set_xscale("log")
        axis.set_xticks(places, [f"{v:g}" if v or name != "viewing_side" else "own" for v in values], fontsize=8)
        axis.minorticks_off()
        axis.set_title(name.lower().replace("_", " "), fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean of the sets' figures")
    axes[0, 0].legend(fontsize=9)
    figure.savefig(file)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="?")
    parser.add_argument("--backbone", action="append")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from-json", type=Path, action="append", metavar="FILE")
    options = parser.parse_args()
    if (options.sets is None) == (options.from_json is None):
        parser.error("expected either SETS or --from-json")
    if options.from_json and not options.plot:
        parser.error("--from-json: expected --plot")
    if options.from_json:
        results = earlier(options.from_json, options.backbone)
    else:
        results = measured(options.sets, options.backbone or ["alex", "squeeze", "nano"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.plot:
        draw(options.plot, results)


if __name__ == "__main__":
    main()
