"""A small file of every format that is read as an image."""

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image, features

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
