"""Metrics that the command line takes by one text: a line to cite, or the name of a preset."""

import json
from pathlib import Path

import pytest

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric
from damlpips.cli.model import FILES
from damlpips.models.registry import Metric
from damlpips.report.page.reading import RunSettings
from damlpips.report.page.rebuilding import rebuild
from damlpips.scoring import read_image
from tests.support.commands import csv_rows, refused, run
from tests.support.pictures import image_file


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return image_file(tmp_path / "a.png", seed=1), image_file(tmp_path / "b.png", seed=2)


def score(reference: Path, distorted: Path, *options: object) -> dict[str, str]:
    out = reference.parent / "scores.csv"
    result = run("score", reference, distorted, *options, "--csv", out, "--overwrite")
    assert result.exit_code == 0, result.output
    (row,) = csv_rows(out)
    return row


MODULES = [
    DAMLPIPS("nano", rho=0.5, viewing_side=None),
    LPIPS("nano", heads="uniform", comparison="spatial+sort", resize=(24, 40)),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_a_line_to_cite_is_the_metric(pair: tuple[Path, Path], module: DAMLPIPS | LPIPS) -> None:
    row = score(*pair, "--as", module.describe())
    x, y = (read_image(file)[None] for file in reversed(pair))
    assert float(row["score"]) == pytest.approx(float(module(x, y)), rel=1e-6)  # float32 as text
    assert (row["metric"], row["backbone"]) == (module.settings.metric.lower(), "nano")


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_its_rows_say_every_option_that_a_score_depends_on(pair: tuple[Path, Path], module: DAMLPIPS | LPIPS) -> None:
    row = score(*pair, "--as", module.describe())
    said = {part.partition("=")[0] for part in row["options"].split(" ")}
    assert {name for name in module.settings.scored() if name in module.settings.changed()} <= said
    rebuilt = rebuild(RunSettings(row["metric"], row["backbone"], row["weights"], row["options"])).model
    assert rebuilt is not None
    assert rebuilt.settings == module.settings
    assert rebuilt.describe() == module.describe()


def test_a_line_of_a_metric_gives_its_scores(pair: tuple[Path, Path]) -> None:
    metric = DAMLPIPSMetric(rho=0.5, viewing_side=None, reduction="sum", on_error="skip", video=True)
    assert score(*pair, "--as", metric.describe()) == score(*pair, "--as", MODULES[0].describe())


def test_it_has_its_own_name_beside_other_metrics(pair: tuple[Path, Path]) -> None:
    for module in MODULES:
        said = json.loads(score(*pair, "--metric", "psnr", "--as", module.describe())["metrics"])
        assert [(each["name"], each["description"]) for each in said[:1]] == [
            (module.settings.metric.lower(), module.describe())
        ]


def test_files_go_beside_it(pair: tuple[Path, Path], random_nano_weights: Path) -> None:
    assert set(FILES) <= set(Metric.LPIPS.settings.commands())
    text = DAMLPIPS("nano", weights=random_nano_weights).describe()
    assert score(*pair, "--as", text, "--weights", random_nano_weights)["weights"].startswith("nano:")
    refused("--as: nano: its weights here have the SHA-256 b04ce75a", "score", *pair, "--as", text)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("--as: expected a line that describe.. gives, such as 'DAMLPIPS", ["--as", "LPIPS"]),
        ("--as: says all that --backbone says", ["--as", MODULES[0].describe(), "--backbone", "alex"]),
        ("--as: says all that --tile says", ["--as", MODULES[0].describe(), "--tile", "1024"]),
        ("--metric lpips: --as says DAMLPIPS", ["--as", MODULES[0].describe(), "--metric", "lpips"]),
        ("--as: --heads: DAMLPIPS has none", ["--as", MODULES[0].describe(), "--heads", "x.pth"]),
        (
            "--as: this version of damlpips has no option 'sight'",
            ["--as", "DAMLPIPS v2 (nano, weights b04ce75a; [0, 1]; sight 3; damlpips 1)"],
        ),
    ],
)
def test_what_does_not_go_is_refused(pair: tuple[Path, Path], message: str, options: list[str]) -> None:
    refused(message, "score", *pair, *options)


@pytest.mark.parametrize("name", ["torchmetrics", "nerfstudio-2022"])
def test_a_preset_is_the_lpips_of_its_code(pair: tuple[Path, Path], random_alex_weights: Path, name: str) -> None:
    """Files have no range of their own: they are handed over in the preset's, and taken for what it says."""
    row = score(*pair, "--preset", name, "--weights", random_alex_weights)
    module = LPIPS.preset(name, weights=random_alex_weights)
    low, high = module.value_range
    x, y = (low + (high - low) * read_image(file)[None] / 255 for file in reversed(pair))
    assert float(row["score"]) == pytest.approx(float(module(x, y)), rel=1e-5)  # the images were bytes
    assert (row["metric"], row["backbone"]) == ("lpips", "alex")
    rebuilt = rebuild(
        RunSettings(*(row[k] for k in ("metric", "backbone", "weights", "options"))), weights=[random_alex_weights]
    ).model
    assert rebuilt is not None
    assert rebuilt.settings == module.settings


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("--preset 4dgs: unknown preset '4dgs': expected one of 'lpips', ", ["--preset", "4dgs"]),
        ("--preset 3dgs: says all that --heads says", ["--preset", "3dgs", "--heads", "v0.0"]),
        ("--preset 3dgs: is LPIPS on a network of its own", ["--preset", "3dgs", "--backbone", "alex"]),
        ("--preset 3dgs: is LPIPS: leave out --metric damlpips", ["--preset", "3dgs", "--metric", "damlpips"]),
        ("--preset: stands for the one", ["--preset", "3dgs", "--metric", "lpips", "--metric", "lpips-alex"]),
        ("--as: says all that --preset says", ["--preset", "3dgs", "--as", MODULES[0].describe()]),
    ],
)
def test_presets_that_do_not_go_are_refused(pair: tuple[Path, Path], message: str, options: list[str]) -> None:
    refused(message, "score", *pair, *options)


def test_another_version_is_remarked(pair: tuple[Path, Path]) -> None:
    text = MODULES[0].describe().rpartition(" ")[0] + " 0.0.9)"
    result = run("score", *pair, "--as", text)
    assert result.exit_code == 0
    assert "damlpips: --as: the line to cite is of damlpips 0.0.9" in result.stderr
