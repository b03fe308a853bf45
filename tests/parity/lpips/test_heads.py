"""The heads in `weights/` are those of the `lpips` package, and every file there has its card."""

from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import load_file

from damlpips.nets import weights


def original(version: str, name: str) -> dict[str, torch.Tensor]:
    """Return the heads of the installed `lpips`, whose files were written on a GPU."""
    file = Path(lpips.__file__).parent / "weights" / version / f"{name}.pth"
    return torch.load(file, weights_only=True, map_location="cpu")


CARDS = {(version, name): card for version, nets in weights.cards()["head"].items() for name, card in nets.items()}
NOTICE = Path(__file__).resolve().parents[3] / "NOTICE"


@pytest.mark.parametrize(("version", "name"), CARDS)
def test_equal_to_the_original(version, name) -> None:
    theirs = original(version, name)
    heads = load_file(weights.weights_dir() / CARDS[version, name]["file"])
    assert heads.keys() == theirs.keys()
    for key, head in heads.items():
        assert head.dtype == theirs[key].dtype
        # as integers: bit for bit
        assert torch.equal(head.view(torch.int32), theirs[key].view(torch.int32))


@pytest.mark.parametrize(("version", "name"), CARDS)
def test_loaded_in_order(version, name) -> None:
    theirs = original(version, name)
    channels = tuple(theirs[f"lin{k}.model.1.weight"].shape[1] for k in range(len(theirs)))
    heads = weights.load_heads(version, name, channels)
    assert len(heads) == len(theirs)
    for k, head in enumerate(heads):
        assert torch.equal(head, theirs[f"lin{k}.model.1.weight"].flatten())


def test_every_version_and_backbone_is_there() -> None:
    assert set(CARDS) == {(v, n) for v in ("v0.0", "v0.1") for n in ("alex", "vgg", "squeeze")}
    assert weights.head_names()[0] == "v0.1"  # the newest first


def test_every_file_has_a_card_with_source_and_licence() -> None:
    """Whatever table a card stands in: a file of weights without one has no business in the repository."""

    def cards_in(table: dict) -> list[dict]:
        if "file" in table:
            return [table]
        return [card for value in table.values() if isinstance(value, dict) for card in cards_in(value)]

    cards = {card["file"]: card for card in cards_in(weights.cards())}
    files = sorted(path.name for path in weights.weights_dir().glob("*.safetensors"))
    assert files
    for file in files:
        assert len(cards[file]["sha256"]) == 64, file
        assert cards[file]["licence"], file
        assert cards[file]["source"], file
    assert {path.suffix for path in weights.weights_dir().iterdir()} - {".md"} == {".safetensors", ".toml"}


def test_notice_has_the_licence_of_the_heads() -> None:
    notice = NOTICE.read_text(encoding="utf-8")
    assert all("BSD-2-Clause" in card["licence"] for card in CARDS.values())
    for part in (
        "BSD-2-Clause",
        "lpips_v0.0_*.safetensors",
        "lpips_v0.1_*.safetensors",
        "Copyright (c) 2018, Richard Zhang, Phillip Isola, Alexei A. Efros, Eli Shechtman, Oliver Wang",
        "Redistributions of source code must retain",
        'THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"',
    ):
        assert part in notice
