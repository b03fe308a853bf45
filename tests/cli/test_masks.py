"""`damlpips score --masks`: which file is whose mask, what counts, and what is refused."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from damlpips import DAMLPIPS, LPIPS
from damlpips.report.page.reading import RunSettings
from damlpips.report.page.rebuilding import rebuild
from damlpips.scoring.images import read_mask
from damlpips.scoring.pairs import find_pairs, with_masks
from damlpips.scoring.scorer import score_pairs
from damlpips.scoring.several import OtherMetric, Said
from tests.support.commands import refused, run
from tests.support.masks import alpha, rectangle, silhouette
from tests.support.pictures import image_file, image_folders, pixels

SIZE = (40, 48)
COUNT = 3


def mask_file(path: Path, mask: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask[0, 0].byte().mul(255).numpy()).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return image_folders(tmp_path, [SIZE] * COUNT)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    for k in range(COUNT):
        mask_file(tmp_path / f"m/{k}.png", silhouette(*SIZE, seed=k))
    return tmp_path / "m"


def scored(tmp_path: Path, *arguments: object, exit_code: int = 0) -> list[dict[str, Any]]:
    result = run("score", *arguments, "--csv", tmp_path / "scores.csv", "--overwrite", "--quiet")
    assert result.exit_code == exit_code, result.output
    with (tmp_path / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def image(seed: int) -> torch.Tensor:
    return torch.from_numpy(pixels(seed, *SIZE)).permute(2, 0, 1)[None]


def score_of(k: int, mask: torch.Tensor, metric: torch.nn.Module | None = None) -> float:
    return (metric or DAMLPIPS())(image(k + 100), image(k), mask=mask).item()


def test_masks_go_by_name(tmp_path, folders, masks) -> None:
    rows = scored(tmp_path, *folders, "--masks", masks)
    expected = [score_of(k, silhouette(*SIZE, seed=k)) for k in range(COUNT)]
    assert [float(row["score"]) for row in rows] == pytest.approx(expected, rel=1e-5)
    assert all(" masks=named " in row["options"] for row in rows)
    assert all("masks" not in row["options"] for row in scored(tmp_path, *folders))


def test_by_name_but_for_the_ending(tmp_path, folders, masks) -> None:
    for file in masks.iterdir():
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    # of pairs that are not there
    mask_file(masks / "9.png", rectangle(*SIZE))
    rows = scored(tmp_path, *folders, "--masks", masks, "--workers", 2, "--batch-size", 2)
    expected = [score_of(k, silhouette(*SIZE, seed=k)) for k in range(COUNT)]
    assert [float(row["score"]) for row in rows] == pytest.approx(expected, rel=1e-5)


def test_one_mask_for_all(tmp_path, folders) -> None:
    one, mask = tmp_path / "mask.png", rectangle(*SIZE)
    rows = scored(tmp_path, *folders, "--masks", mask_file(one, mask), "--metric", "lpips", "--backbone", "nano",
                  "--heads", "uniform")  # fmt: skip
    metric = LPIPS("nano", heads="uniform")
    assert [float(row["score"]) for row in rows] == pytest.approx(
        [score_of(k, mask, metric) for k in range(COUNT)], rel=1e-5
    )
    before = {row["options"] for row in rows}
    mask_file(one, silhouette(*SIZE))
    assert before != {row["options"] for row in scored(tmp_path, *folders, "--masks", one)}


def test_another_mask_does_not_continue_a_run(tmp_path, folders) -> None:
    one, out = mask_file(tmp_path / "mask.png", rectangle(*SIZE)), tmp_path / "scores.csv"
    assert run("score", *folders, "--masks", one, "--csv", out).exit_code == 0
    mask_file(one, silhouette(*SIZE))
    result = run("score", *folders, "--masks", one, "--csv", out)
    assert result.exit_code == 2
    assert "was scored with masks=" in result.stderr


def test_one_reference_with_a_mask_for_each_version(tmp_path, folders, masks) -> None:
    """Its feature maps, which are those of the whole image, are not kept for the next."""
    rows = scored(tmp_path, folders[0] / "0.png", folders[1], "--masks", masks)
    metric = DAMLPIPS()
    expected = [metric(image(k + 100), image(0), mask=silhouette(*SIZE, seed=k)).item() for k in range(COUNT)]
    assert [float(row["score"]) for row in rows] == pytest.approx(expected, rel=1e-5)


def test_several_metrics_see_the_mask(tmp_path, folders, masks) -> None:
    rows = scored(tmp_path, *folders, "--masks", masks, "--metric", "damlpips", "--metric", "damlpips:1")
    expected = [score_of(k, silhouette(*SIZE, seed=k), DAMLPIPS(version=1)) for k in range(COUNT)]
    assert [float(row["damlpips:1"]) for row in rows] == pytest.approx(expected, rel=1e-5)


def test_a_pair_without_a_mask_has_its_error(tmp_path, folders, masks) -> None:
    (masks / "1.png").unlink()
    mask_file(masks / "2.png", torch.zeros(1, 1, *SIZE, dtype=torch.bool))
    rows = scored(tmp_path, *folders, "--masks", masks, exit_code=3)
    assert float(rows[0]["score"]) == pytest.approx(score_of(0, silhouette(*SIZE, seed=0)), rel=1e-5)
    assert not rows[1]["score"]
    assert rows[1]["error"] == f"{masks / '1.png'}: No such file or directory"
    assert not rows[2]["score"]
    assert "2.png: mask: expected one True at least for each image" in rows[2]["error"]


def test_a_mask_of_another_size_is_the_error_of_its_pair(tmp_path, folders, masks) -> None:
    mask_file(masks / "1.png", silhouette(20, 48))
    rows = scored(tmp_path, *folders, "--masks", masks, exit_code=3)
    assert [bool(row["score"]) for row in rows] == [True, False, True]
    assert "mask: expected (1, 1, 40, 48), got (1, 1, 20, 48)" in rows[1]["error"]


def test_tiles_are_left_out(tmp_path, folders, masks) -> None:
    rows = scored(tmp_path, *image_folders(tmp_path / "large", [(40, 150)] * COUNT), "--masks",
                  mask_file(tmp_path / "wide.png", rectangle(40, 150)), "--metric", "lpips-nano", "--heads", "uniform",
                  "--tile", "48", exit_code=3)  # fmt: skip
    assert "compare crops, or leave out --tile" in rows[0]["error"]


def test_a_damaged_mask_is_the_error_of_its_pair(tmp_path, folders, masks) -> None:
    (masks / "0.png").write_bytes(b"no image")
    rows = scored(tmp_path, *folders, "--masks", masks, exit_code=3)
    assert rows[0]["error"].startswith(f"{masks / '0.png'}: not an image")
    assert rows[1]["score"]


def test_a_bad_mask_of_two_files_is_a_bad_argument(tmp_path, folders) -> None:
    files = folders[0] / "0.png", folders[1] / "0.png"
    missing = tmp_path / "none.png"
    refused("none.png': no such file or folder", "score", *files, "--masks", missing)
    (tmp_path / "empty").mkdir()
    refused("no images in this folder", "score", *files, "--masks", tmp_path / "empty")


def test_names_that_could_be_two_masks(folders, masks) -> None:
    for ending in ("bmp", "gif"):
        Image.open(masks / "0.png").save(masks / f"0.{ending}")
    (masks / "0.png").unlink()
    refused("several masks differ in their ending alone, which is that of 0.png", "score", *folders, "--masks", masks)


def test_videos_have_no_masks(tmp_path, masks) -> None:
    for side in ("r", "d"):
        image_file(tmp_path / f"{side}v/clip/0.png", 1)
    refused(
        "is a video, and masks are of images",
        *("score", tmp_path / "rv", tmp_path / "dv", "--frames", "--masks", masks),
    )


def test_metrics_of_whole_images(folders, masks) -> None:
    refused(
        "psnr would compare whole images",
        *("score", *folders, "--masks", masks, "--metric", "damlpips", "--metric", "psnr"),
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_what_is_not_black_counts(tmp_path, mode) -> None:
    mask = silhouette(*SIZE)
    numbers = mask[0, 0].byte().numpy()
    if mode == "RGBA":  # of an object that was cut out, any colour where it is opaque
        drawn = np.dstack([numbers * 7, numbers * 9, numbers, numbers * 255])
    elif mode == "LA":
        drawn = np.dstack([numbers * 200, numbers * 255])
    else:
        drawn = numbers.astype(np.uint16) if mode == "I;16" else numbers
    stored = Image.fromarray(drawn) if mode in ("RGBA", "LA", "I;16") else Image.fromarray(drawn * 255).convert(mode)
    stored.save(tmp_path / "mask.png")
    assert torch.equal(read_mask(tmp_path / "mask.png").pixels, mask[0])


def test_the_opacity_of_a_rendering(tmp_path) -> None:
    """What is faint counts as well: a threshold is up to who makes the mask."""
    opaque = alpha(*SIZE)[0, 0]
    Image.fromarray(opaque.mul(255).byte().numpy()).save(tmp_path / "mask.png")
    assert torch.equal(read_mask(tmp_path / "mask.png").pixels[0], opaque.mul(255).byte() > 0)


def test_a_report_draws_no_map_without_the_mask(tmp_path, folders, masks) -> None:
    row = scored(tmp_path, *folders, "--masks", masks)[0]
    found = rebuild(RunSettings(*(row[name] for name in ("metric", "backbone", "weights", "options"))))
    assert found.model is None
    assert "with masks" in found.reason


def test_score_pairs_refuses_metrics_of_whole_images(folders, masks) -> None:
    said = Said("mine", lower_is_closer=True, description="")
    pairs = with_masks(find_pairs(*folders), masks)
    with pytest.raises(ValueError, match="mine: compares whole images: with masks expected metrics of this package"):
        score_pairs(DAMLPIPS(), pairs, others=[OtherMetric.of_function(lambda x, y: (x - y).mean((1, 2, 3)), said)])
