"""`damlpips score` and what files state: colours, orientation, sizes and remarks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from damlpips.cli.model import MOST_REMARKS
from tests.support.commands import refused, run
from tests.support.pictures import pixels
from tests.support.profiles import DISPLAY_P3, iccp, png, rgb_profile

P3 = iccp(rgb_profile(DISPLAY_P3))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of one picture: as it is, and with a profile that says that its colours are others."""
    for side, chunks in (("r", []), ("d", [P3])):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.png").write_bytes(png(pixels(1), *chunks))
    return tmp_path / "r", tmp_path / "d"


def test_colours_are_converted_or_ignored_and_rows_say_which(folders: tuple[Path, Path], tmp_path: Path) -> None:
    rows = {how: tmp_path / f"{how}.csv" for how in ("convert", "ignore")}
    for how, file in rows.items():
        assert run("score", *folders, "--colour", how, "-o", file, "-q").exit_code == 0
        assert f"alpha=error colour={how} orientation=apply" in file.read_text()
    scores = {how: float(file.read_text().splitlines()[1].split(",")[2]) for how, file in rows.items()}
    assert scores["ignore"] == pytest.approx(0, abs=1e-6)
    assert scores["convert"] > 0.02


@pytest.mark.parametrize("option", ["--colour", "--orientation"])
def test_a_run_does_not_go_on_with_rows_of_another_rule(
    folders: tuple[Path, Path], tmp_path: Path, option: str
) -> None:
    file = tmp_path / "rows.csv"
    assert run("score", *folders, "-o", file, "-q").exit_code == 0
    name = option.removeprefix("--")
    refused(f"was scored with {name}=.*, this run has {name}=ignore", "score", *folders, option, "ignore", "-o", file)


def test_an_orientation_of_one_side_is_remarked(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(1)).save(tmp_path / "r.png", exif=exif)
    Image.fromarray(pixels(1)).save(tmp_path / "d.png")
    pair = tmp_path / "r.png", tmp_path / "d.png"
    refused("one size.*r.png is rotated by its Exif orientation 6 and .*: use --orientation ignore", "score", *pair)
    resized = run("score", *pair, "--resize", "reference")
    assert resized.exit_code == 0
    assert "damlpips: " in resized.stderr
    assert "r.png is rotated by its Exif orientation 6" in resized.stderr
    ignored = run("score", *pair, "--orientation", "ignore")
    assert (ignored.exit_code, ignored.stderr) == (0, "")


def test_many_remarks_are_counted(tmp_path: Path) -> None:
    for side in "rd":
        (tmp_path / side).mkdir()
        for k in range(MOST_REMARKS):
            (tmp_path / side / f"{k}.png").write_bytes(png(pixels(k), (b"gAMA", bytes(4))))
    result = run("score", tmp_path / "r", tmp_path / "d", "--workers", 2)
    assert result.stderr.count("its gamma is 0.0: its colours are taken as sRGB") == MOST_REMARKS
    assert f"{MOST_REMARKS} more remarks like these" in result.stderr


def test_a_large_image_is_read_when_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
    for name in "rd":
        Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / f"{name}.png")
    pair = tmp_path / "r.png", tmp_path / "d.png"
    refused("refused, too many pixels .*: use --max-pixels N to read images of up to N pixels", "score", *pair)
    assert run("score", *pair, "--max-pixels", 10_000, "--tile", 64, "-q").exit_code == 0


@pytest.mark.parametrize("option", ["--colour", "--orientation"])
def test_other_values_are_refused(folders: tuple[Path, Path], option: str) -> None:
    refused(f"Invalid value for .{option}", "score", *folders, option, "x")
