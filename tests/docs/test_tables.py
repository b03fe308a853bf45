"""Tables of the pages that list backbones are those of the code."""

import re
from pathlib import Path

from damlpips.models.presets import PRESETS
from damlpips.nets import weights
from damlpips.nets.geometry import named_geometry
from damlpips.nets.table import BACKBONES
from tests.support.reference import is_tiled

ROOT = Path(__file__).resolve().parents[2]


def table(page: str, header: str) -> list[list[str]]:
    """Return the cells of the table of a page that begins with this header."""
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = text[text.index(f"\n| {header} |") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_the_readme_lists_the_backbones_and_their_heads() -> None:
    rows = table("README.md", "backbone | for | weights")
    assert [name for backbone, *_ in rows for name in names(backbone)] == list(BACKBONES)
    for backbone, use, source in rows[:-1]:
        for name in names(backbone):
            versions = [version for version, card in weights.cards()["head"].items() if name in card]
            assert re.findall(r"v\d\.\d", use) == versions
            assert ("torchvision" in source) == ("url" in weights.backbone_card(name))


def test_files_of_weights() -> None:
    cards = {name: card for name, card in weights.cards()["backbone"].items() if "url" in card}
    assert table("docs/how-to/offline.md", "backbone | convolutional part | torchvision's file") == [
        [f"`{name}`", f"`{card['features_file']}`", f"`{card['file']}`"] for name, card in cards.items()
    ]


def test_halos_of_tiles() -> None:
    halos = {name: max(axis.halo for axis in named_geometry(name)) for name in BACKBONES if is_tiled(name)}
    assert table("docs/how-to/huge-images.md", "backbone | halo, pixels a side") == [
        [f"`{name}`", str(halos.get(name, "not tiled"))] for name in BACKBONES
    ]


def test_the_page_has_every_preset() -> None:
    rows = table("docs/how-to/reproduce.md", "preset | network | images in | taken for | where its code shows it")

    def shown(bounds: tuple[float, float] | None) -> str:
        return "the same" if bounds is None else "[{:g}, {:g}]".format(*bounds)

    assert [row[:4] for row in rows] == [
        [f"`{name}`", preset.backbone, shown(preset.value_range), shown(preset.fed_as)]
        for name, preset in PRESETS.items()
    ]
    assert all(row[4] for row in rows)
