"""The benchmark that turns off each part of DAMLPIPS and varies each constant."""

import importlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from damlpips import DAMLPIPS
from damlpips.evaluation.agreement import agree
from damlpips.evaluation.datasets import load
from damlpips.evaluation.judgements import FilePair
from damlpips.evaluation.named import build
from damlpips.scoring.images import read_image
from tests.support.moved import moved, picture

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIDE, MARGIN = 136, 24
MOVED, STILL = ("r.png", "shift.png"), ("r.png", "noise.png")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """Import the benchmark as if it were run: its folder comes first in the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("ablation")
        del sys.modules["ablation"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings, choices and comparisons of two pairs, of a picture that is moved or distorted."""
    folder = tmp_path_factory.mktemp("sets")
    big = picture(SIDE, margin=MARGIN)
    own = big[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    images = {
        "r": own,
        "shift": moved(big, shift=(6, 3), margin=MARGIN),
        "zoom": moved(big, zoom=1.06, margin=MARGIN),
        "noise": own + 0.05 * noise,
        "darker": 0.8 * own,
        "few": (own * 6).round() / 6,
    }
    for name, image in images.items():
        pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{name}.png")
    names = [f"{name}.png" for name in images if name != "r"]
    write(folder / "mos.csv", "set,ref,dist,score", [f"rated,r.png,{n},{k}" for k, n in enumerate(names)])
    write(
        folder / "pairs.csv", "set,ref,a,b,votes_a,votes_b", [f"chosen,r.png,{a},{b},3,1" for a, b in pairwise(names)]
    )
    write(
        folder / "quads.csv",
        "set,p1,p2,q1,q2,votes_p,votes_q",
        [f"compared,r.png,{a},{b},r.png,1,{k + 2}" for k, (a, b) in enumerate(pairwise(names))],
    )
    return folder


def write(file: Path, header: str, rows: Sequence[str]) -> None:
    file.write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture(scope="module")
def kept(script: ModuleType, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which a run keeps its figures."""
    file = tmp_path_factory.mktemp("kept") / "nano.json"
    script.main([str(sets), "--backbone", "nano", "--json", str(file)])
    return file


def test_the_first_row_is_the_metric_itself(script: ModuleType, sets: Path, kept: Path) -> None:
    found = json.loads(kept.read_text())["nano"]["figures"]
    assert set(found) == set(script.variants())
    agreement = agree([build("damlpips-nano")], load(sets), samples=2, headline_only=True)
    expected = {name: result.figures.headline.value for (_, name), result in agreement.results.items()}
    assert expected.keys() == {"rated", "chosen", "compared"}
    assert found["DAMLPIPS"] == pytest.approx({**expected, "mean": np.mean(list(expected.values()))})
    # so is a row in which a constant has its own value
    assert {name for name, change in script.variants().items() if not change} == {
        "DAMLPIPS",
        *(script.row_of(name, script.own_value(name)) for name in script.CONSTANTS),
    }


def distances(script: ModuleType, names: Iterable[str], pairs: Sequence[FilePair]) -> dict[str, list[float]]:
    """Return the distances of pairs under some variants."""
    by_side: dict[int | None, dict[str, dict]] = {}
    for name in names:
        change = script.variants()[name]
        by_side.setdefault(change.get("viewing_side", 256), {})[name] = change
    return {
        name: [of_pair[pair] for pair in pairs]
        for side, changes in by_side.items()
        for _, name, of_pair in script.distances(pairs, side, {"nano": changes})
    }


def test_what_changes_have_in_common_changes_no_score(script: ModuleType, sets: Path) -> None:
    pairs = [tuple(sets / name for name in pair) for pair in (MOVED, STILL)]
    names = [*script.OFF, *(script.row_of(name, values[0]) for name, (_, values) in script.CONSTANTS.items())]
    # no constant stands for the strain's weight: it cannot be changed in the metric
    changes = {name: script.variants()[name] for name in names if "strain" not in script.variants()[name]}
    for name, found in distances(script, changes, pairs).items():
        change = changes[name]
        options = {option: change[option] for option in ("rho", "gamma", "align", "viewing_side") if option in change}
        metric = DAMLPIPS("nano", **options)
        with script.changed(change), torch.no_grad():
            scores = [float(metric(*(read_image(file)[None] for file in pair))) for pair in pairs]
        assert found == pytest.approx(scores, rel=1e-4), name


def test_each_part_changes_what_it_must(script: ModuleType, sets: Path) -> None:
    pairs = [tuple(sets / name for name in pair) for pair in (MOVED, STILL)]
    found = distances(script, ["DAMLPIPS", *script.OFF, "viewing_side = 128"], pairs)
    of_moved, of_still = (
        {n for n, d in found.items() if not math.isclose(d[k], found["DAMLPIPS"][k], rel_tol=1e-6)} for k in range(2)
    )
    everywhere = {
        *("no image layer", "no network", "no texture", "image not masked by contrast", "image without a bound"),
        *("mean, no peaks", "no adaptation to tints", "channels alike", "normalised by the place alone"),
        "viewing_side = 128",
    }
    motion = {
        *("nothing aligned", "nothing added by motion", "no strain in the extent"),
        "no seams: all that is left counts",
    }
    assert of_moved == everywhere | motion  # it counts in full as it is
    assert of_still == everywhere | {"all pairs count as moved"}


def test_what_is_known_is_not_computed_again(
    script: ModuleType, sets: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    computed = []

    def counting(pairs: object, side: object, wanted: dict) -> Iterator[tuple]:
        computed.extend(chain.from_iterable(wanted.values()))
        return iter([(b, name, dict.fromkeys(pairs, 0.5)) for b, changes in wanted.items() for name in changes])

    monkeypatch.setattr(script, "distances", counting)
    before = kept.read_text()
    script.main([str(sets), "--backbone", "nano", "--json", str(kept)])
    first = capsys.readouterr().out
    assert computed == []
    assert kept.read_text() == before
    script.main(["--from-json", str(kept)])
    assert capsys.readouterr().out == first
    assert first.splitlines()[4].startswith("| DAMLPIPS ")
    # an interrupted run goes on; one of another network starts anew
    results = json.loads(before)
    del results["nano"]["figures"]["no network"]
    other = kept.with_name("other.json")
    other.write_text(json.dumps(results))
    script.main([str(sets), "--backbone", "nano", "--json", str(other)])
    assert computed == ["no network"]
    results["nano"]["metric"] = "of other weights"
    other.write_text(json.dumps(results))
    computed.clear()
    script.main([str(sets), "--backbone", "nano", "--json", str(other)])
    assert sorted(computed) == sorted(script.variants())


def test_figures_of_other_sets(
    script: ModuleType, sets: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kept.json"
    file.write_text(kept.read_text().replace("rated", "others"))
    with pytest.raises(SystemExit):
        script.main([str(sets), "--json", str(file)])
    assert f"{file}: has figures of other sets than rated, chosen, compared" in capsys.readouterr().err


def test_plot(script: ModuleType, kept: Path, tmp_path: Path) -> None:
    script.main(["--from-json", str(kept), "--plot", str(tmp_path / "constants.svg")])
    assert "<svg" in (tmp_path / "constants.svg").read_text()
