"""Read tensors from files that may be damaged or hostile.

A file is read only when it says of itself what a plain state dict says, within its own length: what is wrong with it
costs neither memory nor time, and runs nothing. Then torch (`weights_only=True`) or safetensors reads it.
"""

import io
import json
import mmap
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from damlpips.files import is_plain_name, open_regular, reason, size
from damlpips.nets import pickles
from damlpips.nets.pickles import refuse

# 120 bytes a tensor, and as many of metadata as anybody writes by hand
LARGEST_HEADER = 1 << 20
# 60 bytes an entry, and one entry a tensor
LARGEST_DIRECTORY = 1 << 20

ZIP = b"PK\x03\x04"
# of an entry: its sizes follow it, its name is UTF-8
PLAIN_FLAGS = 0x0008 | 0x0800
# among an entry's attributes
FOLDER = 0x10
# torch.save begins a file that is not a zip with this number and the version of the format, each a pickle
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."

Table = dict[str, tuple[tuple[int, ...], torch.dtype]]


class WeightsError(RuntimeError):
    """Weights cannot be found, cannot be read, or are not what they should be."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` or `.pth` file without running any code from it.

    The tensors are plain ones on the CPU; they may share memory with each other and with the file.

    Raises:
        WeightsError: the file is damaged, or holds anything but tensors by name.
    """
    try:
        with open_regular(path) as file:
            if size(file) == 0:
                raise WeightsError(f"{path}: damaged, the file is empty")
            return _read_safetensors(path, file) if path.suffix == ".safetensors" else _read_torch(path, file)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it holds more than tensors, or is damaged; save a plain state dict instead"
            f" ({_first_line(error)})"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path}: not a readable {path.suffix} file ({reason(error)})") from error
    except Exception as error:  # each reader has its own kinds of errors for a damaged file
        raise WeightsError(
            f"{path}: not a readable {path.suffix} file ({type(error).__name__}: {_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _read_safetensors(path: Path, file: BinaryIO) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    # the library reads a header of up to 100 MB into many times its size
    length = int.from_bytes(file.read(8), "little")
    if length > min(LARGEST_HEADER, size(file) - 8):
        raise ValueError(f"a header of {length} bytes in a file of {size(file)}")
    if not isinstance(json.loads(file.read(length)), dict):
        raise ValueError("the header is not a JSON object")
    return load_file(path)


def _read_torch(path: Path, file: BinaryIO) -> dict[str, Tensor]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped[: len(ZIP)] == ZIP:
            walk = _walk_zip(file, mapped)
            source: Any = path
        elif mapped[: len(LEGACY)] == LEGACY:
            walk = _walk_legacy(mapped)
            source = mapped  # not the path: of a path torch would try a yet older format, a tar
        else:
            refuse("not a file that torch.save has written")
        table = _table(walk, path)
        # only torch's zip format can be mapped; the legacy one is read
        state = torch.load(source, map_location="cpu", weights_only=True, mmap=source is path)
    state = {name: tensor.detach() for name, tensor in state.items()}
    if {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()} != table:
        refuse("torch reads it otherwise than it is written")
    return state


def _table(walk: pickles.Walk, path: Path) -> Table:
    """Return the shape and the kind of every tensor by name."""
    if type(walk.value) is not dict:
        raise WeightsError(f"{path}: expected a state dict of tensors, got {type(walk.value).__name__}")
    table: Table = {}
    for name, tensor in walk.value.items():
        if type(name) is not str or type(tensor) is not pickles.Tensor or tensor.storage is None:
            raise WeightsError(f"{path}: expected a state dict of tensors, got a dict of other things, too")
        table[name] = tensor.shape, tensor.storage.dtype
    return table


def _walk_zip(file: BinaryIO, mapped: mmap.mmap) -> pickles.Walk:
    """Check a zip file as far as `torch.save` uses the format; return what its pickle says."""
    _check_directory(mapped)
    with zipfile.ZipFile(file) as archive:
        places = _check_entries(mapped, archive.infolist(), archive.start_dir)
    top = next(iter(places), "").partition("/")[0]
    if f"{top}/constants.pkl" in places:
        refuse("a TorchScript archive, which holds code")
    if (table := places.get(f"{top}/data.pkl")) is None:
        refuse("the zip file has no data.pkl")
    if len(table) > pickles.LARGEST:
        refuse(f"a table of tensors of {len(table)} bytes")
    # not read by zipfile: torch can be told to leave the check sums out
    walk = pickles.walk(io.BytesIO(mapped[table.start : table.stop]))
    for storage in walk.storages.values():
        expected, place = storage.root_numel * storage.dtype.itemsize, places.get(f"{top}/data/{storage.key}")
        if place is None or len(place) != expected:
            refuse(f"storage {storage.key[:80]!r} of {expected} bytes has {len(place or ())} in the file")
    return walk


def _check_directory(mapped: mmap.mmap) -> None:
    """Check that the directory stands at the end, where every reader looks first, and is of a bearable length."""
    locator, end = mapped[-42:-22], mapped[-22:]
    if len(locator) < 20 or end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0":
        refuse("the directory of the zip file is not at its end")
    length, start = struct.unpack("<LL", end[12:20])
    if length > LARGEST_DIRECTORY or start + length > len(mapped):
        refuse(f"a zip directory of {length} bytes at {start} in a file of {len(mapped)}")
    if locator[:4] == b"PK\x06\x07":
        # the same once more in 64 bits: readers differ in which they believe, and in where they look for it
        (record,) = struct.unpack("<Q", locator[8:16])
        if record != len(mapped) - 42 - 56 or mapped[record + 40 : record + 56] != struct.pack("<QQ", length, start):
            refuse("the zip file has two directories")


def _check_entries(mapped: mmap.mmap, entries: list[zipfile.ZipInfo], directory: int) -> dict[str, range]:
    """Return where the contents of each entry are, if each has a place of its own before the directory."""
    places: dict[str, range] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        shown = repr(entry.filename[:80])
        if entry.filename in places:
            refuse(f"zip entry {shown} occurs twice")
        if entry.filename != entry.orig_filename or not all(map(is_plain_name, entry.filename.split("/"))):
            refuse(f"zip entry {shown} leads out of its folder, or has a name that is not plain")
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
        if not stored or entry.flag_bits & ~PLAIN_FLAGS or entry.external_attr & FOLDER:
            # of a folder torch reads nothing, and leaves the memory for it as it was
            refuse(f"zip entry {shown} is compressed, encrypted or a folder, which torch.save never writes")
        header = mapped[entry.header_offset : entry.header_offset + 30]
        if len(header) < 30 or header[:4] != ZIP:
            refuse(f"zip entry {shown} is not where the directory says")
        begin = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if entry.header_offset < end or begin + entry.file_size > directory:
            refuse(f"zip entry {shown} overlaps another, or is longer than the file")
        end = begin + entry.file_size
        places[entry.filename] = range(begin, end)
    # torch takes the name of the folder from the first entry of the directory
    return {entry.filename: places[entry.filename] for entry in entries}


def _walk_legacy(mapped: mmap.mmap) -> pickles.Walk:
    """Check a file of the format before zip: five pickles, then each storage's length and numbers."""
    # a copy of the head: whatever length a pickle declares, no more than this is read
    head = io.BytesIO(mapped[: pickles.LARGEST])
    head.seek(len(LEGACY))
    pickles.walk(head)  # the sizes of C's types on the machine that wrote it
    walk = pickles.walk(head)
    keys = pickles.walk(head).value
    if type(keys) is not list or not all(type(key) is str for key in keys):
        refuse("the list of its storages is damaged")
    if len(set(keys)) < len(keys) or set(keys) != set(walk.storages):
        refuse("lists other storages than its tensors use")
    position = head.tell()
    for key in keys:
        storage = walk.storages[key]
        found = int.from_bytes(mapped[position : position + 8], "little", signed=True)
        position += 8 + storage.root_numel * storage.dtype.itemsize
        if found != storage.root_numel or position > len(mapped):
            refuse(f"storage {key[:80]!r} of {storage.root_numel} numbers does not fit the file")
    return walk
