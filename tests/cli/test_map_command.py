"""`damlpips map`: the picture that it writes, and what it refuses."""

import os
import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from damlpips import DAMLPIPS, LPIPS
from damlpips.report import figure
from damlpips.scoring.images import read_image
from tests.support import commands
from tests.support.commands import refused_output
from tests.support.pictures import image_file


def run(*arguments: object) -> Result:
    return commands.run("map", *arguments)


def refused(message: str, out: Path, *arguments: object) -> None:
    refused_output(message, out, "map", *arguments)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return image_file(tmp_path / "r.png", 1), image_file(tmp_path / "d.png", 2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return the path of an output from before."""
    path = tmp_path / "map.png"
    path.write_text("old")
    return path


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list:
    """Return a list of the figures that are drawn from here on."""
    drawn = []

    def keep(*arguments: object, **options: object) -> object:
        drawn.append(draw(*arguments, **options))
        return drawn[-1]

    draw = figure.draw
    monkeypatch.setattr(figure, "draw", keep)
    return drawn


class TestPicture:
    def test_it_is_the_figure_of_plot_map(self, pair: tuple[Path, Path], out: Path, figures: list) -> None:
        result = run(*pair, "-o", out, "--dpi", 40)
        assert result.exit_code == 0, result.stderr
        reference, distorted = map(read_image, pair)
        model = DAMLPIPS()
        expected = figure.plot_map(model, distorted, reference, distorted_name="d.png", reference_name="r.png")
        assert out.read_bytes() == figure.render(expected, dpi=40)
        with torch.no_grad():
            score = float(model(distorted[None], reference[None]))
        assert result.stdout == f"DAMLPIPS (nano) {score:.6g}, lower is closer: {out}\n"
        assert figures[0].axes[0].get_title() == "reference: r.png"

    def test_pixels_and_quiet(self, pair: tuple[Path, Path], out: Path, figures: list) -> None:
        result = run(*pair, "-o", out, "--dpi", 60, "--quiet")
        assert (result.exit_code, result.output) == (0, "")
        with Image.open(out) as image:
            assert image.size == tuple(int(60 * side) for side in figures[0].get_size_inches())

    def test_formats(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        for name, start in (("a.svg", b"<?xml"), ("a.PDF", b"%PDF")):
            assert run(*pair, "-o", tmp_path / name, "--dpi", 30).exit_code == 0
            assert (tmp_path / name).read_bytes().startswith(start)
        assert sorted(os.listdir(tmp_path)) == ["a.PDF", "a.svg", "d.png", "r.png"]

    def test_options_of_the_metric(self, tmp_path: Path, figures: list, random_nano_weights: Path) -> None:
        reference, distorted = image_file(tmp_path / "r.png", 1, (50, 120)), image_file(tmp_path / "d.png", 2, (50, 90))
        options = ("--metric", "lpips", "--backbone", "nano", "--heads", "uniform", "--weights", random_nano_weights)
        more = ("--resize", "reference", "--tile", 48, "--limit", 0.5, "--device", "cpu")
        result = run(reference, distorted, *options, *more, "-o", tmp_path / "m.png", "--dpi", 30)
        assert result.exit_code == 0, result.stderr
        model = LPIPS("nano", heads="uniform", weights=random_nano_weights, resize="reference")
        with torch.no_grad():
            expected = model.spatial_map(read_image(distorted)[None], read_image(reference)[None])[0, 0].numpy()
        heat = figures[0].axes[2].images[1]
        np.testing.assert_allclose(heat.get_array(), expected, rtol=1e-4, atol=1e-6)
        assert heat.norm.vmax == 0.5

    def test_a_second_picture_of_the_displacement(self, pair: tuple[Path, Path], out: Path, tmp_path: Path) -> None:
        result = run(*pair, "-o", out, "--version", 2, "--displacement", tmp_path / "arrows.svg")
        assert result.exit_code == 0, result.stderr
        assert "displacement from reference to distorted" in (tmp_path / "arrows.svg").read_text()

    def test_odd_names(self, pair: tuple[Path, Path], out: Path, figures: list) -> None:
        odd = pair[1].rename(pair[1].with_name("$\\frac a\x1b[31m\U0001f600.png"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a letter that the font has not is no news for a user
            result = run(pair[0], odd, "-o", out, "--dpi", 30)
        assert (result.exit_code, result.stderr) == (0, ""), result.exception
        assert figures[0].axes[1].get_title() == "distorted: $\\frac a\\x1b[31m\U0001f600.png"

    def test_a_link_is_written_through(self, pair: tuple[Path, Path], out: Path) -> None:
        link = out.with_name("link.png")
        link.symlink_to(out)
        assert run(*pair, "-o", link, "--dpi", 30).exit_code == 0
        assert link.is_symlink()
        assert Image.open(out).format == "PNG"


class TestRefusals:
    def test_outputs_are_checked_before_an_image_is_read(self, pair: tuple[Path, Path], out: Path) -> None:
        gone = pair[0].with_name("gone.png")
        for name in ("map.jpg", "map", "-"):
            message = rf"--out .*{name}: expected a name that ends in one of \.png, \.svg, \.pdf, got '"
            refused(message, out.with_name(name), gone, gone)
        refused(r"--out .*: no such folder as .*nowhere", out.parent / "nowhere" / "map.png", gone, gone)
        (out.parent / "folder.png").mkdir()
        refused(r"--out .*folder\.png: is a folder, expected a file", out.parent / "folder.png", gone, gone)

    def test_unreadable_images(self, pair: tuple[Path, Path], out: Path) -> None:
        refused(r"gone\.png: No such file", out, pair[0], pair[0].with_name("gone.png"))
        text = out.with_name("text.png")
        text.write_text("no image")
        refused(r"text\.png: not an image of a known kind", out, text, pair[1])
        refused(r": Is a directory", out, pair[0], out.parent)

    def test_different_sizes_say_which_option_helps(self, pair: tuple[Path, Path], out: Path) -> None:
        other = image_file(out.with_name("other.png"), 3, (40, 50))
        message = r"other\.png: .* one size, got 40 x 50 and 40 x 48: use --resize reference"
        refused(message, out, pair[0], other)

    @pytest.mark.parametrize(
        ("message", "options"),
        [
            ("--limit 0.0: expected a finite number above 0", ["--limit", "0"]),
            ("--limit nan: expected a finite number above 0", ["--limit", "nan"]),
            ("Invalid value for '--dpi'", ["--dpi", "1"]),
        ],
    )
    def test_options(self, pair: tuple[Path, Path], out: Path, message: str, options: list[str]) -> None:
        refused(message, out, *pair, *options)

    def test_two_pictures_are_two_files(self, pair: tuple[Path, Path], out: Path) -> None:
        message = f"--out and --displacement: expected two files, got {out} for both"
        refused(message, out, *pair, "-o", out, "--version", "2", "--displacement", out)
        message = "--displacement {}: expected a name that ends in one of .png, .svg, .pdf".format(
            out.with_suffix(".gif")
        )
        refused(message, out, *pair, "-o", out, "--version", "2", "--displacement", out.with_suffix(".gif"))

    def test_only_version_2_finds_a_displacement(self, pair: tuple[Path, Path], out: Path) -> None:
        message = "--displacement: only DAMLPIPS of version 2 finds how far things moved: use --version 2"
        for options in (["--version", "1"], ["--metric", "lpips", "--backbone", "nano", "--heads", "uniform"]):
            refused(message, out, *pair, "-o", out, *options, "--displacement", out.with_name("arrows.png"))

    def test_an_output_is_required(self, pair: tuple[Path, Path]) -> None:
        result = run(*pair)
        assert result.exit_code == 2
        assert "Missing option '--out'" in result.stderr

    def test_a_disk_that_is_full(self, pair: tuple[Path, Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(28, "No space left on device")))
        refused(r"--out .*map\.png: No space left on device", out, *pair)
