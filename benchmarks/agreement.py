"""Agreement with human judgements: a Markdown table with 95 % intervals.

    python benchmarks/agreement.py FOLDER [--shorter-side 256]

FOLDER holds `human/{mos,pairs}.csv` with their images and `weights/*_features.safetensors`. Spearman's correlation over
each set of mean opinion scores, the 2AFC score (share of votes for the metric's choice, ties one half) over pairs;
intervals from 1,000 bootstrap samples of the contents.
"""

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from damlpips import DAMLPIPS, LPIPS
from damlpips.images import read_image

SAMPLES = 1000

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "LPIPS alex": lambda: LPIPS("alex"),
    "DAMLPIPS alex": lambda: DAMLPIPS("alex"),
    "LPIPS squeeze": lambda: LPIPS("squeeze"),
    "DAMLPIPS squeeze": lambda: DAMLPIPS("squeeze"),
    "DAMLPIPS gabor": lambda: DAMLPIPS("gabor"),
}


class Images:
    """Images by path, scaled down to a shorter side."""

    def __init__(self, folder: Path, shorter: int | None) -> None:
        self.folder, self.shorter = folder, shorter

    def __getitem__(self, path: str) -> torch.Tensor:
        x = read_image(self.folder / path)[None].float() / 255
        if self.shorter is not None and min(x.shape[2:]) > self.shorter:
            factor = self.shorter / min(x.shape[2:])
            size = [round(side * factor) for side in x.shape[2:]]
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        return x


def rows(file: Path) -> dict[str, list[dict[str, str]]]:
    sets = defaultdict(list)
    for row in csv.DictReader(file.open(newline="", encoding="utf-8")):
        sets[row["set"]].append(row)
    return sets


def srcc(table: np.ndarray) -> float:
    return -spearmanr(table[:, 0], table[:, 1]).statistic


def two_afc(table: np.ndarray) -> float:
    return table[:, 0].mean()


def interval(contents: dict[str, np.ndarray], figure: Callable[[np.ndarray], float]) -> str:
    """Return the figure with the interval of its values over bootstrap samples of the contents."""
    generator = np.random.default_rng(0)
    tables = list(contents.values())
    drawn = [
        figure(np.concatenate([tables[k] for k in generator.integers(len(tables), size=len(tables))]))
        for _ in range(SAMPLES)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{figure(np.concatenate(tables)):.3f} ({low:.2f} to {high:.2f})"


def by_content(keys: list[str], values: list[tuple[float, ...]]) -> dict[str, np.ndarray]:
    groups = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        groups[key].append(value)
    return {key: np.array(group) for key, group in groups.items()}


@torch.inference_mode()
def figures(model: torch.nn.Module, folder: Path, images: Images) -> list[str]:
    cells = []
    for table in rows(folder / "mos.csv").values():
        values = [(float(model(images[r["dist"]], images[r["ref"]])), float(r["score"])) for r in table]
        cells.append(interval(by_content([r["ref"] for r in table], values), srcc))
    for table in rows(folder / "pairs.csv").values():
        distances: dict[tuple[str, str], float] = {}
        agreed = []
        for r in table:
            for side in "ab":
                key = (r["ref"], r[side])
                if key not in distances:
                    distances[key] = float(model(images[r[side]], images[r["ref"]]))
            a, b = distances[r["ref"], r["a"]], distances[r["ref"], r["b"]]
            votes_a, votes_b = float(r["votes_a"]), float(r["votes_b"])
            for_choice = votes_a if a < b else votes_b if b < a else (votes_a + votes_b) / 2
            agreed.append((for_choice / (votes_a + votes_b),))
        cells.append(interval(by_content([r["ref"] for r in table], agreed), two_afc))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shorter-side", type=int)
    options = parser.parse_args()
    os.environ["DAMLPIPS_WEIGHTS_DIR"] = str(options.folder / "weights")
    human = options.folder / "human"
    names = [*rows(human / "mos.csv"), *(f"{name} (2AFC)" for name in rows(human / "pairs.csv"))]
    print(f"| metric | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name, build in MODELS.items():
        print(f"| {name} | {' | '.join(figures(build(), human, Images(human, options.shorter_side)))} |", flush=True)


if __name__ == "__main__":
    main()
