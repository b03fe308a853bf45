"""Whatever a file holds, reading it as an image gives pixels or the one documented error."""

import io
import struct
import zlib
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from damlpips.scoring.images import ScoringError, read_image
from tests.support.mutations import memory_within, mutated, mutated_once, numbers, or_message
from tests.support.pictures import avif
from tests.support.profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    gamma_curve,
    grey_profile,
    iccp,
    png,
    rgb_profile,
    table_profile,
)

# fourteen bytes a pixel of the largest image that is read: more are taken once its pixels are known to be there
MOST_MEMORY = 1300

# what is wrong with metadata is a remark, of which the files here have many
pytestmark = pytest.mark.filterwarnings("ignore::damlpips.scoring.reading.FileWarning")


def encoded(kind: str, mode: str = "RGB", values: np.ndarray | None = None, **options: object) -> bytes:
    y, x, c = np.mgrid[:14, :18, :3]
    colours = Image.fromarray((x * 13 + y * 7 + c * 50).astype(np.uint8))
    pixels = colours.convert(mode) if values is None else Image.fromarray(values)
    file = io.BytesIO()
    pixels.save(file, kind, **options)
    return file.getvalue()


def deep(channels: int) -> np.ndarray:
    y, x, c = np.mgrid[:14, :18, :channels]
    return (x * 3333 + y * 1777 + c * 12345).astype(np.uint16)


def planes(values: np.ndarray) -> bytes:
    """Return a TIFF of 16 bits whose planes follow each other, each deflated with differences between neighbours."""
    height, width, count = values.shape
    parts = [zlib.compress(np.diff(values[..., k], prepend=0).astype("<u2").tobytes()) for k in range(count)]
    at, offsets, body = 8, [], b""
    for part in parts:
        offsets.append(at + len(body))
        body += part + bytes(len(part) % 2)
    arrays = at + len(body)
    more = struct.pack(f"<{3 * count}I", *offsets, *map(len, parts), *[16] * count)
    tags = {256: width, 257: height, 259: 8, 262: 2, 277: count, 278: height, 284: 2, 317: 2}
    entries = {tag: (4, 1, value) for tag, value in tags.items()}
    entries |= {tag: (4, count, arrays + 4 * count * k) for k, tag in enumerate((273, 279, 258))}
    directory = b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries)) + bytes(4)
    head = b"II*\0" + struct.pack("<I", arrays + len(more))
    return head + body + more + struct.pack("<H", len(entries)) + directory


@cache
def avif_of_ten_bits() -> bytes:
    values = np.repeat(deep(1) >> 6, 5, 0).repeat(4, 1)[:64, :64, 0]
    return avif("yuv420p10le", values)


EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010E] = "a description"

FILES = {
    "png": lambda: encoded("PNG", exif=EXIF, icc_profile=b"profile" * 9),
    "png palette": lambda: encoded("PNG", "P", transparency=200),
    "png alpha": lambda: encoded("PNG", "RGBA"),
    "png 1 bit": lambda: encoded("PNG", "1"),
    "jpeg": lambda: encoded("JPEG", exif=EXIF, icc_profile=b"profile" * 9),
    "jpeg progressive": lambda: encoded("JPEG", progressive=True),
    "jpeg grey": lambda: encoded("JPEG", "L"),
    "webp": lambda: encoded("WEBP", exif=EXIF),
    "webp lossless": lambda: encoded("WEBP", "RGBA", lossless=True),
    "gif": lambda: encoded("GIF", "P", comment=b"comment"),
    "bmp": lambda: encoded("BMP"),
    "bmp palette": lambda: encoded("BMP", "P"),
    "tiff": lambda: encoded("TIFF", exif=EXIF),
    "tiff lzw": lambda: encoded("TIFF", compression="tiff_lzw"),
    "tiff deflate": lambda: encoded("TIFF", "L", compression="tiff_adobe_deflate"),
    "tiff jpeg": lambda: encoded("TIFF", compression="jpeg"),
    "tiff 1 bit": lambda: encoded("TIFF", "1", compression="group4"),
    "ppm": lambda: encoded("PPM"),
    "pgm": lambda: encoded("PPM", "L"),
    "tga": lambda: encoded("TGA", "RGB", rle=True),
    **({"avif": lambda: encoded("AVIF"), "avif 10": avif_of_ten_bits} if features.check("avif") else {}),
    "png profile": lambda: encoded("PNG", icc_profile=rgb_profile(DISPLAY_P3)),
    "png numbers": lambda: png(deep(3).astype(np.uint8), (b"cICP", b"\x0c\x0d\0\1"), (b"gAMA", b"\0\1\x86\xa0")),
    "png 16": lambda: png(deep(3), iccp(rgb_profile(ADOBE_RGB, gamma_curve(2.2)))),
    "png 16 grey and opacity": lambda: png(deep(2) | np.array([0, 65535], np.uint16), iccp(grey_profile(2.2))),
    "jpeg profile": lambda: encoded("JPEG", icc_profile=rgb_profile(DISPLAY_P3)),
    "jpeg cmyk": lambda: encoded("JPEG", "CMYK", icc_profile=table_profile(b"CMYK", 4)),
    "tiff 16": lambda: encoded("TIFF", values=deep(1)[..., 0], compression="tiff_lzw"),
    "tiff 16 planes": lambda: planes(deep(3)),
    "ppm 16": lambda: b"P6 18 14 65535\n" + deep(3).astype(">u2").tobytes(),
    "pgm 16 text": lambda: b"P2 18 14 65535\n" + " ".join(map(str, deep(1).ravel())).encode(),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "image.bin"


def check(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with memory_within(MOST_MEMORY):
        image = or_message(ScoringError, partial(read_image, deep=True), file)
    if isinstance(image, str):
        assert image.startswith(f"{file}: ")
        return
    assert (image.device.type, image.ndim) == ("cpu", 3)
    if image.dtype != torch.uint8:
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
    assert image.shape[0] == 3
    assert min(image.shape) > 0
    assert image.is_contiguous()
    assert image.numel() <= 3 * (Image.MAX_IMAGE_PIXELS or 0)


@pytest.mark.parametrize("kind", FILES)
def test_the_files_are_images(file: Path, kind: str) -> None:
    file.write_bytes(FILES[kind]())
    size = (3, 18, 14) if kind in ("png", "jpeg", "webp", "tiff") else (3, 14, 18)  # rotated by their EXIF
    if kind == "avif 10":
        size = (3, 64, 64)
    if kind == "png palette":
        assert "transparency" in Image.open(file).info
    assert tuple(read_image(file, deep=True).shape) == size


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_damaged_files(file: Path, kind: str, data: st.DataObject) -> None:
    check(file, data.draw(mutated(FILES[kind]())))


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


@given(data=st.data(), kind=st.sampled_from([kind for kind in FILES if kind.startswith("png")]))
def test_png_chunks_with_right_check_sums(file: Path, data: st.DataObject, kind: str) -> None:
    chunks = png_chunks(FILES[kind]())
    rows = zlib.decompress(dict(chunks)[b"IDAT"])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(chunks) - 1))
        name, content = chunks[at]
        actions = "damage", "pixels", "double", "delete", "move", "rename", "text", "length"
        action = data.draw(st.sampled_from(actions))
        if action == "damage":
            chunks[at] = name, data.draw(mutated_once(content))
        elif action == "pixels":
            chunks[at] = b"IDAT", zlib.compress(data.draw(mutated_once(rows)))
        elif action == "double":
            chunks.insert(at, chunks[data.draw(st.integers(0, len(chunks) - 1))])
        elif action == "delete" and len(chunks) > 1:
            del chunks[at]
        elif action == "move":
            chunks.append(chunks.pop(at))
        elif action == "rename":
            names = b"IHDR PLTE IDAT tRNS acTL fcTL fdAT eXIf iCCP gAMA".split()
            chunks[at] = data.draw(st.sampled_from(names)), content
        elif action == "text":
            text = zlib.compress(bytes(data.draw(st.sampled_from([0, 1000, 1 << 21]))))
            chunks.insert(at, (data.draw(st.sampled_from([b"zTXt", b"iTXt", b"iCCP"])), b"key\0\0" + text))
        elif action == "length":
            extreme = struct.pack(">I", data.draw(numbers()) & 0xFFFFFFFF)
            chunks[at] = name, extreme + content[4:]
    body = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    check(file, b"\x89PNG\r\n\x1a\n" + body)


TAGS = (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 34675)


@given(data=st.data(), kind=st.sampled_from([kind for kind in FILES if kind.startswith("tiff")]))
def test_tags_of_a_tiff(file: Path, data: st.DataObject, kind: str) -> None:
    content = bytearray(FILES[kind]())
    (directory,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[directory : directory + 2])
    for _ in range(data.draw(st.integers(1, 4))):
        entry = directory + 2 + 12 * data.draw(st.integers(0, count - 1))
        field, width = data.draw(st.sampled_from([(0, 2), (2, 2), (4, 4), (8, 4), (8, 2)]))
        value = data.draw(st.sampled_from(TAGS) if field == 0 else st.one_of(numbers(), st.integers(0, 20)))
        content[entry + field : entry + field + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    check(file, bytes(content))


@given(data=st.data())
def test_a_tiff_of_any_tags(file: Path, data: st.DataObject) -> None:
    least = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 273: 400, 278: 16, 279: 256}
    tags = {tag: (4, 1, value) for tag, value in least.items()}
    value = st.one_of(st.integers(0, 40), numbers()).map(lambda number: number & 0xFFFFFFFF)
    kind = st.one_of(st.just(4), st.integers(0, 13))
    count = st.one_of(st.just(1), st.integers(0, 5), value)
    tags.update(data.draw(st.dictionaries(st.sampled_from(TAGS), st.tuples(kind, count, value), max_size=5)))
    if data.draw(st.booleans()):  # in tiles
        tags.update(
            {tag: (data.draw(kind), 1, data.draw(value)) for tag in (322, 323)} | {324: tags[273], 325: tags[279]}
        )
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    body = zlib.compress(bytes(1 << 16)) if data.draw(st.booleans()) else bytes(400)
    check(file, head.ljust(400, b"\0") + body)


@given(data=st.data(), head=st.sampled_from(list(FILES)), body=st.sampled_from(list(FILES)))
def test_the_head_of_one_and_the_body_of_another(file: Path, data: st.DataObject, head: str, body: str) -> None:
    one, other = FILES[head](), FILES[body]()
    check(file, one[: data.draw(st.integers(0, 64))] + other[data.draw(st.integers(0, 64)) :])


@given(content=st.binary(max_size=200), magic=st.sampled_from(list(FILES)))
def test_noise_behind_the_first_bytes(file: Path, content: bytes, magic: str) -> None:
    check(file, FILES[magic]()[:12] + content)
