"""`damlpips score` with several methods, with 16-bit and transparent images, and with threads that read."""

import json
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from damlpips import DAMLPIPS
from damlpips.scoring import scorer
from damlpips.scoring.pairs import find_pairs
from damlpips.scoring.scorer import score_pairs
from tests.support import commands
from tests.support.commands import json_rows, refused
from tests.support.pictures import image_file, pixels


def run(*arguments: object) -> Result:
    return commands.run("score", *arguments)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for k, name in enumerate(["1.png", "deep/2.png", "deep/10.png"]):
        image_file(tmp_path / "r" / name, k)
        image_file(tmp_path / "a" / name, k + 10)
        image_file(tmp_path / "b" / name, k + 20)
    return tmp_path


class TestMethods:
    def test_a_column_and_the_mean_of_each(self, folders: Path) -> None:
        result = run(
            folders / "r", "--method", f"a={folders / 'a'}", "--method", f"b={folders / 'b'}", "-o", folders / "s.jsonl"
        )
        assert (result.exit_code, result.stderr) == (0, "")
        found = json_rows(folders / "s.jsonl")
        names = ["1.png", "deep/2.png", "deep/10.png"]
        assert [(row["method"], row["distorted"]) for row in found] == [
            (method, str(folders / method / name)) for name in names for method in "ab"
        ]
        for method in "ab":
            alone = run(folders / "r", folders / method, "--jsonl", folders / method / "alone")
            assert alone.exit_code == 0
            expected = [row["score"] for row in json_rows(folders / method / "alone")]
            assert [r["score"] for r in found if r["method"] == method] == pytest.approx(expected, rel=1e-5)
            line = rf"^ +{method} +3 +{sum(expected) / 3:.6f} *$"
            assert re.search(line, result.stdout, re.MULTILINE), result.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "expected DIST, or --method NAME=DIR once or more, and not both"),
            (["a", "--method", "x=a"], "and not both"),
            (["--method", "a"], "--method a: expected NAME=DIR"),
            (["--method", "=a"], "--method =a: expected NAME=DIR"),
            (["--method", "x=a", "--method", "x=b"], "--method x=b: there is a method 'x' already"),
            (["--method", "x=gone"], "--method x=gone: no such folder"),
        ],
    )
    def test_refusals(self, folders: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folders)
        refused(message, "score", "r", *arguments)


class TestImages:
    def test_sixteen_bits_beside_eight(self, tmp_path: Path) -> None:
        grey = pixels(1)[..., 0]
        Image.fromarray(grey).save(tmp_path / "r.png")
        noise = np.random.default_rng(0).integers(0, 65536, grey.shape, dtype=np.uint16)
        Image.fromarray(noise).save(tmp_path / "d.png")
        result = run(tmp_path / "r.png", tmp_path / "d.png", "--json", "-")
        x, y = (torch.from_numpy(v.astype(np.float32)).expand(1, 3, -1, -1) for v in (noise / 65535, grey / 255))
        with torch.no_grad():
            assert json.loads(result.stdout)["mean"] == pytest.approx(DAMLPIPS()(x, y).item(), rel=1e-5)

    def test_the_background_of_transparent_pixels(self, tmp_path: Path) -> None:
        reference = image_file(tmp_path / "r.png", 1)
        image = Image.fromarray(pixels(1)).convert("RGBA")
        image.paste((0, 0, 0, 0), (8, 8, 24, 24))
        image.save(tmp_path / "d.png")
        means = {}
        for alpha in ("white", "black"):
            flat = Image.new("RGB", image.size, alpha)
            flat.paste(image, mask=image)
            flat.save(tmp_path / f"{alpha}.png")
            means[alpha], expected = (
                json.loads(run(reference, tmp_path / name, "--json", "-", *options).stdout)["mean"]
                for name, options in (("d.png", ["--alpha", alpha]), (f"{alpha}.png", []))
            )
            assert means[alpha] == expected
        assert means["white"] != means["black"]
        assert run(reference, tmp_path / "d.png").exit_code == 2


class TestWorkers:
    def test_the_same_file_whatever_their_number(self, folders: Path) -> None:
        (folders / "a/deep/2.png").write_bytes(b"")
        texts = set()
        for workers in (0, 1, 3):
            result = run(folders / "r", folders / "a", "--csv", "-", "--workers", workers, "--batch-size", 2)
            assert result.exit_code == 3
            texts.add(result.stdout)
        assert len(texts) == 1

    def test_images_are_read_in_threads_and_not_far_ahead(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for k in range(40):
            image_file(tmp_path / f"d/{k}.png", k, (32, 32))
        read: list[str] = []
        real = scorer.read_still

        def counted(path: Path, **options: Any) -> torch.Tensor:
            read.append(threading.current_thread().name)
            return real(path, **options)

        monkeypatch.setattr(scorer, "read_still", counted)
        pairs = find_pairs(image_file(tmp_path / "r.png", 1, (32, 32)), tmp_path / "d")
        scores = score_pairs(DAMLPIPS(), pairs, batch_size=2, workers=2)
        next(scores)
        # the reference, the batch that is scored, and two that may wait
        assert len(read) <= 7
        assert len(list(scores)) == 39
        assert len(read) == 41
        assert threading.main_thread().name not in read

    def test_filters_of_warnings_outlive_no_reader(self, folders: Path) -> None:
        before = list(warnings.filters)
        pairs = find_pairs(folders / "r", folders / "a") * 5
        assert len(list(score_pairs(DAMLPIPS(), pairs, batch_size=15, workers=4))) == 15
        assert list(warnings.filters) == before
