"""The variables of a MATLAB file, as far as tables of scores need them: numbers, and cells of texts.

SciPy's reader is not used: a damaged file makes it end the process (1.17.1), where an error is wanted.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from damlpips.evaluation.datasets.tables import DatasetError, read_bytes

# where the data begin; the version before them, 1.0, tells the order of bytes. HDF5 files of MATLAB 7.3 have a 2.
HEADER = 128
ORDERS = {b"\0\1IM": "<", b"\1\0MI": ">"}
# Bytes of one variable, unpacked. The largest of LIVE's has 982 names of 200 bytes each.
LARGEST_VARIABLE = 1 << 24

MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# texts are kept in bytes, in numbers of 16 bits, or in a code of Unicode
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
# classes of arrays
CELL, CHAR, NUMERIC = 1, 4, range(6, 16)
COMPLEX = 0x0800

Values = Sequence[float | str]


def read_matlab(path: Path) -> dict[str, Values]:
    """Return the variables of a MATLAB file (level 5, as of MATLAB 5 to 7), flat, column after column.

    Variables that are neither real numbers nor cells of texts are passed over.

    Raises:
        DatasetError: no such file, of another kind, or damaged.

    Reference:
        MATLAB MAT-File Format, MathWorks.
    """
    content = read_bytes(path)
    order = ORDERS.get(content[HEADER - 4 : HEADER])
    if order is None:
        raise DatasetError(f"{path}: expected a MATLAB file of level 5, got one that begins {content[:19]!r}")
    try:
        return dict(_variables(content[HEADER:], order))
    except (ValueError, IndexError, KeyError, struct.error, zlib.error) as error:
        raise DatasetError(f"{path}: damaged MATLAB file ({type(error).__name__}: {error})") from error


def _variables(content: bytes, order: str) -> Iterator[tuple[str, Values]]:
    for kind, data in _elements(content, order):
        if kind == COMPRESSED:
            ((kind, data),) = _elements(zlib.decompressobj().decompress(data, LARGEST_VARIABLE), order)
        if kind == MATRIX:
            name, values = _array(data, order)
            if values is not None:
                yield name, values


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the bytes of each element."""
    at = 0
    while at < len(content):
        kind, length = struct.unpack_from(f"{order}II", content, at)
        start = at + 8
        if kind >> 16:  # a small one: its length beside its kind, its bytes where the length of others is
            kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
        end = start + length
        if end > len(content) or (start == at + 4 and length > 4):
            raise ValueError(f"an element of {length} bytes, {len(content) - start} are left")
        yield kind, content[start:end]
        # elements begin at multiples of 8; what follows a compressed one does not
        at = end if kind == COMPRESSED else at + 8 * -((at - end) // 8)


def _array(data: bytes, order: str) -> tuple[str, Values | None]:
    """Return the name and the values of an array; None where it is of another class."""
    (_, flags), _, (_, name), *parts = _elements(data, order)
    (first,) = struct.unpack_from(f"{order}I", flags)
    kind = first & 0xFF
    values: Values | None = None
    if kind == CELL:
        texts = [_cell_text(part, order) for part_kind, part in parts if part_kind == MATRIX]
        values = None if None in texts else [text for text in texts if text is not None]
    elif kind in NUMERIC and not first & COMPLEX:
        number, content = parts[0]
        values = np.frombuffer(content, f"{order}{NUMBERS[number]}").astype(float).tolist()
    return name.decode("ascii"), values


def _cell_text(data: bytes, order: str) -> str | None:
    (_, flags), _, _, *parts = _elements(data, order)
    (first,) = struct.unpack_from(f"{order}I", flags)
    if first & 0xFF != CHAR:
        return None
    kind, content = parts[0]
    code = TEXTS[kind]
    return content.decode(f"{code}-{'le' if order == '<' else 'be'}" if code == "utf-16" else code)
