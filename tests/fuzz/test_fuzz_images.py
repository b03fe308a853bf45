"""Whatever a file holds, reading it as an image gives pixels or the one documented error."""

import struct
import zlib
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from damlpips.scoring.images import ScoringError, read_image
from tests.support.formats import FILES
from tests.support.mutations import memory_within, mutated, mutated_once, numbers, or_message

# fourteen bytes a pixel of the largest image that is read: more are taken once its pixels are known to be there
MOST_MEMORY = 1300

# what is wrong with metadata is a remark, of which the files here have many
pytestmark = pytest.mark.filterwarnings("ignore::damlpips.scoring.reading.FileWarning")


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
