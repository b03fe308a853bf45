"""What is around the pixels: orientation, limits, metadata that cannot be read, and PyTorch's defaults."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from damlpips import DAMLPIPS
from damlpips.scoring import images
from damlpips.scoring.images import ScoringError, decode_image, read_image
from damlpips.scoring.pairs import Pair
from damlpips.scoring.reading import FileWarning, Reading
from damlpips.scoring.scorer import score_pairs
from tests.support.pictures import pixels
from tests.support.profiles import png

VALUES = pixels(1, 12, 20)
TAG = 0x0112


def encoded(kind: str, values: np.ndarray = VALUES, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def read(content: bytes, **options: object) -> np.ndarray:
    return decode_image(content, "x", deep=True, **options).permute(1, 2, 0).numpy()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[TAG] = orientation
    return exif


DEEP = VALUES.astype(np.uint16) * 257


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF deflate", "WEBP", "deep PNG", "deep TIFF"])
    def test_is_applied_or_ignored(self, kind: str, orientation: int) -> None:
        exif = turned(orientation)
        if kind == "deep PNG":
            content = png(DEEP, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
        elif kind == "deep TIFF":
            content = encoded("TIFF", DEEP[..., 0], exif=exif)
        else:
            more = {"WEBP": {"lossless": True}, "TIFF deflate": {"compression": "tiff_adobe_deflate"}}
            content = encoded(kind.split()[0], exif=exif, **more.get(kind, {}))
        grey = (slice(None), slice(None), [0, 0, 0]) if kind == "deep TIFF" else ...
        stored = VALUES[grey] / np.float32(255) if kind.startswith("deep") else VALUES
        # as Exif defines it: where the first row and column of the file are shown
        shown = {
            1: stored,
            2: stored[:, ::-1],
            3: stored[::-1, ::-1],
            4: stored[::-1],
            5: stored.transpose(1, 0, 2),
            6: stored.transpose(1, 0, 2)[:, ::-1],
            7: stored.transpose(1, 0, 2)[::-1, ::-1],
            8: stored.transpose(1, 0, 2)[::-1],
        }[orientation]
        assert np.allclose(read(content), shown, atol=1e-6)
        assert np.allclose(read(content, orientation="ignore"), stored, atol=1e-6)

    @pytest.mark.parametrize("size", [(12, 20), (16, 16)], ids=["oblong", "square"])
    @pytest.mark.parametrize("which", [0, 1])
    def test_that_only_one_image_has(self, tmp_path: Path, size: tuple[int, int], which: int) -> None:
        files = [tmp_path / "r.png", tmp_path / "d.png"]
        for k, file in enumerate(files):
            Image.fromarray(pixels(1, *size)).save(file, **({"exif": turned(6)} if k == which else {}))
        pair, model = Pair(*files, "d"), DAMLPIPS()
        remark = rf"{files[which]} is rotated by its Exif orientation 6 and {files[1 - which]} is not: use orientation="
        if size[0] == size[1]:
            with pytest.warns(FileWarning, match=remark):
                (score,) = score_pairs(model, [pair])
            assert score.score > 0.1
        else:
            with pytest.raises(ScoringError, match=f"the two images must have one size.*{remark}"):
                list(score_pairs(model, [pair]))
            with pytest.warns(FileWarning, match=remark):
                list(score_pairs(DAMLPIPS(resize="reference"), [pair]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (score,) = score_pairs(model, [pair], orientation="ignore")
        assert score.score == pytest.approx(0, abs=1e-6)

    def test_that_both_images_have_is_not_remarked(self, tmp_path: Path) -> None:
        for name in "rd":
            Image.fromarray(VALUES).save(tmp_path / f"{name}.png", exif=turned(6))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (score,) = score_pairs(DAMLPIPS(), [Pair(tmp_path / "r.png", tmp_path / "d.png", "")])
        assert score.score == pytest.approx(0, abs=1e-6)

    def test_of_folders_of_frames(self, tmp_path: Path) -> None:
        for side in "rd":
            (tmp_path / side).mkdir()
            for k in range(2):
                more = {"exif": turned(3)} if side == "d" else {}
                Image.fromarray(pixels(k)).save(tmp_path / side / f"{k}.png", **more)
        pair = Pair(tmp_path / "r", tmp_path / "d", "d", video=True)
        with pytest.warns(FileWarning, match="d is rotated by its Exif orientation 3 and .*r is not"):
            list(score_pairs(DAMLPIPS(), [pair]))
        (score,) = score_pairs(DAMLPIPS(), [pair], orientation="ignore")
        assert score.score == pytest.approx(0, abs=1e-6)


class TestMostPixels:
    @pytest.mark.parametrize(
        "content", [encoded("PNG"), png(DEEP), encoded("TIFF", DEEP[..., 0])], ids=["8", "16", "tiff"]
    )
    def test_may_be_raised_and_lowered(self, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
        for limit in (VALUES[..., 0].size - 1, 10):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(ScoringError, match=r"refused, too many pixels.*: use max_pixels=N"):
                read(content)
            assert read(content, max_pixels=VALUES[..., 0].size).shape == VALUES.shape
            assert limit == Image.MAX_IMAGE_PIXELS
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)
        with pytest.raises(ScoringError, match="refused, too many pixels"):
            read(content, max_pixels=VALUES[..., 0].size - 1)

    def test_allows_longer_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "LARGEST_FILE", 100)
        with pytest.raises(ScoringError, match=r"refused, a file of .* more than 100: use max_pixels=N"):
            read(encoded("PNG"))
        assert read(encoded("PNG"), max_pixels=1 << 20).shape == VALUES.shape


TEXT = zlib.compress(bytes(5 << 20))
OPTIONAL = {
    "text": (b"zTXt", b"key\0\0" + TEXT),
    "international text": (b"iTXt", b"key\0\1\0\0\0" + TEXT),
    "text without an end": (b"tEXt", b"key"),
    "text that is no zlib": (b"zTXt", b"key\0\0nonsense"),
    "short pHYs": (b"pHYs", b"\0"),
    "short gAMA": (b"gAMA", b"\0"),
    "short sRGB": (b"sRGB", b""),
    "short cHRM": (b"cHRM", b"\0\0"),
    "short iCCP": (b"iCCP", b"name"),
    "profile that is no zlib": (b"iCCP", b"name\0\0nonsense"),
    "large profile": (b"iCCP", b"name\0\0" + TEXT),
    "Exif that is none": (b"eXIf", b"nonsense"),
    "empty Exif": (b"eXIf", b""),
}


class TestMetadata:
    @pytest.mark.filterwarnings("ignore::damlpips.scoring.reading.FileWarning")
    @pytest.mark.parametrize("name", OPTIONAL)
    @pytest.mark.parametrize("values", [VALUES, DEEP], ids=["8", "16"])
    def test_of_a_png_that_cannot_be_read(self, name: str, values: np.ndarray) -> None:
        expected = read(png(values))
        assert np.array_equal(read(png(values, OPTIONAL[name])), expected)
        assert np.array_equal(read(png(values, after=[OPTIONAL[name]])), expected)

    def test_is_a_note(self) -> None:
        with pytest.warns(FileWarning, match="x: some of its metadata cannot be read; its pixels can"):
            read(png(VALUES, OPTIONAL["text"]))
        with pytest.warns(FileWarning, match="x: its Exif cannot be read .*: its pixels are taken as they are stored"):
            read(encoded("PNG", exif=b"Exif\0\0nonsense"))

    @pytest.mark.filterwarnings("ignore::damlpips.scoring.reading.FileWarning")
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
    @pytest.mark.parametrize(
        "exif",
        [b"Exif\0\0nonsense", b"Exif\0\0II*\0" + b"\xff" * 40, b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1"],
        ids=["nonsense", "directory beyond the end", "cut off"],
    )
    def test_exif_that_cannot_be_read(self, kind: str, exif: bytes) -> None:
        if kind == "TIFF":
            pytest.skip("Pillow writes no Exif into a TIFF that it cannot read")
        content = encoded(kind, exif=exif)
        assert np.array_equal(read(content), read(encoded(kind)))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "TGA", "PPM"])
    def test_bytes_behind_the_end(self, kind: str) -> None:
        content = encoded(kind)
        for more in (b"\0", b"junk" * 999, content):
            assert np.array_equal(read(content + more), read(content)), more[:4]

    @pytest.mark.filterwarnings("ignore::damlpips.scoring.reading.FileWarning")
    @pytest.mark.parametrize("cut", [1, 4, 8, 11, 12, 20])
    def test_a_png_without_its_end(self, cut: int) -> None:
        content = png(VALUES, after=[(b"tEXt", b"key\0some text")])
        assert np.array_equal(read(content[:-cut]), VALUES)

    @pytest.mark.filterwarnings("ignore::damlpips.scoring.reading.FileWarning")
    @pytest.mark.parametrize("cut", [1, 5, 30])
    def test_a_webp_whose_exif_was_cut_off(self, cut: int) -> None:
        whole = encoded("WEBP", lossless=True, exif=b"Exif\0\0II*\0" + bytes(100))
        assert np.array_equal(read(whole[:-cut]), VALUES)

    @pytest.mark.parametrize("cut", [1, 2, 9])
    @pytest.mark.parametrize("fill", [b"", b"\0" * 99], ids=["", "noise"])
    def test_a_baseline_jpeg_without_its_end(self, cut: int, fill: bytes) -> None:
        content = encoded("JPEG", quality=95)
        if cut <= 2 and not fill:
            with pytest.warns(FileWarning, match="x: some of its metadata cannot be read"):
                assert np.array_equal(read(content[:-cut]), read(content))
        else:
            with pytest.raises(ScoringError, match="x: damaged image"):
                read(content[:-9])

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
    def test_damaged_pixels_stay_an_error(self, kind: str) -> None:
        content = encoded(kind, pixels(3, 64, 64))
        with pytest.raises(ScoringError, match=r"x: (damaged image|not an image)"):
            read(content[: len(content) // 2])

    @pytest.mark.parametrize("values", [VALUES, DEEP], ids=["8", "16"])
    def test_damaged_pixels_of_a_png_with_exif(self, values: np.ndarray) -> None:
        content = bytearray(png(values, OPTIONAL["short pHYs"]))
        at = content.index(b"IDAT")
        (length,) = struct.unpack(">I", content[at - 4 : at])
        content[at + 4 + length // 2] ^= 0xFF
        with pytest.raises(ScoringError, match="x: damaged image"):
            read(bytes(content))


class TestDefaults:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_of_pytorch_change_nothing(self, dtype: torch.dtype, device: str) -> None:
        contents = [
            *(encoded(kind) for kind in ("PNG", "JPEG", "TIFF")),
            *(png(values, (b"gAMA", struct.pack(">I", 100_000))) for values in (VALUES, DEEP)),
            encoded("TIFF", DEEP[..., 0]),
        ]
        before = [decode_image(content, "x", deep=True) for content in contents]
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        try:
            after = [decode_image(content, "x", deep=True) for content in contents]
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)
        for one, other in zip(before, after, strict=True):
            assert (other.dtype, other.device.type) == (one.dtype, "cpu")
            assert torch.equal(one, other)

    def test_of_pytorch_change_no_score(self, tmp_path: Path) -> None:
        for k, side in enumerate("rd"):
            (tmp_path / side).mkdir()
            (tmp_path / f"{side}/a.png").write_bytes(png(pixels(k)))
            (tmp_path / f"{side}/b.png").write_bytes(png(pixels(k).astype(np.uint16) * 257))
        # an image of 8 bits beside one of 16, two of 8, and two folders of frames
        pairs = [
            Pair(tmp_path / "r/a.png", tmp_path / "d/b.png", ""),
            Pair(tmp_path / "r/a.png", tmp_path / "d/a.png", ""),
            Pair(tmp_path / "r", tmp_path / "d", "", video=True),
        ]
        model = DAMLPIPS()
        before = [score.score for score in score_pairs(model, pairs)]
        torch.set_default_dtype(torch.float16)
        torch.set_default_device("meta")
        try:
            assert [score.score for score in score_pairs(model, pairs)] == before
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)


MODES = {
    "1": (lambda image: image.convert("1"), {}),
    "L": (lambda image: image.convert("L"), {}),
    "P": (lambda image: image.quantize(64), {}),
    "P of 4 bits": (lambda image: image.quantize(16), {"bits": 4}),
    "LA": (lambda image: image.convert("LA"), {}),
    "RGBA": (lambda image: image.convert("RGBA"), {}),
    "P with an unused transparent colour": (lambda image: image.quantize(64), {"transparency": 200}),
}


class TestModes:
    @pytest.mark.parametrize("name", MODES)
    def test_become_rgb(self, name: str) -> None:
        convert, options = MODES[name]
        image, file = convert(Image.fromarray(VALUES)), io.BytesIO()
        image.save(file, "PNG", **options)
        assert np.array_equal(read(file.getvalue()), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
    def test_with_transparent_pixels(self, kind: str) -> None:
        image = Image.fromarray(VALUES).quantize(64) if kind == "GIF" else Image.fromarray(VALUES).convert("RGBA")
        options: dict[str, object] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        if kind == "GIF":
            options["transparency"] = int(np.asarray(image)[0, 0])
        else:
            image.putpixel((0, 0), (9, 9, 9, 0))
        file = io.BytesIO()
        image.save(file, kind, **options)
        with pytest.raises(ScoringError, match="x: has transparent pixels: flatten it over a background first"):
            read(file.getvalue())
        for alpha, value in (("white", 255), ("black", 0)):
            assert read(file.getvalue(), alpha=alpha)[0, 0].tolist() == [value] * 3

    @pytest.mark.parametrize(
        ("bits", "masks"),
        [(16, (0xF800, 0x7E0, 0x1F)), (16, (0x7C00, 0x3E0, 0x1F)), (32, (0xFF0000, 0xFF00, 0xFF))],
        ids=["5-6-5", "5-5-5", "8-8-8"],
    )
    def test_bit_fields_of_bmp(self, bits: int, masks: tuple[int, ...]) -> None:
        sizes = [bin(mask).count("1") for mask in masks]
        levels = [VALUES[..., k].astype(np.uint32) >> (8 - size) for k, size in enumerate(sizes)]
        word = sum(level << (mask & -mask).bit_length() - 1 for level, mask in zip(levels, masks, strict=True))
        rows = word[::-1].astype(f"<u{bits // 8}").tobytes()
        head = struct.pack("<IiiHHIIiiII", 40, 20, 12, 1, bits, 3, len(rows), 0, 0, 0, 0) + struct.pack("<3I", *masks)
        content = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows
        expected = np.stack([level / (2**size - 1) for level, size in zip(levels, sizes, strict=True)], -1)
        assert np.abs(read(content) / 255 - expected).max() < 1.1 / 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": "grey"}, "alpha: expected one of error, white, black, got 'grey'"),
        ({"colour": "x"}, "colour: expected one of convert, ignore, got 'x'"),
        ({"orientation": None}, "orientation: expected one of apply, ignore, got None"),
        ({"max_pixels": 0}, "max_pixels: expected at least 1, got 0"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, object], message: str, tmp_path: Path) -> None:
    for read in (lambda: Reading(**options), lambda: read_image(tmp_path / "a.png", **options)):
        with pytest.raises(ValueError, match=message):
            read()
