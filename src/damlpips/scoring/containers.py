"""What stands in a PNG or AVIF beside the pixels: chunks and boxes, read without decoding anything."""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
# Without these there is no picture. All other chunks of a PNG are about the picture.
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT")
# The chunks about colours, the most that is read of one, and how long one is, where that is fixed.
PNG_COLOURS = {b"cICP": 4, b"iCCP": None, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
LARGEST_PROFILE = 1 << 24

# kinds of JPEG by their markers
JPEG_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless"}
JPEG_FRAMES |= {0xC9: "arithmetic", 0xCA: "arithmetic", 0xCB: "lossless", 0xF7: "JPEG-LS"}
# those with all of a pixel in one scan, if that has all channels
SINGLE_SCAN, START_OF_SCAN = (0xC0, 0xC1), 0xDA

# boxes of AVIF that hold boxes, and how many bytes stand before those
HOLDERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}
LARGEST_META = 1 << 20

# How files of each kind begin: any of these (offset, bytes)
Marks = Mapping[str, Sequence[tuple[int, bytes]]]


def kind_of(head: bytes, marks: Marks) -> str | None:
    """Return the first kind whose files begin like this one; None if none does.

    Example:
        >>> kind_of(b"OggS...", {"flv": [(0, b"FLV")], "ogg": [(0, b"OggS")]})
        'ogg'
    """
    return next((kind for kind, any_of in marks.items() if any(head.startswith(mark, at) for at, mark in any_of)), None)


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the place of the data and the length of each whole chunk of a PNG."""
    length = file.seek(0, 2)
    at = len(PNG)
    while at + 12 <= length:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        if at + 12 + size > length:
            return
        yield kind, at + 8, size
        at += 12 + size


def png_colours(file: BinaryIO) -> tuple[dict[bytes, bytes], set[bytes]]:
    """Return the chunks of a PNG about colours that stand before the pixels, and those that cannot be read."""
    found: dict[bytes, bytes] = {}
    bad: set[bytes] = set()
    for kind, at, size in png_chunks(file):
        if kind == b"IDAT":
            break
        if kind in PNG_COLOURS and kind not in found:
            file.seek(at)
            data = file.read(min(size, LARGEST_PROFILE))
            whole = size <= LARGEST_PROFILE and PNG_COLOURS[kind] in (None, size)
            if whole and kind == b"iCCP":
                data, whole = _inflated_profile(data)
            if whole:
                found[kind] = data
            else:
                bad.add(kind)
    return found, bad - set(found)


def _inflated_profile(data: bytes) -> tuple[bytes, bool]:
    _, _, rest = data.partition(b"\0")
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], LARGEST_PROFILE)
    except zlib.error:
        return b"", False
    return profile, inflater.eof


def png_pixels_only(content: bytes) -> bytes:
    """Return a PNG without what is not needed for its pixels, and with an end."""
    parts = [PNG]
    at = len(PNG)
    for kind, start, size in png_chunks(BytesIO(content)):
        if kind in PNG_PIXELS or (kind == b"eXIf" and size < LARGEST_META):
            parts.append(content[start - 8 : start + size + 4])
        at = start + size + 4
    # a chunk of pixels that was cut off is left to the decoder, which knows whether any are missing
    if content[at + 4 : at + 8] == b"IDAT":
        return b"".join([*parts, content[at:]])
    return b"".join([*parts, struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))])


def webp_pixels_only(content: bytes) -> bytes:
    """Return a WebP without its Exif and XMP, and without a chunk behind its pixels that was cut off."""
    chunks, at = [], 12
    while at + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[at : at + 8])
        end = at + 8 + size + size % 2
        if end > len(content) and kind in (b"EXIF", b"XMP ", b"ICCP"):
            break
        if kind not in (b"EXIF", b"XMP "):
            chunks.append(bytearray(content[at:end]))
        at = end
    if chunks and chunks[0][:4] == b"VP8X" and len(chunks[0]) > 8:
        chunks[0][8] &= ~0x0C  # has Exif, has XMP
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_profile(file: BinaryIO) -> bytes | None:
    """Return the profile that is embedded in a BMP, if there is one."""
    place = file.tell()
    file.seek(0)
    head = file.read(14 + 124)
    # only the longest of the headers has one
    if len(head) == 14 + 124 and head[70:74] == b"DEBM":
        start, size = struct.unpack_from("<II", head, 126)
        file.seek(14 + start)
        profile = file.read(min(size, LARGEST_PROFILE))
    else:
        profile = None
    file.seek(place)
    return profile


def _jpeg_segments(head: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the contents of each part of a JPEG before its pixels."""
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker, size = struct.unpack_from(">BH", head, at + 1)
        yield marker, head[at + 4 : at + 2 + size]
        at += 2 + size
        if marker == START_OF_SCAN:
            return


def jpeg_frame(head: bytes) -> tuple[str, int] | None:
    """Return how a JPEG is coded, and how many bits its channels have; None if its beginning does not say it."""
    for marker, content in _jpeg_segments(head):
        if marker in JPEG_FRAMES and content:
            return JPEG_FRAMES[marker], content[0]
    return None


def jpegs_with_an_end(content: bytes) -> list[bytes]:
    """Return versions of a JPEG that lacks its end, with different bits behind it; none if it may lack a scan.

    If no pixel is missing, the decoder needs none of these bits, and finds the same pixels in all versions.
    """
    parts = dict(_jpeg_segments(content))
    frame = next((parts[marker] for marker in SINGLE_SCAN if marker in parts), b"")
    scan = parts.get(START_OF_SCAN, b"")
    if len(frame) < 6 or not scan or scan[0] != frame[5]:
        return []
    whole = content[:-1] if content.endswith(b"\xff") else content
    return [whole + bits * 256 + b"\xff\xd9" for bits in (b"\0", b"\x55", b"\xaa", b"\xfe")]


class Nclx(NamedTuple):
    """Colours by the numbers of H.273."""

    primaries: int
    transfer: int
    matrix: int
    full_range: bool


@dataclass
class Avif:
    """What an AVIF says of its picture.

    Attributes:
        item: the number of the picture in the file.
        kind: "av01" for one picture, "grid" for one of several pieces.
        bits: of each channel.
        colours: by numbers, if they are stated so.
        alpha: the number of the picture that holds the opacity.
        premultiplied: whether colours are multiplied by the opacity.
    """

    item: int = 0
    kind: str = ""
    bits: int = 8
    colours: Nclx | None = None
    alpha: int | None = None
    premultiplied: bool = False
    _properties: list[tuple[bytes, bytes]] = field(default_factory=list)


def avif(head: bytes) -> Avif | None:
    """Return what the beginning of an AVIF says of its picture; None for one that is not plainly a still."""
    try:
        return _avif(head)
    except (struct.error, IndexError, UnicodeDecodeError):
        return None


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the start and the end of the contents of each box."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = end if size == 0 else at + size
        if stop > end or stop < start:
            return
        yield kind, start, stop
        at = stop


def _avif(data: bytes) -> Avif | None:
    found = Avif()
    kinds: dict[int, str] = {}
    linked: dict[int, list[int]] = {}
    boxes = list(_boxes(data, 0, len(data)))
    while boxes:
        kind, at, end = boxes.pop(0)
        if kind in HOLDERS:
            inner = list(_boxes(data, at + HOLDERS[kind], end))
            boxes += inner
            if kind == b"ipco":
                found._properties = [(name, data[start:stop]) for name, start, stop in inner]
        elif kind == b"pitm":
            (found.item,) = struct.unpack_from(">I" if data[at] else ">H", data, at + 4)
        elif kind == b"iinf":
            for _, start, _ in _boxes(data, at + (8 if data[at] else 6), end):
                wide = data[start] == 3
                (item,) = struct.unpack_from(">I" if wide else ">H", data, start + 4)
                kinds[item] = data[start + (10 if wide else 8) :][:4].decode("latin-1")
        elif kind == b"iref":
            for name, start, _ in _boxes(data, at + 4, end):
                first, count, target = struct.unpack_from(">IHI" if data[at] else ">HHH", data, start)
                if name == b"auxl" and count == 1:
                    linked.setdefault(target, []).append(first)
                found.premultiplied |= name == b"prem"
        elif kind == b"ipma":
            _associate(found, data, at)
    if found.item not in kinds:
        return None
    found.kind = kinds[found.item]
    found.alpha = next(iter(linked.get(found.item, [])), None)
    return found


def _associate(found: Avif, data: bytes, at: int) -> None:
    """Read which properties the picture has."""
    wide_item, wide_index = data[at] > 0, bool(data[at + 3] & 1)
    (count,) = struct.unpack_from(">I", data, at + 4)
    at += 8
    for _ in range(min(count, 1 << 16)):
        (item,) = struct.unpack_from(">I" if wide_item else ">H", data, at)
        at += 4 if wide_item else 2
        number = data[at]
        at += 1
        for _ in range(number):
            (index,) = struct.unpack_from(">H" if wide_index else ">B", data, at)
            at += 2 if wide_index else 1
            index &= 0x7FFF if wide_index else 0x7F  # without the bit that says whether it must be understood
            if item == found.item and 0 < index <= len(found._properties):
                _describe(found, *found._properties[index - 1])


def _describe(found: Avif, kind: bytes, content: bytes) -> None:
    if kind == b"av1C":
        high, twelve = content[2] & 0x40, content[2] & 0x20
        found.bits = 12 if high and twelve else 10 if high else 8
    elif kind == b"pixi":
        found.bits = max(found.bits, *content[5 : 5 + content[4]])
    elif kind == b"colr" and content[:4] == b"nclx":
        primaries, transfer, matrix, flags = struct.unpack_from(">HHHB", content, 4)
        found.colours = Nclx(primaries, transfer, matrix, bool(flags & 0x80))
