"""ICC profiles and PNG chunks for the tests, made byte by byte by the format's specification."""

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

# what red, green and blue are at D50, by the makers of the spaces
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB_CURVE = struct.pack(">4s4xH2x", b"para", 3) + struct.pack(
    ">5i", *(round(65536 * n) for n in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)


def gamma_curve(gamma: float) -> bytes:
    return struct.pack(">4s4xIH2x", b"curv", 1, round(256 * gamma))


def xyz(values: Sequence[float]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * v) for v in values))


def profile(space: bytes, tags: Mapping[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """Return a profile of colours of a space, such as b"RGB ", with these tags."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"wtpt": xyz((0.9642, 1, 0.8249)), b"cprt": b"text" + bytes(4) + b"none\0", **tags}
    at, entries, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        entries += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s", at + len(body), 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz((0.9642, 1, 0.8249))[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


def rgb_profile(primaries: Sequence[Sequence[float]], curve: bytes = SRGB_CURVE, **more: bytes) -> bytes:
    named = {f"{c}XYZ".encode(): xyz(p) for c, p in zip("rgb", primaries, strict=True)}
    return profile(
        b"RGB ", {**named, **{f"{c}TRC".encode(): curve for c in "rgb"}, **{k.encode(): v for k, v in more.items()}}
    )


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": gamma_curve(gamma)})


def table_profile(space: bytes, channels: int) -> bytes:
    """Return a profile with a table: Lab of each corner of the space, whose ink or light makes L only."""
    corners = np.indices((2,) * channels).reshape(channels, -1).T
    bright = 255 - 255 * corners.max(1) if space == b"CMYK" else 255 * corners.max(1)
    table = np.stack([bright, np.full_like(bright, 128), np.full_like(bright, 128)], 1).astype(np.uint8)
    straight = bytes(range(256))
    lut = struct.pack(">4s4x4B", b"mft1", channels, 3, 2, 0)
    lut += struct.pack(">9i", *(65536 if k % 4 == 0 else 0 for k in range(9)))
    lut += straight * channels + table.tobytes() + straight * 3
    return profile(space, {b"A2B0": lut, b"A2B1": lut}, b"Lab ", b"prtr")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, *chunks: tuple[bytes, bytes], after: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """Return a PNG of 8 or 16 bits with chunks before and after its pixels."""
    height, width, channels = values.shape
    depth = 8 * values.dtype.itemsize
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in values)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))]
    parts += [chunk(*one) for one in chunks] + [chunk(b"IDAT", zlib.compress(rows))]
    parts += [chunk(*one) for one in after] + [chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def iccp(content: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"name\0\0" + zlib.compress(content)
