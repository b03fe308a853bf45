"""Whether the weights of DAMLPIPS, version 1, can be learned without observers, from what other metrics say.

    PYTHONPATH=. DAMLPIPS_WEIGHTS_DIR=WEIGHTS python benchmarks/learned_weights.py SETS PHOTOGRAPHS [--items 300]

A committee of piq's metrics ranks pairs of distorted pictures drawn as for the training of nano (`training.pairs`). A
non-negative combination of the terms u(S_l) and u(T_l) of the layers is fitted to the mean of the ranks, or to -log(1
- rank). Prints a Markdown table: the headline figures of SETS with the learned weights, the mean rank correlation
with the committee, and the share of the image and of all textures in the weights.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import piq
import torch
from ablation import headline
from scipy.optimize import nnls
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from damlpips import DAMLPIPS
from damlpips.evaluation.datasets import load
from damlpips.evaluation.judgements import Choice, Rating
from damlpips.nets.encoded import Encoded
from damlpips.ops import distance
from damlpips.scoring.images import read_image
from training import pairs

COMMITTEE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "vsi": lambda x, y: -piq.vsi(x, y, reduction="none"),
    "haarpsi": lambda x, y: -piq.haarpsi(x, y, reduction="none"),
    "mdsi": lambda x, y: piq.mdsi(x, y, reduction="none"),
    "gmsd": lambda x, y: piq.gmsd(x, y, reduction="none"),
    "fsim": lambda x, y: -piq.fsim(x, y, reduction="none"),
    "ssim": lambda x, y: -piq.ssim(x, y, reduction="none"),
    "psnr": lambda x, y: -piq.psnr(x, y, reduction="none"),
}
GROUPS = {"all": list(COMMITTEE), "vsi": ["vsi"], "mdsi": ["mdsi"], "haarpsi": ["haarpsi"]}
TARGETS = {"rank": lambda rank: rank, "-log(1 - rank)": lambda rank: -np.log(1.02 - rank)}
# images in one pass through the network
BATCH = 8


def terms(metric: DAMLPIPS, x: Encoded, y: Tensor) -> np.ndarray:
    """Return u(S_l) of each layer, then u(T_l) of each, the image first: (N, 2 (1 + L))."""
    compared = metric.definition.compared(x.expand(len(y)), metric.encode(y))
    found = [c.structure for c in compared] + [c.texture for c in compared]
    return distance.share(torch.stack(found, 1)).numpy()


def own_weights(layers: int) -> np.ndarray:
    """Return DAMLPIPS's own weights of the terms."""
    share = [distance.IMAGE_SHARE] + [(1 - distance.IMAGE_SHARE) / (layers - 1)] * (layers - 1)
    return np.concatenate([np.array(share) * (1 - distance.TEXTURE_SHARE), np.array(share) * distance.TEXTURE_SHARE])


def drawn(metric: DAMLPIPS, photographs: Path, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the terms of the pairs of pictures, and the ranks that the committee's members give them."""
    recipe = pairs.Recipe(pairs.photographs_in(photographs), Path(gettempdir()), seed=1)
    g = torch.Generator().manual_seed(1)
    found, judged = [], []
    for _ in range(items):
        # the last is another picture: such metrics cannot say how different two pictures are
        images = pairs.pictures(recipe, g)[:-1]
        x, y = images[:1].expand(len(images) - 1, -1, -1, -1), images[1:]
        found.append(terms(metric, metric.encode(images[:1]), y))
        judged.append(torch.stack([member(x, y) for member in COMMITTEE.values()], 1).numpy())
    ranks = np.stack([rankdata(column) / len(column) for column in np.concatenate(judged).T], 1)
    return np.concatenate(found), ranks


def batches(files: list[Path]) -> Iterator[list[Path]]:
    """Yield files that go through the network together."""
    for k in range(0, len(files), BATCH):
        yield files[k : k + BATCH]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--backbone", default="alex")
    parser.add_argument("--items", type=int, default=300)
    options = parser.parse_args()
    found, ranks = drawn(DAMLPIPS(options.backbone, version=1, viewing_side=None), options.photographs, options.items)
    layers = found.shape[1] // 2
    weights = {"DAMLPIPS's own": own_weights(layers)}
    for group, members in GROUPS.items():
        rank = ranks[:, [list(COMMITTEE).index(member) for member in members]].mean(1)
        weights |= {f"{group}, {name}": nnls(found, target(rank))[0] for name, target in TARGETS.items()}

    sets = [judged for judged in load(options.sets) if judged.kind_of_judgement in (Rating, Choice)]
    metric, of_pair = DAMLPIPS(options.backbone, version=1), {}
    for reference, group in groupby(
        sorted({pair for judged in sets for judgement in judged.judgements for pair in judgement.pairs}),
        key=lambda pair: pair[0],
    ):
        x = metric.encode(read_image(reference)[None])
        for batch in batches([other for _, other in group]):
            rows = terms(metric, x, torch.stack([read_image(other) for other in batch]))
            of_pair.update({(reference, other): row for other, row in zip(batch, rows, strict=True)})

    print(f"| learned from | {' | '.join(s.name for s in sets)} | mean | committee | image | texture |")
    print(f"|---|{'---|' * (len(sets) + 4)}")
    for name, w in weights.items():
        cells = [headline(judged, {pair: float(row @ w) for pair, row in of_pair.items()}) for judged in sets]
        agreed = float(np.mean([spearmanr(found @ w, column)[0] for column in ranks.T]))
        image, texture = (w[0] + w[layers]) / w.sum(), w[layers:].sum() / w.sum()
        shown = [*cells, math.fsum(cells) / len(cells), agreed, image, texture]
        print(f"| {name} | {' | '.join(f'{v:.3f}' for v in shown)} |", flush=True)


if __name__ == "__main__":
    main()
