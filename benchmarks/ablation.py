"""What each part and each constant of DAMLPIPS contributes: agreement with observers, part by part.

    DAMLPIPS_WEIGHTS_DIR=WEIGHTS python benchmarks/ablation.py SETS [--backbone NAME ...] [--json FILE] [--plot FILE]
    python benchmarks/ablation.py --from-json FILE [--from-json FILE ...] [--backbone NAME ...] [--plot FILE]

SETS is what `damlpips agree` reads. Prints a Markdown table a backbone: DAMLPIPS as it is, without each part, and with
each constant around its value; for each set the headline figure (SRCC, 2AFC), and their mean. Constants have the names
that they have in the package; `strain` is the weight of the strain in the extent of what motion adds and of seams.

Figures are told on stderr as they come, and `--json` keeps them: what FILE has is not computed again. `--plot` plots
the mean against each constant. `--from-json` is for the tables and plots of earlier runs: of each backbone the last one
counts.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypedDict, TypeVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from damlpips import DAMLPIPS
from damlpips.evaluation.datasets import load
from damlpips.evaluation.figures import headline_of
from damlpips.evaluation.judgements import Choice, FilePair, JudgedSet
from damlpips.evaluation.named import UnavailableMetricError, build
from damlpips.evaluation.tables import Table, as_markdown
from damlpips.files import write_whole
from damlpips.models import alignment, version2
from damlpips.models.alignment import Motion
from damlpips.models.settings import DAMLPIPSSettings
from damlpips.nets.encoded import Encoded
from damlpips.ops import colour, displacement, distance, fused, masking
from damlpips.scoring.images import read_image

# What differs from DAMLPIPS as it is, by name: values of constants and options, and functions in place of others.
Change = Mapping[str, Any]
# the headline figure of each set, and the mean of all
Figures = dict[str, float]
Made = TypeVar("Made")


class OfBackbone(TypedDict):
    """The identity of DAMLPIPS on a backbone, as `damlpips agree` has it, and the figures of each variant."""

    metric: str
    figures: dict[str, Figures]


Results = dict[str, OfBackbone]

AS_IT_IS, MEAN = "DAMLPIPS", "mean"


# --- what is varied --------------------------------------------------------------------------------------------------

# where a constant stands, and values around its own; no module: an option of DAMLPIPS, and the strain
CONSTANTS: dict[str, tuple[ModuleType | None, tuple[float | None, ...]]] = {
    "IMAGE_SHARE": (version2, (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0)),
    "IMAGE_TEXTURE": (version2, (0.0, 0.2, 0.35, 0.5, 0.7)),
    "NETWORK_TEXTURE": (version2, (0.0, 0.05, 0.1, 0.2, 0.4)),
    "GAIN": (version2, (1.25, 2.5, 5.0, 10.0, 20.0)),
    "MASKING_FLOOR": (masking, (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)),
    "MASKING_WINDOW": (masking, (3, 5, 7, 11)),
    "MOST": (masking, (5.0, 10.0, 20.0, 40.0, 80.0)),
    "PHOTOGRAPH_ENERGY": (colour, (0.02, 0.04, 0.08)),
    "PEAK_POWER": (distance, (1.0, 1.5, 2.0, 3.0)),
    "ADAPTATION": (colour, (0.0, 0.5, 0.75, 1.0)),
    "rho": (None, (0.0, 0.125, 0.25, 0.5, 1.0)),
    "gamma": (None, (0.0, 0.25, 0.5, 0.75, 1.0)),
    "MOTION_WEIGHT": (version2, (0.0, 1.0, 2.0, 4.0, 8.0)),
    "MOST_OF_MOTION": (version2, (0.2, 0.4, 0.8, 1.6)),
    "SEAMS": (version2, (0.0, 0.5, 1.0, 2.0, 4.0)),
    "strain": (None, (0.0, 0.25, 0.5, 1.0)),
    "MOVED_FROM": (displacement, (0.2, 0.3, 0.4, 0.5)),
    "MOVED_TO": (displacement, (0.5, 0.6, 0.7, 0.8)),
    "FAR": (displacement, (0.0, 0.75, 1.5, 3.0)),
    "FARTHEST": (displacement, (0.15, 0.25, 0.35, 0.45)),
    "viewing_side": (None, (128, 192, 256, 384, None)),
}
ON_A_LOG_SCALE = ("GAIN", "MASKING_FLOOR", "MOST", "PHOTOGRAPH_ENERGY")
FUNCTIONS: dict[str, ModuleType] = {
    "masked_map": version2,
    "moved_share": displacement,
    "hinted_share": displacement,
}
# What has to be computed again where one of these changes: how images are aligned, how the image compares, how the
# network's maps compare. All others only mix what has been computed, but for the viewing side: it changes everything.
OF_ALIGNMENT = {"align", "moved_share", "hinted_share", "MOVED_FROM", "MOVED_TO", "FAR", "FARTHEST"}
OF_IMAGE = {
    *("masked_map", "MASKING_FLOOR", "MASKING_WINDOW", "MOST"),
    *("PHOTOGRAPH_ENERGY", "PEAK_POWER", "ADAPTATION"),
}
OF_NETWORK = {"PEAK_POWER", "rho", "gamma"}


def without_contrast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Compare images as `masked_map` does, with the energy of photographs in place of the contrast of each place."""
    everywhere = a.new_tensor(colour.PHOTOGRAPH_ENERGY - masking.MASKING_FLOOR)
    return masking.compared(a, b, everywhere, everywhere)


def in_full(explained: Tensor, _extent: Tensor | None = None) -> Tensor:
    """Return that pairs count as moved, whatever the field explains."""
    return torch.ones_like(explained)


OFF: dict[str, Change] = {
    "nothing aligned": {"align": False},
    "no image layer": {"IMAGE_SHARE": 0.0},
    "no network": {"IMAGE_SHARE": 1.0},
    "no texture": {"IMAGE_TEXTURE": 0.0, "NETWORK_TEXTURE": 0.0},
    "image not masked by contrast": {"masked_map": without_contrast},
    "image without a bound": {"MOST": math.inf},
    "mean, no peaks": {"PEAK_POWER": 1.0},
    "no adaptation to tints": {"ADAPTATION": 0.0},
    "channels alike": {"gamma": 0.0},
    "normalised by the place alone": {"rho": 1.0},
    "nothing added by motion": {"MOTION_WEIGHT": 0.0},
    "no strain in the extent": {"strain": 0.0},
    "no seams: all that is left counts": {"SEAMS": 0.0},
    "all pairs count as moved": {"moved_share": in_full, "hinted_share": in_full},
    "as large as they are": {"viewing_side": None},
}


def own_value(name: str) -> float | None:
    """Return the value that a constant has in DAMLPIPS."""
    where, _ = CONSTANTS[name]
    if where is not None:
        return getattr(where, name)
    if name == "strain":
        return float(displacement.Extent(torch.zeros(()), torch.ones(())).size)
    return getattr(DAMLPIPSSettings(), name)


def row_of(name: str, value: float | None) -> str:
    """Return the name of the variant in which a constant has a value."""
    return f"{name} = {value if value is None else format(value, 'g')}"


def variants() -> dict[str, Change]:
    """Return what is measured, in the order of the table's rows."""
    around: dict[str, Change] = {}
    for name, (_, values) in CONSTANTS.items():
        # the CPU's own function is written for one window
        also = {"masked_map": masking.plain_masked_map} if name == "MASKING_WINDOW" else {}
        for value in values:
            around[row_of(name, value)] = {} if value == own_value(name) else {name: value, **also}
    return {AS_IT_IS: {}, **OFF, **around}


@contextmanager
def changed(change: Change) -> Iterator[None]:
    """Compute with other constants and functions for a while."""
    with ExitStack() as stack:
        for name, value in change.items():
            if (where := FUNCTIONS.get(name) or CONSTANTS.get(name, (None,))[0]) is not None:
                stack.enter_context(mock.patch.object(where, name, value))
        yield


def only(change: Change, names: set[str]) -> frozenset[tuple[str, Any]]:
    """Return the part of a change that something depends on."""
    return frozenset((name, value) for name, value in change.items() if name in names)


# --- what is computed ------------------------------------------------------------------------------------------------


class Aligned(NamedTuple):
    """Two images as they are compared, in [0, 1], and what moved."""

    x: Tensor
    y: Tensor
    motion: Motion


class Layers(NamedTuple):
    """What scores are mixed from: the distances of each layer, (N, 1 + L), the image first, and what moved."""

    structure: Tensor
    texture: Tensor
    motion: Motion


class SeenPair:
    """Two image files as metrics that look at one size see them; what changes have in common is computed once."""

    def __init__(self, metrics: Mapping[str, DAMLPIPS], files: FilePair) -> None:
        self.metrics = metrics
        images = [read_image(file)[None] for file in files]
        self.size = images[0].shape[2], images[0].shape[3]
        encoder = next(iter(metrics.values())).encoder  # they differ in the network alone
        self.x, self.y = (alignment.unit(encoder, encoder.seen(x, self.size)) for x in images)
        self._known: dict[Hashable, Any] = {}

    def layers(self, backbone: str, change: Change) -> Layers:
        """Return how the pair compares under a change."""
        with changed(change):
            both = self._once(("aligned", only(change, OF_ALIGNMENT)), partial(self._aligned, change))
            # the field is the same whatever the share, and so are images aligned by the same share
            share = float(both.motion.share)
            image = self._once(("image", share, only(change, OF_IMAGE)), partial(self._image, both, share))
            network = self._once(
                (backbone, share, only(change, OF_NETWORK)), partial(self._network, backbone, both, share, change)
            )
        structure, texture = (torch.stack(d, 1) for d in zip(image, *network, strict=True))
        return Layers(structure, texture, both.motion)

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _aligned(self, change: Change) -> Aligned:
        both = alignment.middle(self.x, self.y) if change.get("align", True) else None
        if both is None:
            none, one = torch.zeros(1), torch.ones(1)
            return Aligned(self.x, self.y, Motion(torch.zeros(1, 2, 0, 0), none, none, none, one))
        return Aligned(both.x, both.y, both.motion._replace(field=torch.zeros(1, 2, 0, 0)))

    def _image(self, both: Aligned, share: float) -> fused.Distances:
        uniform = self._once(("colours", share), lambda: [colour.uniform(both.x), colour.uniform(both.y)])
        compared = version2.compared_image(*map(colour.adapted, uniform))
        return fused.Distances(compared.structure, compared.texture)

    def _network(self, backbone: str, both: Aligned, share: float, change: Change) -> list[fused.Distances]:
        metric = self.metrics[backbone]
        x, y = self._once(("maps", backbone, share), partial(self._encoded, metric, both))
        options = {name: change[name] for name in ("rho", "gamma") if name in change}
        weighing = metric.definition.weighing._replace(**options)
        return [fused.damlpips_distances(a, b, weighing) for a, b in zip(x.features, y.features, strict=True)]

    def _encoded(self, metric: DAMLPIPS, both: Aligned) -> tuple[Encoded, Encoded]:
        x, y = (alignment.in_range(metric.encoder, images) for images in (both.x, both.y))
        return metric.encoder.pair_of_seen(x, y, self.size)


def mixed(pairs: Sequence[Layers], change: Change) -> list[float]:
    """Return the score of each pair under a change, from how its layers compare."""
    structure, texture = (torch.cat(parts) for parts in list(zip(*pairs, strict=True))[:2])
    motion = Motion(*map(torch.cat, zip(*(pair.motion for pair in pairs), strict=True)))
    if "strain" in change:
        motion = motion._replace(strain=motion.strain * (change["strain"] / own_value("strain")))
    with changed(change):
        return version2.with_motion(version2.fuse(structure, texture), motion).sum(1).tolist()


def distances(
    pairs: Sequence[FilePair], side: int | None, wanted: Mapping[str, Mapping[str, Change]]
) -> Iterator[tuple[str, str, dict[FilePair, float]]]:
    """Yield backbone, variant and the distance of each pair, seen at one size, of wanted changes by backbone."""
    metrics = {backbone: DAMLPIPS(backbone, viewing_side=side) for backbone in wanted}
    computed = OF_ALIGNMENT | OF_IMAGE | OF_NETWORK
    found: dict[tuple[str, Hashable], list[Layers]] = defaultdict(list)
    keys = {backbone: {only(change, computed) for change in changes.values()} for backbone, changes in wanted.items()}
    for done, files in enumerate(pairs, start=1):
        pair = SeenPair(metrics, files)
        for backbone, of_backbone in keys.items():
            for key in of_backbone:
                found[backbone, key].append(pair.layers(backbone, dict(key)))
        if done % 100 == 0:
            told(f"{done} of {len(pairs)} pairs, viewing side {side}")
    for backbone, changes in wanted.items():
        for name, change in changes.items():
            scores = mixed(found[backbone, only(change, computed)], change)
            yield backbone, name, dict(zip(pairs, scores, strict=True))


# --- figures ---------------------------------------------------------------------------------------------------------


def headline(judged: JudgedSet, of_pair: Mapping[FilePair, float]) -> float:
    """Return how well distances agree with the observers of a set."""
    table = np.array([[of_pair[pair] for pair in judgement.pairs] for judgement in judged.judgements])
    figure = headline_of(judged, table if judged.kind_of_judgement is Choice else table[:, 0])
    return figure(np.arange(len(table)))


def figures(sets: Sequence[JudgedSet], of_pair: Mapping[FilePair, float]) -> Figures:
    """Return the figure of each set, and their mean."""
    found = {judged.name: float(headline(judged, of_pair)) for judged in sets}
    return {**found, MEAN: math.fsum(found.values()) / len(found)}


def measured(
    sets: Sequence[JudgedSet], backbones: Sequence[str], results: Results, keep: Callable[[Results], None]
) -> None:
    """Add the figures of each backbone that are missing; `keep` is called after each.

    Variants for which images are seen and aligned alike go through the pairs together, on all backbones: the field is
    the same for all of them.
    """
    pairs = sorted({pair for judged in sets for judgement in judged.judgements for pair in judgement.pairs})
    passes: dict[tuple[int | None, bool], dict[str, Change]] = defaultdict(dict)
    for name, change in variants().items():
        side = change.get("viewing_side", own_value("viewing_side"))
        passes[side, bool(change.keys() & OF_ALIGNMENT)][name] = change
    for (side, _), changes in passes.items():
        missing = {b: {name: c for name, c in changes.items() if name not in results[b]["figures"]} for b in backbones}
        wanted = {backbone: of_backbone for backbone, of_backbone in missing.items() if of_backbone}
        for backbone, name, of_pair in distances(pairs, side, wanted) if wanted else ():
            found = results[backbone]["figures"][name] = figures(sets, of_pair)
            told(f"{backbone}, {name}: {found[MEAN]:.3f}")
            keep(results)


def keep_in(file: Path | None, results: Results) -> None:
    """Write results to a file, if there is one."""
    if file is not None:
        write_whole(file, json.dumps(results, indent=1))


def earlier(files: Sequence[Path]) -> Results:
    """Return what earlier runs kept, of each backbone the last."""
    return {backbone: kept for file in files for backbone, kept in json.loads(file.read_text()).items()}


def to_go_on_with(file: Path | None, sets: Sequence[JudgedSet], backbones: Sequence[str]) -> Results:
    """Return what an earlier run kept; nothing of a backbone that has changed since, or whose formula has."""
    results = earlier([file]) if file is not None and file.exists() else {}
    expected = [*(judged.name for judged in sets), MEAN]
    if any(list(row) != expected for kept in results.values() for row in kept["figures"].values()):
        raise ValueError(f"{file}: has figures of other sets than {', '.join(expected[:-1])}: expected another file")
    for backbone in backbones:
        metric = build(f"damlpips-{backbone}").identity
        if backbone not in results or results[backbone]["metric"] != metric:
            results[backbone] = {"metric": metric, "figures": {}}
    return results


def sets_of(path: Path) -> list[JudgedSet]:
    """Return judged sets, each of which has a column of its own."""
    sets = load(path)
    if len({judged.name for judged in sets}) < len(sets):
        raise ValueError(f"{path}: expected each name of a set once, got {', '.join(judged.name for judged in sets)}")
    return sets


# --- what is shown ---------------------------------------------------------------------------------------------------


def told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table_of(backbone: str, of_backbone: OfBackbone) -> Table:
    """Return the figures of a backbone, in the order of `variants`."""
    rows = {name: of_backbone["figures"][name] for name in variants() if name in of_backbone["figures"]}
    columns = next(iter(rows.values()), {})
    cells = tuple((name, *(f"{figure:.3f}" for figure in row.values())) for name, row in rows.items())
    return Table(f"Ablation on {backbone}", ("variant", *columns), cells)


def draw(file: Path, results: Results) -> None:
    """Plot the mean of the sets against each constant, a line a backbone."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(7, 3, figsize=(10, 17), sharey=True, constrained_layout=True)
    for axis, (name, (_, values)) in zip(axes.flat, CONSTANTS.items(), strict=True):
        places = [512 if v is None else v for v in values]  # None: the images' own sides
        for (backbone, kept), marker in zip(results.items(), "os^Dv", strict=False):
            means = [kept["figures"].get(row_of(name, v), {}).get(MEAN, math.nan) for v in values]
            axis.plot(places, means, marker=marker, ms=4, label=backbone)
        axis.axvline(own_value(name), color="0.6", lw=1, zorder=0)
        if name in ON_A_LOG_SCALE:
            axis.set_xscale("log")
        axis.set_xticks(places, ["own" if v is None else f"{v:g}" for v in values], fontsize=8)
        axis.minorticks_off()
        axis.set_title(name.lower().replace("_", " "), fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean of the sets' figures")
    axes[0, 0].legend(fontsize=9)
    figure.savefig(file)


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or read what was measured; print tables, and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="?")
    parser.add_argument("--backbone", action="extend", nargs="+", metavar="NAME")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--from-json", type=Path, action="extend", nargs="+", metavar="FILE")
    options = parser.parse_args(arguments)
    if (options.sets is None) == (options.from_json is None):
        parser.error("expected either SETS or --from-json")
    try:
        if options.from_json:
            results = earlier(options.from_json)
            backbones = options.backbone or list(results)
        else:
            sets, backbones = sets_of(options.sets), options.backbone or ["alex", "squeeze", "nano"]
            results = to_go_on_with(options.json, sets, backbones)
    except (ValueError, OSError, UnavailableMetricError) as error:
        parser.error(str(error))
    if not options.from_json:
        measured(sets, backbones, results, partial(keep_in, options.json))
    asked = {backbone: results[backbone] for backbone in backbones}
    for backbone, of_backbone in asked.items():
        print(as_markdown(table_of(backbone, of_backbone)), flush=True)
    if options.plot:
        draw(options.plot, asked)


if __name__ == "__main__":
    main()
