"""Make the pairs that `nano` learns from: images, distortions of them, and how far apart the teachers find them.

A shard is a file of items; an item is `IMAGES` images and what is said of `PAIRS` pairs of them. Everything in a shard
is drawn from the seed and the shard's number: shards can be made in any order, by any number of processes, and again.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from damlpips import DAMLPIPS
from damlpips.models import alignment
from damlpips.models.settings import VIEWING_SIDE
from damlpips.models.version2 import GAIN
from damlpips.ops import distance
from damlpips.scoring.images import SUFFIXES, read_image
from training.distortions import MOTIONS, distort, draw_kinds, in_8_bits
from training.procedural import PROCEDURAL

TEACHERS = ("alex", "squeeze")
# DAMLPIPS's own
RHO, GAMMA = 0.25, 0.5
SIDE = 160
# maps are compared on a grid of cells of 16 x 16 pixels
GRID = SIDE // 16
# Pairs in place: two ladders of three rungs, one double distortion, one pair that is not of the same picture; then a
# ladder of a motion, each rung as DAMLPIPS compares it: both images in the middle of the way.
LADDERS, RUNGS = 2, 3
IN_PLACE = LADDERS * RUNGS + 2
PAIRS = IN_PLACE + RUNGS
# Where the pairs' first and second images are: all in place have the reference, each in the middle its own two.
FIRST = [0] * IN_PLACE + [1 + IN_PLACE + 2 * rung for rung in range(RUNGS)]
SECOND = [*range(1, 1 + IN_PLACE), *(2 + IN_PLACE + 2 * rung for rung in range(RUNGS))]
IMAGES = 1 + IN_PLACE + 2 * RUNGS
# The pairs of each ladder, weak to strong.
RUNGS_OF = [list(range(k * RUNGS, (k + 1) * RUNGS)) for k in range(LADDERS)] + [list(range(IN_PLACE, PAIRS))]
ITEMS = 200
PROCEDURAL_SHARE = 0.15


@dataclass(frozen=True)
class Recipe:
    """What a shard depends on besides its number."""

    photographs: tuple[Path, ...]
    folder: Path
    seed: int
    items: int = ITEMS
    teachers: tuple[str, ...] = TEACHERS

    def file(self, shard: int) -> Path:
        """Return the file of a shard; its name depends on the recipe."""
        names = "\n".join(photograph.name for photograph in self.photographs)
        described = repr((self.seed, self.items, self.teachers, names))
        return self.folder / f"pairs_{hashlib.sha256(described.encode()).hexdigest()[:8]}_{shard:04d}.pt"


def photographs_in(folder: Path) -> tuple[Path, ...]:
    """Return the image files of a folder, in the order of their names."""
    found = tuple(sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES))
    if not found:
        raise SystemExit(f"{folder}: no images: give the folder of the photographs to learn from")
    return found


def make(recipe: Recipe, shards: Sequence[int], *, processes: int) -> None:
    """Make the shards that are not there yet."""
    missing = [shard for shard in shards if not recipe.file(shard).exists()]
    recipe.folder.mkdir(parents=True, exist_ok=True)
    # not forked: a child would wait for threads that it does not have
    with multiprocessing.get_context("spawn").Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        done = pool.imap_unordered(_make_one, [(recipe, shard) for shard in missing])
        for _ in track(done, description="pairs", total=len(missing), console=Console(stderr=True)):
            pass


def _make_one(task: tuple[Recipe, int]) -> None:
    recipe, shard = task
    teachers = [DAMLPIPS(name, viewing_side=None, check_values=False) for name in recipe.teachers]
    g = torch.Generator().manual_seed(recipe.seed * 1_000_003 + shard)
    items = [_item(recipe, teachers, g) for _ in range(recipe.items)]
    made = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    partial = recipe.file(shard).with_suffix(f".{os.getpid()}.partial")
    torch.save(made, partial)
    partial.rename(recipe.file(shard))


def _item(recipe: Recipe, teachers: list[DAMLPIPS], g: torch.Generator) -> dict[str, Tensor]:
    images = pictures(recipe, g)
    return {"images": (images * 255).round().byte(), **targets(teachers, images)}


def pictures(recipe: Recipe, g: torch.Generator) -> Tensor:
    """Return the pictures of an item, (IMAGES, 3, SIDE, SIDE) in [0, 1], those of `FIRST` and `SECOND`."""
    reference = _picture(recipe, g)
    others = [*_ladders(reference, g), _twice_distorted(reference, g), _another(reference, recipe, g)]
    return torch.stack([reference, *others, *_moved(reference, g)])


@torch.inference_mode()
def targets(teachers: Sequence[DAMLPIPS], images: Tensor) -> dict[str, Tensor]:
    """Return what the teachers' networks say of the pairs of an item, the mean of the teachers."""
    found = [network_terms(teacher.backbone(images)) for teacher in teachers]
    return {key: torch.stack([terms[key][0] for terms in found]).mean(0).clone() for key in found[0]}


def network_terms(features: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the network's part of DAMLPIPS for the pairs of each item, before it is weighed.

    Args:
        features: one (items * IMAGES, C, H, W) a layer.

    Returns:
        structure, texture: (items, PAIRS), the mean over layers of u(S_l), and of u(T_l);
        places: (items, PAIRS, GRID, GRID), the mean over layers of u(d_lp), d averaged over cells.
    """
    structure, texture, places = [], [], []
    for layer in features:
        layer = distance.working(layer)
        of_all = distance.statistics(layer)
        a, b = (_of_pairs(layer, side) for side in (FIRST, SECOND))
        of_a, of_b = (distance.Statistics(*(_of_pairs(m, side) for m in of_all)) for side in (FIRST, SECOND))
        place, channel = distance.Adaptive(RHO, GAMMA).weights(of_a, of_b)
        d = distance.adaptive_map(a, b, place, channel)
        structure.append(distance.share(distance.peak_pool(d), GAIN))
        texture.append(distance.share(distance.texture_distance(of_a, of_b, place, channel), GAIN))
        places.append(distance.share(_on_grid(d)[:, 0], GAIN))
    found = {"structure": structure, "texture": texture, "places": places}
    return {key: torch.stack(layers).mean(0).unflatten(0, (-1, PAIRS)) for key, layers in found.items()}


def _of_pairs(images: Tensor, side: Sequence[int]) -> Tensor:
    """Return what belongs to one side of the pairs of each item: (items * IMAGES, ...) -> (items * PAIRS, ...)."""
    return images.unflatten(0, (-1, IMAGES))[:, side].flatten(0, 1)


def _on_grid(d: Tensor) -> Tensor:
    if min(d.shape[2:]) >= GRID:
        return F.adaptive_avg_pool2d(d, GRID)
    return F.interpolate(d, (GRID, GRID), mode="bilinear", align_corners=False)


def _picture(recipe: Recipe, g: torch.Generator) -> Tensor:
    if float(torch.rand((), generator=g)) < PROCEDURAL_SHARE:
        return PROCEDURAL[_below(len(PROCEDURAL), g)](SIDE, g)
    return _cut(recipe.photographs[_below(len(recipe.photographs), g)], g)


def _cut(file: Path, g: torch.Generator) -> Tensor:
    """Return a square crop of a photograph whose shorter side is scaled to between `SIDE` and what DAMLPIPS views."""
    image = read_image(file).float() / 255
    shorter = SIDE + float(torch.rand((), generator=g)) * (VIEWING_SIDE - SIDE)
    scale = shorter / min(image.shape[1:])
    size = [max(SIDE, round(length * scale)) for length in image.shape[1:]]
    image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    top, left = (_below(length - SIDE + 1, g) for length in size)
    cut = image[:, top : top + SIDE, left : left + SIDE]
    return in_8_bits(cut.flip(2) if _below(2, g) else cut)


def _ladders(reference: Tensor, g: torch.Generator) -> list[Tensor]:
    """Return the rungs of the ladders, of each ladder from weak to strong."""
    rungs = []
    for kind in draw_kinds(LADDERS, g):
        seed = _below(2**31, g)
        # more weak ones: metrics are mostly asked about differences near the threshold
        strengths = sorted((torch.rand(RUNGS, generator=g) ** 1.3).tolist())
        rungs += [distort(kind, reference, strength, seed) for strength in strengths]
    return rungs


def _moved(reference: Tensor, g: torch.Generator) -> list[Tensor]:
    """Return both images of each rung of a motion in the middle of the way; half of the ladders are distorted, too."""
    [motion], [kind] = draw_kinds(1, g, MOTIONS), draw_kinds(1, g)
    seeds = _below(2**31, g), _below(2**31, g)
    distorted, distortion = _below(2, g) == 1, 0.7 * float(torch.rand((), generator=g))
    found = []
    for strength in sorted(torch.rand(RUNGS, generator=g).tolist()):
        other = distort(motion, reference, strength, seeds[0])
        if distorted:
            other = distort(kind, other, distortion, seeds[1])
        middle = alignment.middle(reference[None], other[None])
        both = (reference, other) if middle is None else (middle.x[0], middle.y[0])
        found += [in_8_bits(image) for image in both]
    return found


def _twice_distorted(reference: Tensor, g: torch.Generator) -> Tensor:
    image = reference
    for kind in draw_kinds(2, g):
        image = distort(kind, image, 0.8 * float(torch.rand((), generator=g)), _below(2**31, g))
    return image


def _another(reference: Tensor, recipe: Recipe, g: torch.Generator) -> Tensor:
    """Return another picture, the same mirrored or turned, or a mixture of both pictures."""
    choice = _below(4, g)
    if choice == 0:
        return reference.flip(1 + _below(2, g))
    if choice == 1:
        return reference.rot90(1 + _below(3, g), (1, 2))
    other = _picture(recipe, g)
    return other if choice == 2 else torch.lerp(reference, other, float(torch.rand((), generator=g)) ** 2)


def _below(bound: int, g: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=g))
