"""Choices between two distorted images, with votes that a known metric would give."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from damlpips import LPIPS
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating
from damlpips.nets.table import BACKBONES
from damlpips.scoring.images import read_image
from tests.support.pictures import pixels

SIZE = 24
# from the distances of both to the share of votes for the second
Share = Callable[[np.ndarray], np.ndarray]


def distorted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of five distortions, of a random strength."""
    kind, strength = rng.integers(5), rng.uniform(0.3, 1)
    x = image.astype(float)
    if kind == 0:
        x = x + rng.normal(0, 40 * strength, x.shape)
    elif kind == 1:
        x = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2 * strength)), float)
    elif kind == 2:
        x = x.mean() + (x - x.mean()) * (1 - 0.7 * strength)
    elif kind == 3:
        x = x + strength * rng.normal(0, 50, 3)
    else:
        x = np.roll(x, round(3 * strength), axis=rng.integers(2))
    return np.clip(x, 0, 255).astype(np.uint8)


def known_heads(seed: int = 0) -> list[torch.Tensor]:
    """Random heads for nano: few channels count for much."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(c, generator=generator).log().neg().pow(4) for c in BACKBONES["nano"].channels]


def known_metric(folder: Path) -> LPIPS:
    """LPIPS with the known heads, from a file."""
    path = folder / "known.safetensors"
    save_file({f"lin{k}.model.1.weight": w.reshape(1, -1, 1, 1) for k, w in enumerate(known_heads())}, path)
    return LPIPS("nano", heads=str(path))


def voted_set(
    folder: Path, contents: int, images: int, share: Share, votes: int, *, seed: int = 0, size: int = SIZE
) -> JudgedSet:
    """Write images, and return a choice between any two of a content, votes drawn at the shares of the known heads."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    metric, heads = LPIPS("nano", heads="uniform"), known_heads()
    found = []
    for c in range(contents):
        image = pixels(1000 * seed + c, size, size)
        arrays = [image, *(distorted(image, rng) for _ in range(images))]
        paths = [folder / f"{c}_{k}.png" for k in range(images + 1)]
        for path, array in zip(paths, arrays, strict=True):
            Image.fromarray(array).save(path)
        with torch.no_grad():
            maps = metric.encode(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)).features
        d = sum(difference(m, m[:1], w) for m, w in zip(maps, heads, strict=True)).double().numpy()
        for one, other in combinations(range(1, images + 1), 2):
            chose = float(rng.binomial(votes, share(np.array([[d[one], d[other]]])).item()))
            pairs = [(paths[0], paths[k]) for k in (one, other)]
            found.append(Choice(*pairs, votes - chose, chose, content=str(c)))
    return JudgedSet("voted", tuple(found))


def rated_set(folder: Path, contents: int, images: int, *, seed: int = 0) -> JudgedSet:
    """Write images, and return ratings of them: the negative logarithms of the distances of the known heads."""
    of = voted_set(folder, contents, images, lambda d: np.full(len(d), 0.5), 1, seed=seed)
    pairs = dict.fromkeys(pair for choice in of.judgements for pair in choice.pairs)
    metric = known_metric(folder)
    with torch.no_grad():
        scores = [-float(metric(*(read_image(path)[None] for path in pair)).log()) for pair in pairs]
    ratings = [Rating(*pair, score, pair[0].stem) for pair, score in zip(pairs, scores, strict=True)]
    return JudgedSet("rated", tuple(ratings))


def difference(a: torch.Tensor, b: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """LPIPS of a layer, by its equation."""
    a, b = (v / (v.norm(dim=1, keepdim=True) + 1e-10) for v in (a, b))
    return ((a - b) ** 2).mean((2, 3)) @ w


def cast_set(folder: Path, contents: int, images: int, *, votes: int = 10, seed: int = 0) -> JudgedSet:
    """Write images with noise and a colour cast, and return choices whose votes follow the cast alone.

    Networks for recognition see noise first: they agree with such votes little more than by chance.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for c in range(contents):
        image = pixels(1000 * seed + c, SIZE, SIZE).astype(float)
        paths, casts = [folder / f"{c}.png"], [0.0]
        Image.fromarray(image.astype(np.uint8)).save(paths[0])
        for k in range(images):
            noise = rng.normal(0, 60 * rng.uniform(0, 1), image.shape)
            x = np.clip(image + rng.normal(0, 30 * rng.uniform(0.1, 1), 3) + noise, 0, 255).astype(np.uint8)
            paths.append(folder / f"{c}_{k}.png")
            Image.fromarray(x).save(paths[-1])
            casts.append(np.abs(x.mean((0, 1)) - image.mean((0, 1))).sum() + 1e-3)
        for one, other in combinations(range(1, images + 1), 2):
            share = casts[one] ** 3 / (casts[one] ** 3 + casts[other] ** 3)
            chose = float(rng.binomial(votes, share))
            pairs = [(paths[0], paths[k]) for k in (one, other)]
            found.append(Choice(*pairs, votes - chose, chose, content=str(c)))
    return JudgedSet("cast", tuple(found))
