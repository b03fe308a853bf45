"""Whatever is in a file, loading it as weights gives the tensors that were asked for or the one documented error."""

import io
import json
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from damlpips.nets import weights
from damlpips.nets.weights import WeightsError
from tests.support.mutations import memory_within, mutated, mutated_once, numbers, or_message

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, about pickles that it does not know

# the files are of a few kilobytes
MOST_MEMORY = 64

STATE = {
    "features.0.weight": torch.arange(24.0).reshape(4, 3, 2) / 7,
    "features.0.bias": torch.tensor([0.5, -1.0, 2.0, 0.25]),
    "features.1.num_batches_tracked": torch.tensor(12),
    "classifier.weight": torch.arange(10.0).reshape(5, 2).t(),
}
EXPECTED = {name: tuple(tensor.shape) for name, tensor in STATE.items() if name.startswith("features")}


@cache
def saved(kind: str) -> bytes:
    if kind == "safetensors":
        return save({name: tensor.contiguous() for name, tensor in STATE.items()}, {"made": "here"})
    file = io.BytesIO()
    state = {**STATE, "features.0.bias": torch.nn.Parameter(STATE["features.0.bias"])}
    torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


KINDS = {"safetensors": ".safetensors", "zip": ".pth", "legacy": ".pth"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def check(folder: Path, suffix: str, content: bytes) -> dict[str, Tensor] | str:
    file = folder / f"w{suffix}"
    file.write_bytes(content)
    before = set(folder.iterdir())
    with memory_within(MOST_MEMORY):
        loaded = or_message(WeightsError, weights.load_tensors, file, EXPECTED, ["classifier"])
    assert set(folder.iterdir()) == before, "loading left a file behind"
    if isinstance(loaded, str):
        assert loaded.startswith(f"{file}: ")
        assert len(loaded) < 2000
        return loaded
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == EXPECTED
    # read once more, without the checks and without a map; whoever writes a pickle may leave numbers undefined
    again = load(content) if suffix == ".safetensors" else loaded
    for name, tensor in loaded.items():
        assert type(tensor) is Tensor
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"
        assert not tensor.requires_grad
        assert tensor.is_floating_point() or tensor.dtype == torch.int64
        assert bool(torch.isfinite(tensor).all())
        assert torch.equal(tensor, again[name])
    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_weights(folder: Path, kind: str) -> None:
    loaded = check(folder, KINDS[kind], saved(kind))
    assert isinstance(loaded, dict)
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize("damaged", [mutated, mutated_once], ids=["several times", "once"])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_damaged_files(folder: Path, kind: str, damaged: Callable[..., Any], data: st.DataObject) -> None:
    check(folder, KINDS[kind], data.draw(damaged(saved(kind))))


@given(
    data=st.data(),
    head=st.sampled_from(list(KINDS)),
    body=st.sampled_from(list(KINDS)),
    suffix=st.sampled_from([".pth", ".safetensors"]),
)
def test_the_head_of_one_and_the_body_of_another(
    folder: Path, data: st.DataObject, head: str, body: str, suffix: str
) -> None:
    one, other = saved(head), saved(body)
    check(folder, suffix, one[: data.draw(st.integers(0, len(one)))] + other[data.draw(st.integers(0, len(other))) :])


# --- safetensors ----------------------------------------------------------------------------------------------------

DTYPES = [
    *("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F4", "I16", "F16"),
    *("BF16", "I32", "U64", "F64", "I64", "C64", "X", "", 7, None),
]
NAMES = st.one_of(
    st.sampled_from([*STATE, "__metadata__", "classifier.x", "", "features.0", "a\ud800"]), st.text(max_size=5)
)
WRONG: st.SearchStrategy[object] = st.one_of(
    numbers(), st.integers(-3, 30), st.floats(), st.none(), st.booleans(), st.text(max_size=4), st.just([]), st.just({})
)


@given(data=st.data())
def test_headers_of_safetensors(folder: Path, data: st.DataObject) -> None:
    content = saved("safetensors")
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    body = content[8 + length :]
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)))
        entry = header[name]
        action = data.draw(st.sampled_from(["dtype", "shape", "offsets", "rename", "copy", "delete", "wrong", "field"]))
        if action in ("rename", "copy"):
            header[data.draw(NAMES)] = header.pop(name) if action == "rename" else entry
        elif action == "delete" and len(header) > 1:
            del header[name]
        elif action == "wrong":
            header[name] = data.draw(WRONG)
        elif isinstance(entry, dict) and {"shape", "data_offsets"} <= set(entry):
            if action == "dtype":
                entry["dtype"] = data.draw(st.sampled_from(DTYPES))
            elif action == "field":
                del entry[data.draw(st.sampled_from(sorted(entry)))]
            else:
                field = "shape" if action == "shape" else "data_offsets"
                values = list(entry[field]) if isinstance(entry[field], list) else []
                values[data.draw(st.integers(0, len(values))) :][:1] = [data.draw(WRONG)]
                entry[field] = data.draw(st.one_of(st.just(values), st.lists(WRONG, max_size=5), WRONG))
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if data.draw(st.booleans()):
        text = data.draw(mutated_once(text))
    declared = data.draw(st.one_of(st.just(len(text)), st.just(len(text)), numbers()))
    check(folder, ".safetensors", struct.pack("<Q", declared) + text + body)


# --- pickles --------------------------------------------------------------------------------------------------------


def opcodes(content: bytes) -> list[bytes]:
    starts = [position for _, _, position in pickletools.genops(content)]
    return [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True) if a is not None]


@cache
def parts(kind: str) -> tuple[bytes, ...]:
    """Return a file's pickle and what is before and after it (legacy), or its pickle alone (zip)."""
    content = saved(kind)
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return (archive.read("archive/data.pkl"),)
    data = io.BytesIO(content)
    ends = []
    # a number, the version of the format, the sizes of C's types, the table of tensors
    for _ in range(4):
        for _ in pickletools.genops(data):
            pass
        ends.append(data.tell())
    return content[ends[2] : ends[3]], content[: ends[2]], content[ends[3] :]


def assembled(kind: str, table: bytes) -> bytes:
    if kind == "legacy":
        _, before, after = parts("legacy")
        return before + table + after
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved("zip"))) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, table if entry.filename.endswith("data.pkl") else old.read(entry))
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def hostile(folder: Path) -> list[bytes]:
    """Opcodes that would do something."""
    trace = text(str(folder / "trace"))
    huge = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")
    return [
        b"cposix\nmkdir\n" + trace + b"\x85R",
        b"cos\nmkdir\n" + trace + b"\x85R",
        b"c__builtin__\neval\n" + text(f"open({str(folder / 'trace')!r}, 'w')") + b"\x85R",
        b"cbuiltins\ngetattr\n",
        b"(" + trace + b"iposix\nmkdir\n",
        text("posix") + text("mkdir") + b"\x93" + trace + b"\x85R",
        b"cbuiltins\nbytearray\n" + huge + b"\x85R",
        b"ctorch\nFloatTensor\n" + huge + b"\x85R",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n",
        b"ctorch._utils\n_rebuild_sparse_tensor\n",
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"ctorch.nn.parameter\nParameter\n",
        b"ctorch\nDoubleStorage\n",
        b"ctorch\nFloatTensor\n)R",
        b"ccollections\nOrderedDict\n)R",
        *(bytes([code]) for code in b"0126()]}l.Natdu\x81R\x85\x86\x87\x88\x89besQPK"),
        huge,
        b"\x8a\x08" + b"\xff" * 8,
        b"K\0",
        b"J\xff\xff\xff\xff",
        b"M\xff\xff",
        b"h\0",
        b"r\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8e" + b"\xff" * 8,
        text("storage"),
    ]


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@given(data=st.data())
def test_opcodes_of_the_pickle(folder: Path, kind: str, data: st.DataObject) -> None:
    table = opcodes(parts(kind)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(table) - 1))
        action = data.draw(st.sampled_from(["insert", "replace", "delete", "swap", "copy", "number", "number"]))
        if action == "number":
            places = [k for k, code in enumerate(table) if code[:1] in b"KMJ\x8a"]
            if not places:
                continue
            value = data.draw(st.one_of(numbers(), st.integers(-3, 30))).to_bytes(9, "little", signed=True)
            table[data.draw(st.sampled_from(places))] = b"\x8a\x09" + value
        elif action == "insert":
            table.insert(at, data.draw(st.sampled_from(hostile(folder))))
        elif action == "replace":
            table[at] = data.draw(st.sampled_from(hostile(folder)))
        elif action == "delete" and len(table) > 1:
            del table[at]
        else:
            other = data.draw(st.integers(0, len(table) - 1))
            if action == "swap":
                table[at], table[other] = table[other], table[at]
            else:
                table[at] = table[other]
    check(folder, ".pth", assembled(kind, b"".join(table)))


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@given(data=st.data())
def test_bytes_of_the_pickle(folder: Path, kind: str, data: st.DataObject) -> None:
    check(folder, ".pth", assembled(kind, data.draw(mutated(parts(kind)[0]))))


# --- zip files ------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_entries_of_a_zip(folder: Path, data: st.DataObject) -> None:
    with zipfile.ZipFile(io.BytesIO(saved("zip"))) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    compression = zipfile.ZIP_STORED
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(entries) - 1))
        name, content = entries[at]
        action = data.draw(st.sampled_from(["rename", "rename", "delete", "double", "move", "damage", "compress"]))
        if action == "rename":
            known = [other for other, _ in entries]
            names = ["../w", "/w", "archive/../w", "w", "other/data.pkl", "archive/constants.pkl", "archive/data/0/"]
            entries[at] = data.draw(st.one_of(st.sampled_from(names + known), st.text(min_size=1, max_size=4))), content
        elif action == "delete" and len(entries) > 1:
            del entries[at]
        elif action == "double":
            entries.insert(data.draw(st.integers(0, len(entries))), entries[at])
        elif action == "move":
            entries.append(entries.pop(at))
        elif action == "damage":
            entries[at] = name, data.draw(mutated_once(content))
        elif action == "compress":
            compression = zipfile.ZIP_DEFLATED
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of double names
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in entries:
                archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "_"), content)
    check(folder, ".pth", file.getvalue())


@given(data=st.data())
def test_numbers_of_a_zip(folder: Path, data: st.DataObject) -> None:
    content = bytearray(saved("zip"))
    signatures = [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"]
    places = [at for mark in signatures for at in range(len(content)) if content[at : at + 4] == mark]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places)) + data.draw(st.integers(4, 54))
        width = data.draw(st.sampled_from([1, 2, 4, 8]))
        value = data.draw(st.one_of(numbers(), st.integers(0, len(content))))
        content[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    check(folder, ".pth", bytes(content))
