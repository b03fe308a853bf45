"""Judged sets in shards: the same images and judgements as from files, and whatever is wrong with a shard is named."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from damlpips.evaluation.cache import DistanceCache
from damlpips.evaluation.datasets import DatasetError, load, members
from damlpips.evaluation.distances import distances
from damlpips.evaluation.judgements import Choice, Rating
from damlpips.evaluation.named import build
from damlpips.evaluation.views import View
from damlpips.files import digest
from damlpips.scoring.images import ScoringError, read_image
from tests.support import layouts
from tests.support.layouts import SHARDED, add, parquet, webdataset
from tests.support.pictures import pixels

pq = pytest.importorskip("pyarrow.parquet")
WRITERS: dict[str, Callable[..., Path]] = {"parquet": parquet, "webdataset": webdataset}
each_kind = pytest.mark.parametrize("kind", WRITERS)


def draw(path: Path) -> None:
    Image.fromarray(pixels(ord(path.stem), 24, 32)).save(path)


def error_of(path: Path, layout: str = "auto") -> str:
    with pytest.raises(DatasetError) as caught:
        load(path, layout)
    return str(caught.value)


@each_kind
@pytest.mark.parametrize("form", SHARDED)
def test_they_hold_what_a_csv_file_beside_images_holds(kind: str, form: str, tmp_path: Path) -> None:
    root = WRITERS[kind](tmp_path / "shards", form, draw)
    (judged,) = load(root)
    assert judged.name == "shards"
    files = tmp_path / "files"
    layouts.put(files, ("r.png", "x.png", "y.png"), draw)
    rows = [{**row, "set": "shards"} for row in SHARDED[form]]
    texts = [
        ",".join("" if v is None else f"{v}.png" if v in layouts.IMAGES else str(v) for v in r.values()) for r in rows
    ]
    (files / "table.csv").write_text("\n".join([",".join(rows[0]), *texts, *texts]) + "\n")
    (expected,) = load(files)
    assert len(judged.judgements) == len(expected.judgements) == 2 * len(rows)
    view = View()
    for one, other in zip(judged.judgements, expected.judgements, strict=True):
        for path, file in zip(sum(one.pairs, ()), sum(other.pairs, ()), strict=True):
            assert torch.equal(view.read(path), read_image(file))
            assert members.digest(path) == digest(file)
        for field in ("score", "votes_a", "votes_b", "kind"):
            assert getattr(one, field, None) == getattr(other, field, None)
    assert {c.content for c in judged.judgements if c.content == "c"} == {
        c.content for c in expected.judgements if c.content == "c"
    }


@pytest.mark.parametrize(
    ("kind", "options"), [("parquet", {"structs": True}), ("parquet", {"group": 100}), ("webdataset", {"array": True})]
)
def test_other_ways_to_write_them(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    one = WRITERS[kind](tmp_path / "plain" / "set", "judge", draw)
    other = WRITERS[kind](tmp_path / "other" / "set", "judge", draw, **options)
    for a, b in zip(load(one)[0].judgements, load(other)[0].judgements, strict=True):
        assert isinstance(a, Choice)
        assert isinstance(b, Choice)
        # an array holds float32
        assert a.votes_b == pytest.approx(b.votes_b, rel=1e-6)
        assert torch.equal(View().read(a.b[1]), View().read(b.b[1]))


def test_the_direction_of_votes(tmp_path: Path) -> None:
    ((choice, *_),) = [judged.judgements for judged in load(webdataset(tmp_path / "a", "judge"))]
    assert (choice.votes_a, choice.votes_b) == (0.6, 0.4)
    ((quad, *_),) = [judged.judgements for judged in load(parquet(tmp_path / "b", "quads"))]
    # three said that p differs more: they are for q as the closer pair
    assert (quad.a[0].name, quad.b[1].name, quad.votes_a, quad.votes_b) == ("p1", "q2", 1, 3)
    ((rating, *_),) = [judged.judgements for judged in load(parquet(tmp_path / "c", "ratings"))]
    assert isinstance(rating, Rating)
    assert rating.score == -1.5


@each_kind
def test_agree_computes_and_keeps_the_same_distances(kind: str, tmp_path: Path) -> None:
    (judged,) = load(WRITERS[kind](tmp_path / "shards", "votes", draw))
    metric = build("damlpips", device=torch.device("cpu"))
    with DistanceCache(tmp_path / "kept.sqlite") as cache:
        found = distances(metric, judged, View().keeping_images(), cache=cache)
        assert np.array_equal(distances(metric, judged, cache=cache), found)
    assert found.shape == (4, 2)
    # the second row has the images of the first in the other order
    assert np.array_equal(found[0], found[1, ::-1])


def test_distances_kept_before_stay_good() -> None:
    assert json.loads(View().described())["read"] == "damlpips.scoring.images.read_image"


def test_a_folder_with_the_name_of_a_shard_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images.tar"
    folder.mkdir()
    draw(folder / "r.png")
    assert members.file_of(folder / "r.png") == folder / "r.png"
    assert View().read(folder / "r.png").shape == (3, 24, 32)


def test_a_shard_that_was_written_again_is_looked_through_again(tmp_path: Path) -> None:
    (judged,) = load(webdataset(tmp_path, "votes", draw))
    path = judged.judgements[0].a[0]
    first = View().read(path)
    shift(members.file_of(path))
    assert torch.equal(View().read(path), first)


def shift(shard: Path) -> None:
    """Write a tar again with another file before the others."""
    with tarfile.open(shard) as tar:
        found = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(shard, "w") as tar:
        for name, content in [("first.txt", b"0" * 5000), *found]:
            add(tar, name, content)


def test_row_groups_are_kept_up_to_a_limit_over_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (judged,) = load(parquet(tmp_path, "votes", draw))
    paths = [path for choice in judged.judgements for pair in choice.pairs for path in pair]
    for most, kept in ((0, 1), (1 << 27, 4)):
        monkeypatch.setattr(members, "MOST_KEPT", most)
        members.Parquet.kept.clear()
        found = [View().read(path) for path in paths]
        assert len(members.Parquet.kept) == kept
        again = {path: View().read(path) for path in reversed(paths)}
        assert all(torch.equal(one, again[path]) for one, path in zip(found, paths, strict=True))


class TestErrors:
    def test_a_row_group_that_is_damaged_is_named(self, tmp_path: Path) -> None:
        shard = parquet(tmp_path, "ratings", draw) / "train-0.parquet"
        (judged,) = load(tmp_path)
        place = pq.ParquetFile(shard).metadata.row_group(1).column(0).data_page_offset
        content = bytearray(shard.read_bytes())
        content[place : place + 20] = b"\xff" * 20
        shard.write_bytes(content)
        with pytest.raises(ScoringError, match=r"train-0.parquet, row group 1: damaged, or not Parquet"):
            View().read(judged.judgements[1].pairs[0][0])

    @each_kind
    def test_an_image_that_cannot_be_read_is_named_by_shard_and_row(self, kind: str, tmp_path: Path) -> None:
        def damaged(path: Path) -> None:
            draw(path) if path.stem != "x" else path.write_bytes(b"no image")

        (judged,) = load(WRITERS[kind](tmp_path, "votes", damaged))
        where = {"parquet": "train-0.parquet/0/a", "webdataset": "train-0.tar/some.folder/000000.a.png"}[kind]
        with pytest.raises(ScoringError, match=f"{where}: not an image"):
            View().read(judged.judgements[0].a[1])

    def test_a_tar_that_is_damaged_within(self, tmp_path: Path) -> None:
        shard = webdataset(tmp_path) / "train-0.tar"
        content = bytearray(shard.read_bytes())
        with tarfile.open(shard) as tar:
            place = tar.getmembers()[3].offset
        content[place : place + 100] = b"\xff" * 100
        shard.write_bytes(content)
        assert f"{shard}: damaged at byte {place}, after 3 files" in error_of(tmp_path)

    def test_a_tar_that_is_cut(self, tmp_path: Path) -> None:
        shard = webdataset(tmp_path, "votes", draw) / "train-0.tar"
        with tarfile.open(shard) as tar:
            place = tar.getmembers()[4].offset_data
        shard.write_bytes(shard.read_bytes()[: place + 5])
        assert error_of(tmp_path).startswith(f"{shard}: not a tar that can be read (unexpected end of data)")

    def test_a_tar_that_is_compressed_or_none(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
            add(tar, "0.ref.png", b"")
        assert "not a tar that can be read" in error_of(tmp_path)
        (tmp_path / "a.tar").write_bytes(b"")
        assert error_of(tmp_path).startswith(f"{tmp_path / 'a.tar'}: ")

    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            (
                {"0.ref.png": b"", "0.a.png": b"", "0.json": b'{"votes_a": 1, "votes_b": 2}'},
                "sample 0: expected the columns",
            ),
            ({"0.a.png": b"", "0.a.jpg": b""}, "0.a.jpg: a second image 'a' of this sample"),
            ({"0.json": b"[]"}, "0.json: expected an object of names and values, got list"),
            ({"0.json": b"{"}, "0.json: not JSON"),
            ({"0.json": b"\xff"}, "0.json: not JSON"),
            ({"0.judge.npy": b""}, "0.judge.npy: damaged array"),
            ({"../0.a.png": b""}, "leads out of"),
            ({"/0.a.png": b""}, "is an absolute path"),
            ({}, "the tar is empty"),
            # images are files of the tar only
            (
                {"0.ref.png": b"", "0.a.png": b"", "0.json": b'{"b": "/x.png", "votes_a": 1, "votes_b": 2}'},
                "expected the columns",
            ),
        ],
    )
    def test_samples(self, parts: dict[str, bytes], expected: str, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, content in parts.items():
                add(tar, name, content)
        message = error_of(tmp_path)
        assert message.startswith(str(tmp_path / "a.tar"))
        assert expected in message

    def test_a_sample_that_lacks_a_part(self, tmp_path: Path) -> None:
        shard = webdataset(tmp_path) / "train-0.tar"
        with tarfile.open(shard, "a") as tar:
            add(tar, "9.ref.png", b"")
        assert error_of(tmp_path) == f"{shard}, sample 9: no 'a', expected ref, a, b, votes_a, votes_b"

    @pytest.mark.parametrize(
        ("votes", "expected"),
        [
            ({"votes_a": -1}, "columns 'votes_a' and 'votes_b': expected votes, got -1 and 4"),
            ({"votes_a": 0, "votes_b": 0, "votes": 0}, "expected votes, got 0 and 0"),
            ({"votes_a": float("nan")}, "column 'votes_a': expected a finite number, got 'nan'"),
            ({"votes_a": None}, "column 'votes_a': expected a finite number, got ''"),
            ({"votes": 6}, "1 and 4, expected a sum of 6 as in column 'votes'"),
        ],
    )
    @each_kind
    def test_votes(
        self, votes: dict[str, Any], expected: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(SHARDED, "votes", ({**SHARDED["votes"][0], **votes}, SHARDED["votes"][1]))
        WRITERS[kind](tmp_path)
        where = {"parquet": "train-0.parquet, row 0", "webdataset": "train-0.tar, sample some.folder/000000"}[kind]
        assert error_of(tmp_path).startswith(f"{tmp_path}/{where}, column")
        assert expected in error_of(tmp_path)

    def test_a_share_that_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SHARDED, "judge", ({**SHARDED["judge"][0], "judge": 1.5},))
        where = parquet(tmp_path, "judge") / "train-0.parquet, row 0"
        assert error_of(tmp_path) == f"{where}, column 'judge': expected a share of observers, 0 to 1, got 1.5"

    def test_parquet_without_rows_or_images(self, tmp_path: Path) -> None:
        import pyarrow as pa

        file = tmp_path / "a.parquet"
        columns = {"ref": pa.array(["r.png"]), "dist": pa.array([b""]), "score": pa.array([1.0])}
        pq.write_table(pa.table(columns), file)
        assert error_of(file) == f"{file}, column 'ref': expected images, as bytes or structs of bytes and path"
        pq.write_table(pa.table({**columns, "ref": pa.array([b""])})[:0], file)
        assert error_of(file) == f"{file}: the table is empty, expected rows"
        pq.write_table(pa.table({"x": [1]}), file)
        assert f"{file}: expected the columns ref,dist,score or " in error_of(file)
        file.write_bytes(b"PAR1")
        assert f"{file}: damaged, or not Parquet" in error_of(file)

    def test_an_image_that_is_null_and_a_row_group_that_is_too_large(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import pyarrow as pa

        file = tmp_path / "a.parquet"
        pq.write_table(pa.table({"ref": [b"r"], "dist": pa.array([None], pa.binary()), "score": [1.0]}), file)
        (rating,) = load(file)[0].judgements
        with pytest.raises(ScoringError, match=r"a.parquet/0/dist: null, expected the bytes of an image"):
            View().read(rating.pairs[0][1])
        monkeypatch.setattr(members, "LARGEST_GROUP", 10)
        members._opened.clear()
        with pytest.raises(ScoringError, match=r"row group 0 has \d+ bytes, expected at most 10: .*row_group_size=100"):
            View().read(rating.pairs[0][1])

    @pytest.mark.parametrize("path", ["a.tar/none.png", "a.parquet/7/ref", "a.parquet/0/score", "a.parquet/x/ref"])
    def test_images_that_are_not_there(self, path: str, tmp_path: Path) -> None:
        (parquet(tmp_path, "ratings") / "train-0.parquet").rename(tmp_path / "a.parquet")
        (webdataset(tmp_path, "ratings") / "train-0.tar").rename(tmp_path / "a.tar")
        with pytest.raises(ScoringError, match=f"{path}: no "):
            View().read(tmp_path / path)
