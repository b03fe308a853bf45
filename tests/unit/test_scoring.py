"""Pairs of files: found, read, scored, written."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from damlpips import DAMLPIPS, LPIPS, scoring
from damlpips.images import ScoringError, read_image
from damlpips.scoring import Pair, Score, find_pairs, score_pairs


def pixels(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Smooth colours with a little texture, different for each seed."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    noise = generator.integers(-9, 10, (height, width, 3))
    return np.clip(np.asarray(small).astype(int) + noise, 0, 255).astype(np.uint8)


def image_file(path: Path, seed: int = 0, size: tuple[int, int] = (40, 48), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, *size)).save(path, **options)
    return path


def empty_files(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.fixture(scope="module")
def model() -> DAMLPIPS:
    return DAMLPIPS()


class TestFindPairs:
    def test_two_files_are_one_pair(self, tmp_path: Path) -> None:
        a, b = (empty_files(tmp_path, "a.png", "b.jpg") / name for name in ("a.png", "b.jpg"))
        assert find_pairs(a, b) == [Pair(a, b, "b.jpg")]

    def test_two_folders_pair_by_name_in_natural_order(self, tmp_path: Path) -> None:
        names = ("b2.png", "b10.png", "B1.png", "a.jpg")
        r, d = (empty_files(tmp_path / side, *names) for side in "rd")
        ordered = ["a.jpg", "B1.png", "b2.png", "b10.png"]
        assert find_pairs(r, d) == [Pair(r / n, d / n, n) for n in ordered]

    def test_folders_fall_back_to_the_stem(self, tmp_path: Path) -> None:
        r, d = empty_files(tmp_path / "r", "a.png", "b.png"), empty_files(tmp_path / "d", "a.jpg", "b.png")
        assert find_pairs(r, d) == [Pair(r / "a.png", d / "a.jpg", "a.jpg"), Pair(r / "b.png", d / "b.png", "b.png")]

    def test_a_stem_that_occurs_twice_pairs_nothing(self, tmp_path: Path) -> None:
        r, d = empty_files(tmp_path / "r", "a.png"), empty_files(tmp_path / "d", "a.jpg", "a.webp")
        with pytest.raises(ScoringError, match=r"a\.jpg: no image of this name.*\(2 images"):
            find_pairs(r, d)

    def test_one_reference_against_a_folder(self, tmp_path: Path) -> None:
        reference = empty_files(tmp_path, "ref.png") / "ref.png"
        folder = empty_files(tmp_path / "d", "q10.jpg", "q9.JPG", "notes.txt", ".hidden.png")
        (folder / "deeper.png").mkdir()
        assert [p.name for p in find_pairs(reference, folder)] == ["q9.JPG", "q10.jpg"]
        assert {p.reference for p in find_pairs(reference, folder)} == {reference}

    @pytest.mark.parametrize(
        ("references", "distorted", "message"),
        [
            (("a.png", "b.png", "c.png"), ("a.png",), r"r/b\.png: .* in .*d \(2 images of .*r have none\)"),
            (("a.png",), ("a.png", "z.png"), r"d/z\.png: no image of this name, or the only one of its stem, in .*r$"),
        ],
    )
    def test_images_without_a_partner(
        self, tmp_path: Path, references: tuple[str, ...], distorted: tuple[str, ...], message: str
    ) -> None:
        with pytest.raises(ScoringError, match=message):
            find_pairs(empty_files(tmp_path / "r", *references), empty_files(tmp_path / "d", *distorted))

    def test_paths_that_do_not_exist(self, tmp_path: Path) -> None:
        there = empty_files(tmp_path, "a.png") / "a.png"
        with pytest.raises(ScoringError, match=r"reference '.*gone\.png': no such file"):
            find_pairs(tmp_path / "gone.png", there)
        with pytest.raises(ScoringError, match=r"distorted '.*gone': no such file"):
            find_pairs(there, tmp_path / "gone")

    def test_a_folder_without_images(self, tmp_path: Path) -> None:
        folder = empty_files(tmp_path / "d", "notes.txt")
        with pytest.raises(ScoringError, match="d: no images in this folder"):
            find_pairs(empty_files(tmp_path, "a.png") / "a.png", folder)

    def test_a_folder_against_a_file(self, tmp_path: Path) -> None:
        folder = empty_files(tmp_path / "d", "a.png")
        with pytest.raises(ScoringError, match=r"is a folder, distorted .* a file"):
            find_pairs(folder, folder / "a.png")


class TestReadImage:
    def test_rgb_comes_as_it_is(self, tmp_path: Path) -> None:
        image = read_image(image_file(tmp_path / "a.png", 3))
        assert image.dtype == torch.uint8
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels(3))

    @pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
    def test_other_modes_become_rgb(self, tmp_path: Path, mode: str) -> None:
        image = Image.fromarray(pixels(1)).convert(mode)
        image.save(tmp_path / "a.png")
        expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), expected)

    def test_exif_orientation_is_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter: rows of the file are columns of the picture
        path = image_file(tmp_path / "a.png", 2, exif=exif)
        turned = np.rot90(pixels(2), k=-1)
        assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), turned)

    def test_an_opaque_palette_colour_marked_transparent_but_unused(self, tmp_path: Path) -> None:
        image = Image.fromarray(pixels(1) // 2).quantize(16)
        image.save(tmp_path / "a.png", transparency=200)
        assert read_image(tmp_path / "a.png").shape == (3, 40, 48)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_transparency_is_refused(self, tmp_path: Path, mode: str) -> None:
        image = Image.fromarray(pixels(1)).convert(mode)
        if mode == "P":
            image.save(tmp_path / "a.png", transparency=int(np.asarray(image)[0, 0]))
        else:
            image.putpixel((5, 7), (*image.getpixel((5, 7))[:-1], 254))
            image.save(tmp_path / "a.png")
        with pytest.raises(ScoringError, match=r"a\.png: has transparent pixels: flatten"):
            read_image(tmp_path / "a.png")

    @pytest.mark.parametrize(
        ("name", "content"),
        [("grey.pgm", b"P5 4 4 65535\n" + bytes(32)), ("colour.ppm", b"P6 4 4 65535\n" + bytes(96))],
    )
    def test_sixteen_bit_netpbm_is_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScoringError, match=rf"{name}: more than 8 bits .* convert it to 8 bit first"):
            read_image(tmp_path / name)

    def test_sixteen_bit_colour_png_is_refused(self, tmp_path: Path) -> None:
        # Pillow cannot write one, and reads it as 8 bits
        import struct
        import zlib

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
        rows = zlib.compress(bytes(4 * (1 + 4 * 6)))
        (tmp_path / "a.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        )
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == "RGB"
        with pytest.raises(ScoringError, match="more than 8 bits a channel"):
            read_image(tmp_path / "a.png")

    def test_float_cmyk_and_animations_are_refused(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
        Image.new("CMYK", (4, 4)).save(tmp_path / "cmyk.jpg")
        frames = [Image.fromarray(pixels(k)) for k in range(2)]
        frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
        for name, message in (
            ("float.tif", "convert it to 8 bit first"),
            ("cmyk.jpg", "convert it to 8-bit RGB first"),
            ("moving.gif", "2 frames"),
        ):
            with pytest.raises(ScoringError, match=rf"{name}: .*{message}"):
                read_image(tmp_path / name)

    @pytest.mark.parametrize(
        ("cut", "message"), [(0, "the file is empty"), (10, "not an image"), (700, "damaged image")]
    )
    @pytest.mark.filterwarnings("error")
    def test_damaged_files_name_themselves(self, tmp_path: Path, cut: int, message: str) -> None:
        whole = image_file(tmp_path / "whole.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[:cut])
        with pytest.raises(ScoringError, match=rf"cut\.png: {message}"):
            read_image(tmp_path / "cut.png")

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ScoringError, match=r"gone\.png: No such file"):
            read_image(tmp_path / "gone.png")
        with pytest.raises(ScoringError, match="directory"):
            read_image(tmp_path)

    @pytest.mark.parametrize("limit", [40 * 48 - 1, 40 * 48 // 2 - 1], ids=["warning", "error"])
    def test_decompression_bombs_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        path = image_file(tmp_path / "bomb.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ScoringError, match=r"bomb\.png: refused, too many pixels"):
            read_image(path)


def direct(model: torch.nn.Module, reference: Path, distorted: Path) -> float:
    """The score of two files, without any of this module's batching."""
    x, y = (torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1)[None] for p in (distorted, reference))
    with torch.no_grad():
        return model(x, y).item()


def folders(tmp_path: Path, sizes: list[tuple[int, int]]) -> tuple[Path, Path]:
    for k, size in enumerate(sizes):
        image_file(tmp_path / f"r/{k}.png", k, size)
        image_file(tmp_path / f"d/{k}.png", k + 100, size)
    return tmp_path / "r", tmp_path / "d"


class TestScorePairs:
    SIZES = (*[(40, 48)] * 3, *[(36, 50)] * 2, (40, 48), (64, 33))

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
    def test_folders_score_as_their_pairs_do(self, tmp_path: Path, model: DAMLPIPS, batch_size: int) -> None:
        pairs = find_pairs(*folders(tmp_path, list(self.SIZES)))
        scores = list(score_pairs(model, pairs, batch_size=batch_size))
        assert [s.pair for s in scores] == pairs
        expected = [direct(model, p.reference, p.distorted) for p in pairs]
        assert min(expected) > 0.1
        assert [s.score for s in scores] == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("batch_size", [1, 2, 100])
    def test_one_reference_scores_as_its_pairs_do(self, tmp_path: Path, model: DAMLPIPS, batch_size: int) -> None:
        reference = image_file(tmp_path / "r.png", 0)
        for k in range(5):
            image_file(tmp_path / f"d/{k}.png", k)
        pairs = find_pairs(reference, tmp_path / "d")
        scores = [s.score for s in score_pairs(model, pairs, batch_size=batch_size)]
        assert scores == pytest.approx([direct(model, reference, p.distorted) for p in pairs], rel=1e-5, abs=1e-6)
        assert scores[0] == pytest.approx(0, abs=1e-6)
        assert min(scores[1:]) > 0.1

    def test_mixed_runs_keep_their_order(self, tmp_path: Path, model: DAMLPIPS) -> None:
        a, b, c = (image_file(tmp_path / f"{k}.png", k) for k in range(3))
        pairs = [Pair(r, d, "") for r, d in [(a, b), (b, a), (b, c), (c, a), (a, c), (a, a)]]
        scores = list(score_pairs(model, pairs, batch_size=4))
        assert [s.pair for s in scores] == pairs
        expected = [direct(model, p.reference, p.distorted) for p in pairs]
        assert [s.score for s in scores] == pytest.approx(expected, rel=1e-5, abs=1e-6)

    def test_a_shared_reference_is_read_and_encoded_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reads: list[Path] = []
        encoded: list[int] = []

        class Counting(DAMLPIPS):
            def _encoded(self, x):  # type: ignore[no-untyped-def]
                if isinstance(x, torch.Tensor):
                    encoded.append(x.shape[0])
                return super()._encoded(x)

        monkeypatch.setattr(scoring, "read_image", lambda path: reads.append(path) or read_image(path))
        reference = image_file(tmp_path / "r.png", 0)
        for k in range(5):
            image_file(tmp_path / f"d/{k}.png", k)
        assert len(list(score_pairs(Counting(), find_pairs(reference, tmp_path / "d"), batch_size=2))) == 5
        assert reads.count(reference) == 1
        assert len(reads) == 6
        assert sorted(encoded) == [1, 1, 2, 2]  # the reference; batches of 2, 2 and 1 distorted images

    def test_scores_come_before_later_images_are_read(self, tmp_path: Path, model: DAMLPIPS) -> None:
        r, d = folders(tmp_path, [(40, 48)] * 4)
        (d / "3.png").write_bytes(b"")
        stream = score_pairs(model, find_pairs(r, d), batch_size=2)
        assert [next(stream).pair.name for _ in range(2)] == ["0.png", "1.png"]
        with pytest.raises(ScoringError, match=r"3\.png: the file is empty"):
            next(stream)

    @pytest.mark.parametrize("several", [False, True])
    def test_different_sizes_name_the_file(self, tmp_path: Path, model: DAMLPIPS, several: bool) -> None:
        reference = image_file(tmp_path / "r.png", 0)
        image_file(tmp_path / "d/a.png", 1, (20, 48))
        if several:
            image_file(tmp_path / "d/b.png", 1)
        with pytest.raises(ScoringError, match=r"a\.png: the two images must have one size, got 20 x 48 and 40 x 48"):
            list(score_pairs(model, find_pairs(reference, tmp_path / "d")))

    def test_resize_to_a_shared_reference(self, tmp_path: Path) -> None:
        model = DAMLPIPS(resize="reference")
        reference = image_file(tmp_path / "r.png", 0)
        for k, size in enumerate([(40, 48), (20, 48), (80, 96)]):
            image_file(tmp_path / f"d/{k}.png", k + 1, size)
        pairs = find_pairs(reference, tmp_path / "d")
        scores = [s.score for s in score_pairs(model, pairs)]
        assert scores == pytest.approx([direct(model, reference, p.distorted) for p in pairs], rel=1e-5)

    def test_images_too_small_for_the_backbone(self, tmp_path: Path) -> None:
        model = DAMLPIPS(_backbone_of_min_size(60))
        pairs = find_pairs(*folders(tmp_path, [(40, 48)]))
        with pytest.raises(ScoringError, match=r"d/0\.png: .*needs at least 60 x 60 pixels, got 40 x 48"):
            list(score_pairs(model, pairs))

    def test_lpips_scores_too(self, tmp_path: Path) -> None:
        model = LPIPS("gabor", heads="uniform")
        pairs = find_pairs(*folders(tmp_path, [(40, 48)] * 2))
        scores = [s.score for s in score_pairs(model, pairs)]
        assert scores == pytest.approx([direct(model, p.reference, p.distorted) for p in pairs], rel=1e-5)

    def test_gradients_stay_possible_for_the_consumer(self, tmp_path: Path) -> None:
        for _ in score_pairs(DAMLPIPS(), find_pairs(*folders(tmp_path, [(40, 48)]))):
            assert torch.is_grad_enabled()

    def test_a_score_that_is_not_finite_is_an_error(self, tmp_path: Path) -> None:
        class Broken(DAMLPIPS):
            def forward(self, x, y):  # type: ignore[no-untyped-def]
                return super().forward(x, y) * float("nan")

        with pytest.raises(ScoringError, match=r"0\.png: its score is nan"):
            list(score_pairs(Broken(), find_pairs(*folders(tmp_path, [(40, 48)]))))

    def test_options_are_checked_at_once(self, model: DAMLPIPS) -> None:
        with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
            score_pairs(model, [], batch_size=0)
        with pytest.raises(ValueError, match="expected reduction='none', a score a pair, got 'mean'"):
            score_pairs(DAMLPIPS(reduction="mean"), [])

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_on_cuda(self, tmp_path: Path, model: DAMLPIPS) -> None:
        pairs = find_pairs(*folders(tmp_path, [(40, 48)] * 3))
        scores = [s.score for s in score_pairs(DAMLPIPS().to("cuda"), pairs, device="cuda")]
        assert scores == pytest.approx([direct(model, p.reference, p.distorted) for p in pairs], rel=1e-3)


def _backbone_of_min_size(size: int):  # type: ignore[no-untyped-def]
    from damlpips import Backbone

    return Backbone(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), taps=["0"], min_size=size)


class TestTables:
    SCORES = (
        Score(Pair(Path("r/a, b.png"), Path("d/ü.png"), "ü.png"), 0.1),
        Score(Pair(Path("r/c.png"), Path("d/c.png"), "c.png"), 1 / 3),
    )

    def test_csv(self) -> None:
        assert scoring.as_csv(self.SCORES, metric="damlpips", backbone="gabor") == (
            "reference,distorted,score,metric,backbone\n"
            '"r/a, b.png",d/ü.png,0.1,damlpips,gabor\n'
            "r/c.png,d/c.png,0.3333333333333333,damlpips,gabor\n"
        )

    def test_json(self) -> None:
        from damlpips import __version__

        assert json.loads(scoring.as_json(self.SCORES, metric="lpips", backbone="alex")) == {
            "metric": "lpips",
            "backbone": "alex",
            "version": __version__,
            "mean": pytest.approx((0.1 + 1 / 3) / 2),
            "pairs": [
                {"reference": "r/a, b.png", "distorted": "d/ü.png", "score": 0.1},
                {"reference": "r/c.png", "distorted": "d/c.png", "score": 1 / 3},
            ],
        }


class TestWriteWhole:
    def test_replaces_what_was_there_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("old and longer")
        scoring.write_whole(tmp_path / "t.csv", "new\n")
        assert (tmp_path / "t.csv").read_bytes() == b"new\n"
        assert os.listdir(tmp_path) == ["t.csv"]

    def test_a_failure_keeps_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "t.csv").write_text("old")

        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="No space left"):
            scoring.write_whole(tmp_path / "t.csv", "new")
        assert (tmp_path / "t.csv").read_text() == "old"
        assert os.listdir(tmp_path) == ["t.csv"]

    def test_the_new_file_has_the_usual_permissions(self, tmp_path: Path) -> None:
        (tmp_path / "usual").touch()
        scoring.write_whole(tmp_path / "t.csv", "x")
        assert (tmp_path / "t.csv").stat().st_mode == (tmp_path / "usual").stat().st_mode

    @pytest.mark.skipif(os.name != "posix", reason="links and devices")
    def test_links_are_followed_and_devices_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("old")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        scoring.write_whole(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_text() == "new"
        scoring.write_whole(Path(os.devnull), "x")
        assert Path(os.devnull).is_char_device()


def test_natural_order() -> None:
    names = ["1.png", "2.png", "10.png", "a.png", "a1b2.png", "a1b10.png", "q8.jpg", "q30.jpg"]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=lambda n: scoring._natural(Path(n))) == names
