"""Images are read exactly, or refused with the name of the file; a small file never takes much memory."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from damlpips.scoring import images
from damlpips.scoring.images import ScoringError, decode_image, read_image
from damlpips.scoring.pairs import find_pairs
from tests.support.pictures import image_file, pixels


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, extra: bytes = b"", depth: int = 8) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def grey_tiff(width: int, height: int, *tags: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    common = ((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1))
    return tiff(*common, *tags, data=data)


def bmp(width: int, height: int, depth: int = 24, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(1024)


def gif(width: int, height: int, *frames: tuple[int, int, int, int]) -> bytes:
    blocks = b"".join(b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02\x02\x4c\x01\x00" for frame in frames)
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + blocks + b";"


ZEROS = bytes(1 << 26)
STRIPS = ((273, 4, 1, 8), (278, 4, 1, 1 << 30), (279, 4, 1, 100))
TILES = ((322, 4, 1, 1 << 15), (323, 4, 1, 1 << 15), (324, 4, 1, 200), (325, 4, 1, 100_000))
TEXT = zlib.compress(ZEROS, 9)
ROWS = bytes(4 * 13)

# Small files of each kind that would take a lot of memory, and their errors; None if only their metadata would.
BOMBS = {
    "size.png": (png(2**31 - 1, 2**31 - 1, b""), "too many pixels"),
    "size.gif": (gif(65535, 65535, (0, 0, 65535, 65535)), "too many pixels"),
    "frame.gif": (gif(4, 4, (0, 0, 65535, 65535)), "too many pixels"),
    "second_frame.gif": (gif(4, 4, (0, 0, 4, 4), (0, 0, 65535, 65535)), "several frames"),
    "size.bmp": (bmp(2**31 - 1, 2**31 - 1), "too many pixels"),
    "upside_down.bmp": (bmp(9000, -9000), "damaged image"),
    "run_lengths.bmp": (bmp(9000, 9000, 8, 1), "damaged image"),
    "size.tif": (grey_tiff(2**31 - 1, 2**31 - 1, *STRIPS), "too many pixels"),
    "strip.tif": (grey_tiff(100, 100, *STRIPS), "damaged image"),
    "tile.tif": (grey_tiff(64, 64, *TILES, data=bytes(200) + TEXT), "too many pixels in a tile"),
    "text_for_tile.tif": (
        grey_tiff(64, 64, (322, 2, 4, 0x41414141), (323, 4, 1, 1 << 31), *TILES[2:]),
        "damaged image .the sides of its tiles",
    ),
    "tags.tif": (grey_tiff(4, 4, (273, 4, 2**30, 8), (279, 4, 2**30, 16)), "not an image of a known kind|damaged"),
    "size.ppm": (b"P6 2147483647 2147483647 255\n", "too many pixels"),
    "digits.pgm": (b"P5 " + b"9" * 1_000_000 + b" 4 255\n", "damaged image"),
    "size.webp": (b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6, "too many pixels|known kind|damaged"),
    "size.tga": (struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65535, 65535, 24, 0), "too many pixels"),
    "text.png": (png(4, 4, ROWS, chunk(b"zTXt", b"k\0\0" + TEXT)), None),
    "international.png": (png(4, 4, ROWS, chunk(b"iTXt", b"k\0\1\0\0\0" + TEXT)), None),
    "profile.png": (png(4, 4, ROWS, chunk(b"iCCP", b"k\0\0" + TEXT)), None),
    "texts.png": (png(4, 4, ROWS, chunk(b"zTXt", b"k\0\0" + zlib.compress(ZEROS[: 1 << 20])) * 99), None),
    "other_body.png": (png(4, 4, ROWS)[:8] + b"\xff\xd8\xff\xe0" + bytes(100), "not an image of a known kind"),
}


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
        exif[0x0112] = 6  # a quarter turn: rows of the file are columns of the picture
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
        [
            ("grey.pgm", b"P5 4 4 65535\n" + bytes(32)),
            ("colour.ppm", b"P6 4 4 65535\n" + bytes(96)),
            # Pillow cannot write one, and reads it as 8 bits
            ("colour.png", png(4, 4, bytes(4 * (1 + 4 * 6)), depth=16)),
        ],
    )
    def test_sixteen_bits_are_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScoringError, match=rf"{name}: more than 8 bits .* convert it to 8 bit first"):
            read_image(tmp_path / name)

    def test_sixteen_bit_colour_keeps_its_low_byte(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 65536, (5, 4, 3), dtype=np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        (tmp_path / "a.png").write_bytes(png(4, 5, rows, depth=16))
        for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
            data = values.astype(f"{order}u2").tobytes()
            start = 8 + 2 + 12 * 9 + 4
            tags = [(256, 4), (257, 5), (258, start), (259, 1), (262, 2), (273, start + 6), (277, 3), (278, 5)]
            tags.append((279, len(data)))
            entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 3 if tag == 258 else 1, v) for tag, v in tags)
            # the three depths are short integers
            entries = entries.replace(struct.pack(f"{order}HHI", 258, 4, 3), struct.pack(f"{order}HHI", 258, 3, 3))
            depths = struct.pack(f"{order}HHH", 16, 16, 16)
            head = mark + struct.pack(f"{order}IH", 8, 9)
            (tmp_path / f"{mark[0]}.tif").write_bytes(head + entries + bytes(4) + depths + data)
        expected = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1) / 65535
        for name in ("a.png", f"{ord('I')}.tif", f"{ord('M')}.tif"):
            image = read_image(tmp_path / name, deep=True)
            assert (image.dtype, image.shape) == (torch.float32, (3, 5, 4))
            assert torch.equal(image, expected), name
            with pytest.raises(ScoringError, match="more than 8 bits a channel"):
                read_image(tmp_path / name)

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_sixteen_bit_grey_keeps_its_low_byte(self, tmp_path: Path, suffix: str) -> None:
        values = np.random.default_rng(1).integers(0, 65536, (5, 4), dtype=np.uint16)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(values).save(tmp_path / f"a.{suffix}", exif=exif)
        expected = torch.from_numpy(np.rot90(values, k=-1).astype(np.float32)).expand(3, -1, -1) / 65535
        assert torch.equal(read_image(tmp_path / f"a.{suffix}", deep=True), expected)

    def test_transparency_over_a_background(self, tmp_path: Path) -> None:
        values = np.random.default_rng(2).integers(0, 65536, (5, 4, 4), dtype=np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        content = bytearray(png(4, 5, rows, depth=16))
        content[25] = 6  # colours with alpha
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        (tmp_path / "deep.png").write_bytes(content)
        Image.fromarray((values >> 8).astype(np.uint8), "RGBA").save(tmp_path / "a.png")
        for name in ("deep.png", "a.png"):
            with pytest.raises(ScoringError, match="has transparent pixels"):
                read_image(tmp_path / name, deep=True)
        parts = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1) / 65535
        for alpha, background in (("white", 1.0), ("black", 0.0)):
            expected = parts[3:] * parts[:3] + (1 - parts[3:]) * background
            assert torch.allclose(read_image(tmp_path / "deep.png", alpha=alpha, deep=True), expected, atol=1e-6)
            rounded = read_image(tmp_path / "a.png", alpha=alpha, deep=True)
            assert rounded.dtype == torch.uint8
            assert torch.allclose(rounded / 255, expected, atol=1.5 / 255)

    def test_float_cmyk_and_animations_are_refused(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
        Image.new("CMYK", (4, 4)).save(tmp_path / "cmyk.jpg")
        frames = [Image.fromarray(pixels(k)) for k in range(2)]
        frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
        for name, message in (
            ("float.tif", "convert it to 8 bit first"),
            ("cmyk.jpg", "convert it to 8-bit RGB first"),
            ("moving.gif", "several frames or pages"),
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

    def test_a_damaged_file_is_one_where_the_program_lets_pillow_fill_it_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        whole = image_file(tmp_path / "cut.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ScoringError, match=r"cut\.png: damaged image"):
            read_image(tmp_path / "cut.png")
        assert ImageFile.LOAD_TRUNCATED_IMAGES
        with Image.open(tmp_path / "cut.png") as image:
            image.load()

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ScoringError, match=r"gone\.png: No such file"):
            read_image(tmp_path / "gone.png")
        with pytest.raises(ScoringError, match="directory"):
            read_image(tmp_path)

    @pytest.mark.parametrize("name", ["nul\0.png", "long" * 99, "lone\ud800.png"])
    def test_names_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ScoringError, match=r"not a file name|File name too long"):
            read_image(tmp_path / name)

    def test_pipes_devices_and_links(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "null.png").symlink_to(os.devnull)
        (tmp_path / "broken.png").symlink_to("nothing")
        (tmp_path / "loop.png").symlink_to("loop.png")
        for name, message in (
            ("pipe", "Not a regular file"),
            ("null", "Not a regular file"),
            ("broken", "No such file"),
            ("loop", "Too many levels"),
        ):
            with pytest.raises(ScoringError, match=rf"{name}\.png: {message}"):
                read_image(tmp_path / f"{name}.png")

    def test_the_contents_tell_the_format_and_the_suffix_does_not(self, tmp_path: Path) -> None:
        image_file(tmp_path / "a.jpg", 3).rename(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").shape == (3, 40, 48)

    def test_formats_that_run_programs_or_are_rare_are_not_read(self, tmp_path: Path) -> None:
        for name in ("a.eps", "a.jp2", "a.ico"):
            image_file(tmp_path / name).rename(tmp_path / "a.png")
            with pytest.raises(ScoringError, match=r"a\.png: not an image of a known kind \(PNG, JPEG"):
                read_image(tmp_path / "a.png")

    def test_bytes_are_read_as_their_file(self, tmp_path: Path) -> None:
        values = np.random.default_rng(3).integers(0, 65536, (5, 4, 3), dtype=np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        deep = png(4, 5, rows, depth=16)  # which is opened twice
        (tmp_path / "deep.png").write_bytes(deep)
        from_file = read_image(tmp_path / "deep.png", deep=True)
        assert from_file.dtype == torch.float32
        assert torch.equal(decode_image(deep, "x", deep=True), from_file)
        jpeg = image_file(tmp_path / "a.jpg", 1)
        assert torch.equal(decode_image(jpeg.read_bytes(), "x"), read_image(jpeg))
        for content, message in (
            (b"", "x: the file is empty"),
            (deep, "x: more than 8 bits"),
            (deep[:60], "x: damaged"),
        ):
            with pytest.raises(ScoringError, match=message):
                decode_image(content, "x", deep=len(content) == 60)

    def test_every_suffix_has_its_format(self) -> None:
        Image.init()
        for suffix in images.SUFFIXES:
            assert Image.EXTENSION.get(suffix, "JPEG") in images.FORMATS, suffix

    def test_files_that_are_too_long(self, tmp_path: Path) -> None:
        path = image_file(tmp_path / "a.webp")
        os.truncate(path, images.LARGEST_FILE + 1)  # sparse: it takes no room
        with pytest.raises(ScoringError, match=r"a\.webp: refused, a file of 536870913 bytes, more than 536870912"):
            read_image(path)

    def test_too_little_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(images, "opaque_rgb", fail)
        with pytest.raises(ScoringError, match=r"a\.png: not enough memory"):
            read_image(image_file(tmp_path / "a.png"))

    @pytest.mark.parametrize("limit", [40 * 48 - 1, 40 * 48 // 2 - 1], ids=["warning", "error"])
    def test_decompression_bombs_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        path = image_file(tmp_path / "bomb.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ScoringError, match=r"bomb\.png: refused, too many pixels"):
            read_image(path)


MEASURE = """
import resource, sys
from pathlib import Path
import PIL.Image
from damlpips.scoring.pairs import find_pairs
from damlpips.scoring.images import ScoringError, decode_image, read_image

PIL.Image.init()
for name in sys.argv[1:]:
    try:
        result = f"read {tuple(read_image(Path(name)).shape)}"
    except ScoringError as error:
        result = str(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, result, sep="|")
"""


def memory(*files: Path) -> list[tuple[int, str]]:
    """Return how many bytes each file adds to the peak of a process, and the result of reading it."""
    pytest.importorskip("resource")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, timeout=300, check=True
    )
    lines = [line.split("|", 1) for line in run.stdout.splitlines()]
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = [int(peak) * unit for peak, _ in lines]
    return [(after - before, text) for before, after, (_, text) in zip(peaks[:-1], peaks[1:], lines[1:], strict=True)]


def test_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    files = [image_file(tmp_path / "warm.png"), *(tmp_path / name for name in BOMBS)]
    for name, (content, _) in BOMBS.items():
        (tmp_path / name).write_bytes(content)
    for (name, (_, message)), (added, text) in zip(BOMBS.items(), memory(*files), strict=True):
        if message is None:
            assert text == "read (3, 4, 4)"
        else:
            assert text.startswith(f"{tmp_path / name}: "), text
            with pytest.raises(ScoringError, match=message):
                read_image(tmp_path / name)
        # far less than the 64 MB that even the smallest unpacks to
        assert added < 24 << 20, f"{name} took {added} bytes"


def test_the_largest_image_takes_bounded_memory(tmp_path: Path) -> None:
    side = 5000
    Image.new("RGBA", (side, side), (1, 2, 3, 255)).save(tmp_path / "a.png")
    ((added, text),) = memory(image_file(tmp_path / "warm.png"), tmp_path / "a.png")
    assert text == f"read (3, {side}, {side})"
    # RGBA and RGB with four bytes a pixel each; packed RGB and the tensor with three each
    assert added < 16 * side**2


class TestAllFormats:
    def test_are_read_and_found_when_they_are_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for side, seed in (("r", 1), ("d", 2)):
            (tmp_path / side).mkdir()
            for kind, options in {"jp2": {"irreversible": False}, "sgi": {}, "qoi": {}, "pcx": {}}.items():
                Image.fromarray(pixels(seed)).save(tmp_path / side / f"a_{kind}.{kind}", **options)
        file = tmp_path / "r/a_jp2.jp2"
        with pytest.raises(ScoringError, match=r"a_jp2\.jp2: not an image of .*; with DAMLPIPS_FORMATS=all"):
            read_image(file)
        with pytest.raises(ScoringError, match="no images in this folder"):
            find_pairs(tmp_path / "r", tmp_path / "d")
        monkeypatch.setenv("DAMLPIPS_FORMATS", "all")
        found = find_pairs(tmp_path / "r", tmp_path / "d")
        assert [pair.name for pair in found] == ["a_jp2.jp2", "a_pcx.pcx", "a_qoi.qoi", "a_sgi.sgi"]
        for pair in found:
            assert np.array_equal(read_image(pair.reference).permute(1, 2, 0).numpy(), pixels(1))

    def test_nothing_is_handed_to_another_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAMLPIPS_FORMATS", "all")
        Image.fromarray(pixels(1)).save(tmp_path / "a.eps")
        (tmp_path / "a.eps").rename(tmp_path / "a.png")
        with pytest.raises(ScoringError, match=r"a\.png: not an image of a known kind"):
            read_image(tmp_path / "a.png")

    def test_another_value_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAMLPIPS_FORMATS", "jp2")
        Image.fromarray(pixels(1)).save(tmp_path / "a.png")
        with pytest.raises(ScoringError, match="DAMLPIPS_FORMATS: expected 'all' or nothing, got 'jp2'"):
            read_image(tmp_path / "a.png")
