"""Images of more than 8 bits a channel, all of whose bits are read: PNG, TIFF, PNM and AVIF, a function for each.

Pillow gives out 8 bits of most of them. What it does read whole is a grey image of 16 bits: so a TIFF is handed to it
plane by plane, each as a grey image.
"""

import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from damlpips.scoring import yuv
from damlpips.scoring.containers import Avif
from damlpips.scoring.reading import ScoringError

if TYPE_CHECKING:
    from numpy import ndarray

FIRST = "convert it to 8 bit first"
TO_INTEGERS = "save it as integers of 8 or 16 bits first, as it is to be shown"

# tags of TIFF
(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, OFFSETS, SAMPLES, ROWS_PER_STRIP, COUNTS) = (
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279),
)
PLANAR, PREDICTOR, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 284, 317, 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, PROFILE = 338, 339, 34675
SEPARATE, DIFFERENCES = 2, 2
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
PHOTOMETRICS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 32803: "raw camera"}
UNSIGNED, SIGNED, UNSTATED_FORMAT = 1, 2, 4
FORMATS = {2: "signed whole numbers", 3: "floating-point numbers", 5: "complex numbers", 6: "complex numbers"}
PREMULTIPLIED, OPACITY = 1, 2
# What stores plain samples: none, LZW, deflate (two numbers), PackBits, LZMA, Zstandard
PLAIN = {1, 5, 8, 32946, 32773, 34925, 50000}
# The types of whole bytes, and the depths that are packed bit by bit
WHOLE = {8: "u1", 16: "u2", 32: "u4"}
PACKED = sorted({*range(1, 16)} - {8})
MOST_SAMPLES = 16

# Pillow silently reads 16-bit RGB as 8-bit; only the raw mode that it unpacks tells. BMP's "BGR;16" is 5-6-5 bits.
DEEP_RAW_MODE = re.compile(r";16[BLN]")
# Pillow keeps the high byte of the 16 bits; with the byte order swapped, it keeps the low one.
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
COLOUR_16 = ("RGB;16B", "RGBA;16B")
GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass
class Samples:
    """The samples of an image, as they are stored.

    Attributes:
        values: (H, W, C), with 1 (grey), 2 (grey, opacity), 3 (RGB) or 4 channels (RGB, opacity).
        top: the value of white.
        premultiplied: whether colours are multiplied by the opacity.
    """

    values: "ndarray"
    top: float
    premultiplied: bool = False

    def scaled(self) -> "ndarray":
        """Return float32 from 0 to 1; uint8 if there are no more than 8 bits."""
        import numpy as np

        alpha = self.values.shape[2] % 2 == 0
        if self.values.dtype.kind == "u" and self.top < 256 and not self.premultiplied:
            return self.values.astype(np.uint8, copy=False) if self.top == 255 else self._stretched()
        found = self.values.astype(np.float32)
        found /= self.top
        if alpha and self.premultiplied:
            opacity = found[..., -1:]
            found[..., :-1] = np.minimum(found[..., :-1] / np.where(opacity > 0, opacity, 1), 1)
        return found

    def _stretched(self) -> "ndarray":
        """Return fewer than 8 bits as 8."""
        import numpy as np

        return np.rint(self.values * (255 / self.top)).astype(np.uint8)


# --- PNG


def raw_mode(tile: Any) -> str:
    """Return how Pillow unpacks the pixels of a part of an image."""
    args = tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3]
    return args if isinstance(args, str) else ""


def is_deep(image: Any) -> bool:
    """Return whether an image that Pillow opened has more than 8 bits a channel."""
    if image.mode.startswith(("I", "F")):
        return True
    for codec, _, _, args in image.tile:
        if args[-1] > 255 if codec.startswith("ppm") else DEEP_RAW_MODE.search(raw_mode((codec, 0, 0, args))):
            return True
    return False


def png(image: Any, opened: Callable[[], BinaryIO]) -> Samples:
    """Return the samples of a PNG of 16 bits; it is opened once more, for the low bytes of colours."""
    import numpy as np
    import PIL.Image

    mode = raw_mode(image.tile[0])
    width, height = image.size
    if mode == "LA;16B":
        # two bytes of each channel are unpacked as if they were four channels
        image._mode, image.tile = "RGBA", [_with_mode(tile, "RGBA") for tile in image.tile]
        values = np.frombuffer(_bytes(image), ">u2")
    elif mode in COLOUR_16:
        with opened() as file, PIL.Image.open(file, formats=["PNG"]) as again:
            again.tile = [_with_mode(tile, mode[:-1] + OTHER_ORDER[mode[-1]]) for tile in again.tile]
            values = np.frombuffer(_bytes(image), np.uint8).astype(np.uint16)
            values <<= 8
            values |= np.frombuffer(_bytes(again), np.uint8)
    elif image.mode == "I":  # how Pillow 10 reads grey
        values = np.frombuffer(_bytes(image), np.int32).astype(np.uint16)
    elif image.mode in GREY_16:
        values = np.frombuffer(_bytes(image), ">u2" if image.mode == "I;16B" else "<u2")
    else:
        raise ScoringError(f"more than 8 bits a channel (Pillow mode {image.mode!r}): {FIRST}")
    values = values.reshape(height, width, -1)
    clear = image.info.get("transparency")
    if clear is not None and values.shape[2] in (1, 3):
        opaque = (values != np.array(clear, np.uint16)).any(2, keepdims=True)
        values = np.concatenate([values, opaque * np.uint16(65535)], 2)
    return Samples(values, 65535)


def _bytes(image: Any) -> bytes:
    image.load()
    return bytes(image.tobytes())


def _with_mode(tile: Any, mode: str) -> Any:
    args = (mode, *tile[3][1:]) if isinstance(tile[3], tuple) else mode
    return type(tile)(*tile[:3], args) if hasattr(tile, "_fields") else (*tile[:3], args)


# --- TIFF


@dataclass
class Tiff:
    """The first page of a TIFF: its tags, and whether there are more pages."""

    tags: Mapping[int, Any]
    several: bool
    byte_order: bytes

    def number(self, tag: int, default: int) -> int:
        """Return the first number of a tag."""
        return self.numbers(tag, (default,))[0]

    def numbers(self, tag: int, default: Sequence[int] = ()) -> tuple[int, ...]:
        """Return the whole numbers of a tag.

        Raises:
            ValueError: they are none.
        """
        value = self.tags.get(tag, default)
        found = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if not all(isinstance(number, int) and number >= 0 for number in found) or (default and not found):
            raise ValueError(f"tag {tag} holds no whole numbers")
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Its width and height."""
        return self.number(WIDTH, 0), self.number(HEIGHT, 0)

    @property
    def tile(self) -> tuple[int, int]:
        """The width and height of its tiles, 0 if it has none."""
        return self.number(TILE_WIDTH, 0), self.number(TILE_LENGTH, 0)

    @property
    def bits(self) -> tuple[int, ...]:
        """How many bits each sample of a pixel has."""
        return self.numbers(BITS, (1,))

    @property
    def is_for_pillow(self) -> bool:
        """Whether Pillow reads all of it: 8 bits or less, and not grey and opacity in separate planes."""
        apart = self.number(PLANAR, 1) == SEPARATE and self.number(SAMPLES, 1) == 2
        return max(self.bits) <= 8 and not apart and self.is_unsigned

    @property
    def is_unsigned(self) -> bool:
        """Whether its samples are whole numbers from 0 on."""
        return set(self.numbers(SAMPLE_FORMAT, (UNSIGNED,))) <= {UNSIGNED, UNSTATED_FORMAT}

    @property
    def shown(self) -> str:
        """Its depth and colours in words."""
        kind = self.number(PHOTOMETRIC, BLACK_IS_ZERO)
        numbers = FORMATS.get(self.number(SAMPLE_FORMAT, UNSIGNED), "whole numbers")
        return f"{PHOTOMETRICS.get(kind, f'of kind {kind}')}, {numbers} of {max(self.bits)} bits"


def tiff_of(file: BinaryIO) -> Tiff:
    """Return the tags of a TIFF's first page."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    head = file.read(8)
    head += file.read(8) if 43 in head[2:4] else b""
    big_endian = head[:4] == b"MM\0+"
    directory = ImageFileDirectory_v2(head[:8] if big_endian else head)
    if big_endian:  # Pillow knows BigTIFF by the other byte only
        directory._bigtiff = True
        (directory.next,) = struct.unpack(">Q", head[8:])
    file.seek(directory.next)
    directory.load(file)
    return Tiff(directory, bool(directory.next), head[:2])


def tiff(page: Tiff, content: bytes) -> Samples:
    """Return the samples of a TIFF.

    Raises:
        ScoringError: of another kind than whole numbers of 1 to 16 or of 32 bits, grey or RGB.
    """
    import numpy as np

    bits, samples = page.bits, page.number(SAMPLES, 1)
    kind, compression = page.number(PHOTOMETRIC, BLACK_IS_ZERO), page.number(COMPRESSION, 1)
    if not page.is_unsigned:
        raise ScoringError(f"{page.shown}, whose black and white are not stated: {TO_INTEGERS}")
    colours = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}.get(kind)
    if colours is None or len(set(bits)) > 1 or bits[0] not in (*WHOLE, *PACKED) or compression not in PLAIN:
        packed = "" if compression in PLAIN else f", compressed in way {compression}"
        raise ScoringError(f"more than 8 bits a channel ({page.shown}{packed}): {FIRST}")
    if not colours <= samples <= MOST_SAMPLES:
        raise ValueError(f"{samples} samples a pixel")
    width, height = page.size
    together = 1 if page.number(PLANAR, 1) == SEPARATE else samples
    values = np.stack(
        [_plane(page, content, k, samples // together, together) for k in range(samples // together)], 2
    ).reshape(height, width, samples)
    if _adds_up(bits[0], together) and page.number(PREDICTOR, 1) == DIFFERENCES:
        # within each row, and each tile
        step = page.tile[0] or width
        for at in range(0, width, step):
            values[:, at : at + step] = np.cumsum(values[:, at : at + step], 1, dtype=values.dtype)
    top = 2 ** bits[0] - 1
    extra = page.numbers(EXTRA_SAMPLES, ()) or ((OPACITY,) if samples == 4 and colours == 3 else ())
    opacity = next((k for k, meaning in enumerate(extra) if meaning in (PREMULTIPLIED, OPACITY)), None)
    if kind == WHITE_IS_ZERO:
        values[..., 0] = top - values[..., 0]
    if opacity is None or colours + opacity >= samples:
        return Samples(values[..., :colours], top)
    channels = [*range(colours), colours + opacity]
    return Samples(values[..., channels], top, extra[opacity] == PREMULTIPLIED)


def _adds_up(bits: int, together: int) -> bool:
    """Return whether differences between neighbours are added up here; libtiff does it for grey of 8 or 16 bits."""
    return together > 1 or bits > 16


def _plane(page: Tiff, content: bytes, number: int, count: int, together: int) -> "ndarray":
    """Return one of `count` planes (H, W `together`), decompressed by libtiff as a grey image of its own."""
    import numpy as np
    from PIL.TiffImagePlugin import TiffImageFile

    bits, predictor = page.bits[0], page.number(PREDICTOR, 1)
    if predictor not in (1, DIFFERENCES) or (predictor == DIFFERENCES and bits in PACKED):
        raise ScoringError(f"more than 8 bits a channel ({page.shown}, predictor {predictor}): {FIRST}")
    # packed samples are read as bytes
    unit = 8 if bits in PACKED else bits
    columns, height = page.number(WIDTH, 0) * together, page.number(HEIGHT, 0)
    width, tile = (-(-n * bits // unit) for n in (columns, page.number(TILE_WIDTH, 0) * together))
    tiled = TILE_OFFSETS in page.tags
    where = [page.numbers(tag) for tag in ((TILE_OFFSETS, TILE_COUNTS) if tiled else (OFFSETS, COUNTS))]
    if len(where[0]) != len(where[1]) or len(where[0]) % count:
        raise ValueError("its parts are not those of its planes")
    if max(map(sum, zip(*where, strict=True))) > len(content):
        raise ValueError("its pixels lead beyond its end")
    each = len(where[0]) // count
    offsets, counts = (numbers[number * each : (number + 1) * each] for numbers in where)
    tags: dict[int, Sequence[int]] = {
        WIDTH: [width],
        HEIGHT: [height],
        BITS: [unit],
        COMPRESSION: [page.number(COMPRESSION, 1)],
        PHOTOMETRIC: [BLACK_IS_ZERO],
        FILL_ORDER: [page.number(FILL_ORDER, 1)],
        SAMPLES: [1],
        # Pillow knows 32 bits with a sign only, which changes no bit
        SAMPLE_FORMAT: [SIGNED if unit == 32 else UNSIGNED],
        PREDICTOR: [1 if _adds_up(bits, together) else predictor],
    }
    if tiled:
        tags |= {TILE_WIDTH: [tile], TILE_LENGTH: [page.number(TILE_LENGTH, 0)]}
        tags |= {TILE_OFFSETS: offsets, TILE_COUNTS: counts}
    else:
        tags |= {ROWS_PER_STRIP: [page.number(ROWS_PER_STRIP, height)], OFFSETS: offsets, COUNTS: counts}
    # Pillow swaps the bytes of 32 bits twice: here they come as they are stored
    order = page.byte_order if unit == 16 else b"II"
    with TiffImageFile(BytesIO(_with_tags(content, tags, order))) as image:
        swapped = image.mode == "I;16B" or (unit == 32 and page.byte_order == b"MM")
        found = np.frombuffer(_bytes(image), f"{'>' if swapped else '<'}{WHOLE[unit]}").reshape(height, width)
    return _unpacked(found, bits, columns) if bits in PACKED else found


def _unpacked(rows: "ndarray", bits: int, columns: int) -> "ndarray":
    """Return the numbers that are packed into the bytes of rows, the highest bit first."""
    import numpy as np

    found = np.zeros((len(rows), columns), np.uint16)
    single = np.unpackbits(rows, axis=1)[:, : columns * bits]
    for k in range(bits):
        found <<= 1
        found |= single[:, k::bits]
    return found


def _with_tags(content: bytes, tags: Mapping[int, Sequence[int]], order: bytes) -> bytes:
    """Return a TIFF of the same data with other tags, whole numbers of 32 bits, at its end."""
    mark = "<" if order == b"II" else ">"
    start = len(content) + len(content) % 2
    after = start + 2 + 12 * len(tags) + 4
    entries, arrays = b"", b""
    for tag, numbers in sorted(tags.items()):
        single = len(numbers) == 1
        entries += struct.pack(f"{mark}HHII", tag, 4, len(numbers), numbers[0] if single else after + len(arrays))
        arrays += b"" if single else struct.pack(f"{mark}{len(numbers)}I", *numbers)
    head = order + struct.pack(f"{mark}HI", 42, start)
    directory = struct.pack(f"{mark}H", len(tags)) + entries + bytes(4) + arrays
    return b"".join([head, memoryview(content)[8:], bytes(start - len(content)), directory])


# --- PNM


def pnm(image: Any, file: BinaryIO) -> Samples:
    """Return the samples of a PGM or PPM whose white is above 255."""
    import numpy as np

    codec, _, start, args = image.tile[0]
    if image.mode == "F":
        raise ScoringError(f"floating-point numbers of 32 bits, whose black and white are not stated: {TO_INTEGERS}")
    top = 65535 if codec == "raw" else args[-1]
    width, height = image.size
    channels = 3 if image.mode == "RGB" else 1
    count = width * height * channels
    file.seek(start)
    if codec == "ppm_plain":
        text = re.sub(rb"#[^\r\n]*", b" ", file.read())
        values = np.fromstring(text.decode("ascii"), np.int64, sep=" ")
    else:
        values = np.frombuffer(file.read(2 * count), ">u2")
    if len(values) != count or values.min() < 0 or values.max() > top:
        raise ValueError(f"{len(values)} samples from {values.min()} to {values.max()}, not {count} up to {top}")
    return Samples(values.reshape(height, width, channels), top)


# --- AVIF

# What FFmpeg may use: files from others reach no other decoder.
LIMITS = {"codec_whitelist": "libdav1d,libaom-av1,av1", "protocol_whitelist": "none"}


def avif(about: Avif, file: BinaryIO, size: tuple[int, int]) -> Samples:
    """Return the samples of an AVIF of 10 or 12 bits, decoded by FFmpeg; `size` is its width and height.

    Raises:
        ScoringError: PyAV is missing, or the picture is in pieces or of unknown colours.
    """
    import numpy as np

    if about.kind != "av01":
        raise ScoringError(f"{about.bits} bits a channel in an AVIF of several pieces ({about.kind}): {FIRST}")
    try:
        av = yuv.pyav()
    except ScoringError as error:
        raise ScoringError(
            f"{about.bits} bits a channel: {FIRST}, or install what reads them: pip install 'damlpips[video]'"
        ) from error
    colours = _decoded(av, file, about.item, size)
    stated = about.colours
    full = stated.full_range if stated is not None else int(colours.color_range) == 2
    matrix = stated.matrix if stated is not None else int(colours.colorspace)
    matrix = 6 if matrix in (2, 3) else matrix
    if yuv.is_grey(colours.format):
        values = yuv.grey(colours, full_range=full)[..., None]
    elif colours.format.is_rgb:
        values = yuv.planes(colours)[[2, 0, 1]].transpose(1, 2, 0).astype(np.float32) / (2**about.bits - 1)
    elif matrix in yuv.WEIGHTS or matrix == yuv.IDENTITY:
        values = yuv.rgb(colours, matrix, full_range=full, reformat=yuv.reformatter())
    else:
        raise ScoringError(f"{about.bits} bits a channel with a matrix of kind {matrix} (H.273): {FIRST}")
    if about.alpha is not None:
        opacity = _decoded(av, file, about.alpha, size)
        alpha = yuv.grey(opacity, full_range=int(opacity.color_range) != 1)[..., None]
        values = np.concatenate([values, alpha], 2)
    return Samples(values, 1, about.premultiplied)


def _decoded(av: Any, file: BinaryIO, item: int, size: tuple[int, int]) -> Any:
    """Return the frame of one of a file's pictures."""
    # FFmpeg counts whole blocks, and some more
    most = {"max_pixels": str((size[0] + 256) * (size[1] + 256))}
    file.seek(0)
    with av.open(file, "r", format="mov", options=LIMITS | most, io_open=yuv.refuse) as container:
        for stream in container.streams.video:
            if stream.id == item:
                stream.codec_context.options = most
                for frame in container.decode(stream):
                    if not frame.is_corrupt and (frame.width, frame.height) == size:
                        return frame
    raise ValueError("its picture cannot be decoded")
