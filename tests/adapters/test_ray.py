"""Pairs of a Ray data set get the scores that `damlpips score` gives them."""

import json
import logging
import math
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from damlpips import DAMLPIPS
from damlpips.adapters.ray import ScorePairs
from damlpips.cli import app
from damlpips.scoring.rows import COLUMNS, INTEGER, NUMBER, SCORE
from tests.support.pictures import image_file, pixels

ROOT = Path(__file__).resolve().parents[2]
TYPES = {name: c.type for c in COLUMNS if c.source is SCORE for name in c.headers(5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pairs, of three references; one distorted image is damaged, one has another size."""
    root = tmp_path_factory.mktemp("pairs")
    for k in range(9):
        image_file(root / f"r/{k}.png", k // 3, (40, 48))
        image_file(root / f"d/{k}.png", k + 10, (40, 48) if k != 7 else (30, 48))
    (root / "d/4.png").write_bytes((root / "d/4.png").read_bytes()[:300])
    return root


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[dict[str, Any]]:
    """The rows of `damlpips score`."""
    arguments = ["score", folder / "r", folder / "d", "--jsonl", folder / "rows.jsonl", "-q"]
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 3
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def names(folder: Path) -> dict[str, list[str]]:
    return {"reference": [f"r/{k}.png" for k in range(9)], "distorted": [f"d/{k}.png" for k in range(9)]}


def contents(folder: Path) -> dict[str, list[bytes]]:
    return {column: [(folder / name).read_bytes() for name in files] for column, files in names(folder).items()}


def batch(columns: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=object) for name, values in columns.items()}


def assert_scores(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(rows) == len(expected) == 9
    for row, wanted in zip(rows, expected, strict=True):
        assert [name for name in row if name in TYPES] == list(TYPES)
        for name, kind in TYPES.items():
            if kind == NUMBER:
                value = math.nan if wanted[name] is None else wanted[name]
                assert row[name] == pytest.approx(value, rel=1e-5, nan_ok=True)
            elif kind == INTEGER:
                assert row[name] == (wanted[name] or 0)
            elif name == "error":  # its wording differs for images that are not files
                assert (row[name] == "") == (wanted[name] == "")
            else:
                assert row[name] == wanted[name]
    assert [bool(row["error"]) for row in rows] == [k in (4, 7) for k in range(9)]


def rows_of(scored: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [dict(zip(scored, row, strict=True)) for row in zip(*scored.values(), strict=True)]


class TestTheClassAlone:
    def test_paths(self, folder: Path, expected: list[dict[str, Any]]) -> None:
        rows = rows_of(ScorePairs(root=folder)(batch(names(folder))))
        assert_scores(rows, expected)
        # the same batches of 8 as the command's: the same bits
        assert [row["score"] for row in rows[:4]] == [row["score"] for row in expected[:4]]
        assert [rows[k]["error"] for k in (4,)] == [expected[4]["error"]]
        assert "d/7.png: the two images must have one size" in rows[7]["error"]

    def test_bytes_and_other_batches(self, folder: Path, expected: list[dict[str, Any]]) -> None:
        columns = {"id": list(range(9)), **contents(folder)}
        rows = rows_of(ScorePairs(batch_size=4)(batch(columns)))
        assert_scores(rows, expected)
        assert [row["id"] for row in rows] == list(range(9))
        assert rows[4]["error"].startswith("distorted of row 4: damaged image")

    def test_arrays(self, folder: Path, expected: list[dict[str, Any]]) -> None:
        read = {c: [np.asarray(Image.open(folder / f)) for f in files[:4]] for c, files in names(folder).items()}
        whole = {column: np.stack(images) for column, images in read.items()}
        scored = ScorePairs()(whole)
        assert scored["score"] == pytest.approx([row["score"] for row in expected[:4]], rel=1e-5)
        assert (scored["score"].dtype, scored["width"].dtype) == (np.float64, np.int32)
        floats = ScorePairs()({name: images.astype(np.float64) / 255 for name, images in whole.items()})
        assert floats["score"] == pytest.approx(scored["score"], rel=1e-4)
        assert set(scored["sha256"]) == {""}

    def test_grey_arrays_are_as_their_files(self, tmp_path: Path) -> None:
        grey = [pixels(k)[..., 0] for k in range(2)]
        files = [tmp_path / f"{k}.png" for k in range(2)]
        for image, file in zip(grey, files, strict=True):
            Image.fromarray(image).save(file)
        score = ScorePairs()
        scores = [
            score({"reference": np.array([r], dtype=kind), "distorted": np.array([d], dtype=kind)})["score"][0]
            for r, d, kind in (
                (*grey, np.uint8),
                (*map(str, files), object),
                (grey[0][..., None], grey[1][..., None], np.uint8),
            )
        ]
        assert scores[0] > 0.1
        assert scores == [scores[0]] * 3

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (None, "expected a path, bytes or an array, got NoneType"),
            (3, "expected a path, bytes or an array, got int"),
            (b"", "the file is empty"),
            (b"GIF89a", "not an image of a known kind"),
            ("no\0name.png", "not a file name"),
            (np.zeros((4, 5, 2), np.uint8), r"expected \(H, W, 3\) or \(H, W\), got \(4, 5, 2\)"),
            (np.zeros((0, 5, 3), np.uint8), "expected .H, W, 3. or .H, W., got .0, 5, 3."),
            (np.zeros((40, 48, 3), np.int64), "expected uint8 or floats in .0, 1., got int64"),
            (np.full((40, 48, 3), np.nan), "expected floats in .0, 1., got nan to nan"),
            (np.full((40, 48, 3), 255.0), "expected floats in .0, 1., got 255 to 255"),
            (np.zeros((2, 2, 3), np.uint8), "reference"),
        ],
    )
    def test_a_bad_image_is_the_error_of_its_row(self, folder: Path, value: Any, message: str) -> None:
        columns = batch({name: values[:3] for name, values in contents(folder).items()})
        columns["distorted"][1] = value
        scored = ScorePairs()(columns)
        assert re.search(message, scored["error"][1])
        assert [math.isnan(score) for score in scored["score"]] == [False, True, False]
        assert [scored["error"][k] for k in (0, 2)] == ["", ""]

    def test_options(self, folder: Path, expected: list[dict[str, Any]]) -> None:
        files = names(folder)
        renamed = {"a": files["reference"], "b": files["distorted"]}
        scored = ScorePairs("lpips", reference="a", distorted="b", root=folder, backbone="nano", heads="uniform")(
            batch(renamed)
        )
        assert abs(scored["score"][0] - expected[0]["score"]) > 1e-3
        resized = ScorePairs(root=folder, resize="reference")(batch(files))
        assert resized["error"][7] == ""

    def test_what_is_wrong_with_all_rows_raises(self, folder: Path) -> None:
        score = ScorePairs(root=folder)
        with pytest.raises(KeyError, match="expected a column 'reference', the batch has distorted"):
            score(batch({"distorted": ["x"]}))
        with pytest.raises(KeyError, match="the batch has columns error, score already"):
            score(batch({**names(folder), "score": [0] * 9, "error": [0] * 9}))
        for options in ({"metric": "psnr"}, {"alpha": "red"}, {"batch_size": 0}, {"value_range": (-1, 1)}):
            with pytest.raises(ValueError, match="expected"):
                ScorePairs(**options)

    def test_a_batch_without_rows(self) -> None:
        scored = ScorePairs()(batch({"reference": [], "distorted": []}))
        assert {name: len(values) for name, values in scored.items()} == dict.fromkeys(
            ["reference", "distorted", *TYPES], 0
        )

    def test_a_reference_passes_the_network_once(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        passes: list[int] = []
        real = DAMLPIPS.encode
        monkeypatch.setattr(DAMLPIPS, "encode", lambda self, x: passes.append(len(x)) or real(self, x))
        ScorePairs()(batch(contents(folder)))
        # of the last reference, rows 6 and 7 are in one chunk, row 8 is alone in the next
        assert passes == [1, 1, 1]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray on this machine, for all tests of this module."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else it writes one to the home folder
        ray = pytest.importorskip("ray")
        pytest.importorskip("ray.data")
        ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
        ray.shutdown()


def test_parquet_of_bytes(ray: Any, folder: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": list(range(9)), **contents(folder)}), tmp_path / "pairs.parquet")
    scored = ray.data.read_parquet(str(tmp_path / "pairs.parquet")).map_batches(
        ScorePairs,
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    scored.drop_columns(["reference", "distorted"]).write_parquet(str(tmp_path / "scores"))
    rows = pq.read_table(tmp_path / "scores").sort_by("id").to_pylist()
    assert [row["id"] for row in rows] == list(range(9))
    assert_scores(rows, expected)


def test_parquet_of_paths_and_folders_as_the_page_has_them(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/how-to/ray.md").read_text(encoding="utf-8")
    printed = []
    for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(compile(code, "ray.md", "exec"), {})
        printed.append([line.split() for line in capsys.readouterr().out.splitlines()])
    assert len(printed) == 2
    rows = tmp_path / "rows.jsonl"
    command = ["score", "docs/demo/landscape.png", "docs/demo/landscape", "--jsonl", str(rows), "-q"]
    assert CliRunner().invoke(app, command).exit_code == 0
    expected = {row["distorted"]: row["score"] for row in map(json.loads, rows.read_text().splitlines())}
    assert len(expected) == 9
    for lines in printed:
        assert {f"docs/demo/{name}": float(score) for name, score in lines} == pytest.approx(expected, rel=1e-5)
