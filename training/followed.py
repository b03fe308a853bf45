"""How well networks follow the teachers, on items that they did not learn from.

    DAMLPIPS_WEIGHTS_DIR=WEIGHTS python -m training.followed PHOTOGRAPHS [--weights FILE ...]

Prints a Markdown table: for the weights that the package has for each version of DAMLPIPS, and for those given, the
mean relative error of the distances beside the teachers', and Spearman's correlation with them, of the pairs in place
and of those that have moved and are aligned. The items are those that `training.nano` holds out, made if they are not
there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from damlpips import DAMLPIPS
from damlpips.models.settings import DAMLPIPS_VERSIONS
from training import pairs
from training.nano import HELD_OUT, VISIBLE, load, mixed

BATCH = 8
KINDS = {"in place": slice(pairs.IN_PLACE), "moved": slice(pairs.IN_PLACE, pairs.PAIRS)}


@torch.inference_mode()
def distances(network: nn.Module, images: Tensor) -> Tensor:
    """Return the network's part of the distances of all pairs, (items, PAIRS)."""
    found = [mixed(pairs.network_terms(network(batch.flatten(0, 1).float() / 255))) for batch in images.split(BATCH)]
    return torch.cat(found)


def row(name: str, found: Tensor, wanted: Tensor) -> str:
    """Return a row of the table."""
    cells = []
    for columns in KINDS.values():
        one, other = found[:, columns], wanted[:, columns]
        error = float(((one - other).abs() / (other + VISIBLE)).mean())
        cells += [f"{error:.3f}", f"{spearmanr(one.flatten(), other.flatten()).statistic:.4f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--weights", type=Path, nargs="+", default=[], help="of nano")
    parser.add_argument("--work", type=Path, default=Path("build/nano"), help="where the items are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=pairs.ITEMS)
    parser.add_argument("--teachers", nargs="+", default=list(pairs.TEACHERS))
    options = parser.parse_args(arguments)
    photographs = pairs.photographs_in(options.photographs)
    recipe = pairs.Recipe(photographs, options.work, options.seed, options.items, tuple(options.teachers))
    pairs.make(recipe, HELD_OUT, processes=1)
    data = load(recipe, HELD_OUT)
    networks = {f"nano for version {v}": DAMLPIPS("nano", version=v).backbone for v in DAMLPIPS_VERSIONS}
    networks |= {str(file): DAMLPIPS("nano", weights=file).backbone for file in options.weights}
    print(f"| | {' | '.join(f'{kind}: error | SRCC' for kind in KINDS)} |\n|---|{'---|' * 2 * len(KINDS)}")
    for name, network in networks.items():
        print(row(name, distances(network, data["images"]), mixed(data)), flush=True)


if __name__ == "__main__":
    main()
