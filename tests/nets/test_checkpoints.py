"""Files that lie about what they hold are refused before they cost anything; plain state dicts of any age are read."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from damlpips import WeightsError
from damlpips.nets import pickles
from damlpips.nets.checkpoints import LEGACY, read_tensors

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5, -2.0]), "n": torch.tensor(7)}


def save_legacy(state: object, file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)


def refusal(file: Path) -> str:
    with pytest.raises(WeightsError) as error:
        read_tensors(file)
    assert str(file) in str(error.value)
    return str(error.value)


SAVERS: dict[str, Callable[[Any, Path], None]] = {"zip": torch.save, "legacy": save_legacy}


# --- what is plain is read ------------------------------------------------------------------------------------------

VIEWS = {
    "a parameter": torch.nn.Parameter(torch.ones(3)),
    "requires grad": torch.ones(3, requires_grad=True),
    "a slice": torch.arange(9.0)[2:5],
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "expanded": torch.ones(1).expand(5),
    "empty": torch.empty(0, 7),
    "a number": torch.tensor(3.0),
    "half": torch.ones(3).half(),
    "bfloat16": torch.ones(3).bfloat16(),
    "double": torch.ones(3).double(),
    "bool": torch.ones(3).bool(),
    "complex": torch.ones(3).to(torch.complex64),
}


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("view", VIEWS)
def test_plain_tensors_of_every_form(tmp_path: Path, kind: str, view: str) -> None:
    # twice: the two share their storage
    SAVERS[kind]({"x": VIEWS[view], "y": VIEWS[view]}, tmp_path / "w.pth")
    read = read_tensors(tmp_path / "w.pth")
    assert equal(read, {"x": VIEWS[view].detach(), "y": VIEWS[view].detach()})
    assert all(type(t) is Tensor and not t.requires_grad for t in read.values())
    assert [t.stride() for t in read.values()] == [VIEWS[view].stride()] * 2


@pytest.mark.parametrize("kind", SAVERS)
def test_the_state_of_a_module(tmp_path: Path, kind: str) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    SAVERS[kind](module.state_dict(), tmp_path / "w.pth")  # an OrderedDict with the versions of its modules
    assert equal(read_tensors(tmp_path / "w.pth"), module.state_dict())


@pytest.mark.parametrize("version", ["v0.0", "v0.1"])
@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_files_of_2018(version: str, net: str) -> None:
    import lpips

    # written by Python 2 and torch 0.3 and 0.4, in part on a GPU
    file = Path(lpips.__file__).parent / "weights" / version / f"{net}.pth"
    assert equal(read_tensors(file), torch.load(file, weights_only=True, map_location="cpu"))


def test_a_zip_without_check_sums(tmp_path: Path) -> None:
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(STATE, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(read_tensors(tmp_path / "w.pth"), STATE)


def test_a_network_of_the_largest_size_fits(tmp_path: Path) -> None:
    many = {f"a.name.of.the.usual.length.{k}.weight": torch.ones(1) for k in range(3000)}
    for name, save in (*SAVERS.items(), ("safetensors", save_file)):
        file = tmp_path / ("w.safetensors" if name == "safetensors" else "w.pth")
        save(many, file)
        read = read_tensors(file)
        assert equal({key: read[key] for key in many}, many)
        assert len(read) == len(many)


# --- pickles --------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def raw_pickle(value: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("kind", [*SAVERS, "pickle"])
@pytest.mark.parametrize("function", ["os.system", "os.mkdir", "eval", "exec", "getattr", "torch.load"])
def test_code_is_refused_and_not_run(tmp_path: Path, kind: str, function: str) -> None:
    canary = tmp_path / "canary"
    call = {
        "os.system": Call(os.system, f"touch {canary}"),
        "os.mkdir": Call(os.mkdir, str(canary)),
        "eval": Call(eval, f"open({str(canary)!r}, 'w')"),
        "exec": Call(exec, f"open({str(canary)!r}, 'w')"),
        "getattr": Call(getattr, STATE, "clear"),
        "torch.load": Call(torch.load, str(canary)),
    }[function]
    {**SAVERS, "pickle": raw_pickle}[kind]({**STATE, "c": call}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert "refused, it holds more than tensors, or is damaged" in message
    if kind != "pickle":
        called = f"{call.call[0].__module__}.{call.call[0].__name__}"
        assert f"holds '{called}'" in message.replace("__builtin__", "builtins")
    assert not canary.exists()


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def storage(numel: int, *, key: str = "0", kind: str = "torch\nFloatStorage", view: bytes = b"N") -> bytes:
    return tuple_of(text("storage"), b"c" + kind.encode() + b"\n", text(key), text("cpu"), number(numel), view) + b"Q"


def rebuilt(
    of: bytes, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, *, hooks: bytes = b"}"
) -> bytes:
    numbers = [tuple_of(*map(number, numbers)) for numbers in (shape, stride)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + tuple_of(of, number(offset), *numbers, b"\x89" + hooks) + b"R"


def legacy_file(file: Path, tensor: bytes, *, keys: tuple[str, ...] = ("0",)) -> Path:
    """Write three numbers, 1, 2 and 3, and a state dict with one tensor, by its pickle."""
    data = struct.pack("<q3f", 3, 1, 2, 3)
    listed = pickled(b"](", *map(text, keys), b"e")
    file.write_bytes(LEGACY + pickled(b"}") + pickled(b"}", text("x"), tensor, b"s") + listed + data * len(keys))
    return file


def test_the_files_made_here_are_read(tmp_path: Path) -> None:
    file = legacy_file(tmp_path / "w.pth", rebuilt(storage(3), (2,), (1,), 1))
    assert equal(read_tensors(file), {"x": torch.tensor([2.0, 3.0])})
    file = legacy_file(tmp_path / "w.pth", rebuilt(storage(3, view=tuple_of(text("v"), b"K\1", b"K\2")), (2,), (1,)))
    assert equal(read_tensors(file), {"x": torch.tensor([2.0, 3.0])})


FIRST = b"ctorch\nFloatTensor\n)R" + tuple_of(storage(3), b"K\1", b"K\2\x85", b"K\1\x85") + b"b"
PARAMETER = b"ctorch.nn.parameter\nParameter\n"
OLD_FORMS = {
    "a tensor by its state": FIRST,
    "a tensor by its class": FIRST.replace(b")R", b")\x81"),
    "a parameter": PARAMETER + FIRST + b"\x85R",
    "a parameter with its state": PARAMETER + FIRST + b"\x88\x86\x81" + tuple_of(b"\x88\x89N") + b"b",
    "a parameter by its state": PARAMETER + b")\x81" + tuple_of(FIRST, b"NN\x88\x89") + b"b",
}


@pytest.mark.parametrize("form", OLD_FORMS)
def test_tensors_as_torch_0_1_wrote_them(tmp_path: Path, form: str) -> None:
    assert equal(read_tensors(legacy_file(tmp_path / "w.pth", OLD_FORMS[form])), {"x": torch.tensor([2.0, 3.0])})


HUGE = 1 << 40
LIES = {
    "a storage longer than the file": (rebuilt(storage(HUGE), (3,), (1,)), "does not fit the file"),
    "a storage longer than its data": (rebuilt(storage(4), (3,), (1,)), "does not fit the file"),
    "a storage shorter than its data": (rebuilt(storage(2), (2,), (1,)), "does not fit the file"),
    "a storage of a negative length": (rebuilt(storage(-1), (0,), (1,)), "not a whole number from 0"),
    "a length beyond 64 bits": (rebuilt(storage(1 << 66), (3,), (1,)), "not a whole number from 0"),
    "a tensor larger than its storage": (rebuilt(storage(3), (HUGE,), (1,)), "beyond the end of its storage"),
    "a stride beyond the storage": (rebuilt(storage(3), (2,), (HUGE,)), "beyond the end of its storage"),
    "an offset beyond the storage": (rebuilt(storage(3), (3,), (1,), 1), "beyond the end of its storage"),
    "a negative stride": (rebuilt(storage(3), (2,), (-1,)), "not a whole number from 0"),
    "fewer strides than sides": (rebuilt(storage(3), (1, 3), (1,)), "does not match its strides"),
    "too many dimensions": (rebuilt(storage(3), (1,) * 99, (1,) * 99), "does not match its strides"),
    "a view beyond the storage": (
        rebuilt(storage(3, view=tuple_of(text("v"), b"K\2K\2")), (2,), (1,)),
        "view beyond the end of storage '0'",
    ),
    "one storage of two lengths": (
        rebuilt(storage(3), (3,), (1,)) + b"0" + rebuilt(storage(2), (2,), (1,)),
        "opcode POP|two lengths",
    ),
    "storage of two kinds": (
        tuple_of(rebuilt(storage(3), (3,), (1,)), rebuilt(storage(3, kind="torch\nIntStorage"), (3,), (1,))),
        "storage '0' has two lengths or kinds",
    ),
    "hooks": (rebuilt(storage(3), (3,), (1,), hooks=b"}K\1K\1s"), "holds hooks"),
    "a quantised storage": (rebuilt(storage(3, kind="torch\nQInt8Storage"), (3,), (1,)), "holds 'torch.QInt8Storage'"),
    "gigabytes of a bytearray": (b"cbuiltins\nbytearray\n" + number(HUGE) + b"\x85R", "holds 'builtins.bytearray'"),
    "gigabytes of a tensor": (b"ctorch\nFloatTensor\n" + number(HUGE) + b"\x85R", "TypeError"),
    "a tensor without a storage": (b"ctorch\nFloatTensor\n)R", "lists other storages than its tensors use"),
    "a state that hides a method": (b"ccollections\nOrderedDict\n)R}" + text("items") + b"K\1sb", "gives a state"),
    "a memo that is not there": (b"hA", "KeyError"),
    "a memo far away": (b"}r\xff\xff\xff\xff", "lists other storages than its tensors use"),
    "nothing on the stack": (b"R", "calls something else|IndexError"),
    "a mark too few": (b"t", "IndexError"),
    "a call of a number": (b"K\1)R", "calls something else"),
    "a bomb of nested tuples as a key": (
        b"}" + b")" + b"".join(b"q%c" % k + b"h%c" % k + b"\x86" for k in range(60)) + b"K\1s",
        "a dict with keys of type tuple",
    ),
    "a list in itself": (b"]q\1h\1a", "lists other storages than its tensors use"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_legacy_file_that_lies(tmp_path: Path, lie: str) -> None:
    tensor, message = LIES[lie]
    assert re.search(message, refusal(legacy_file(tmp_path / "w.pth", tensor)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), "other storages than its tensors use"),
        (("1",), "other storages than its tensors use"),
        (("0", "0"), "other storages than its tensors use"),
        (("0", "1"), "other storages than its tensors use"),
    ],
)
def test_a_legacy_file_that_lists_other_storages(tmp_path: Path, keys: tuple[str, ...], message: str) -> None:
    # torch would leave the memory of those it does not list as it is
    assert message in refusal(legacy_file(tmp_path / "w.pth", rebuilt(storage(3), (3,), (1,)), keys=keys))


def test_a_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.pth", "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert "not a file that torch.save has written" in refusal(tmp_path / "w.pth")
    # and the same behind the beginning of a legacy file
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[: len(LEGACY)] = LEGACY
    (tmp_path / "w.pth").write_bytes(content)
    assert "damaged pickle" in refusal(tmp_path / "w.pth")


def test_a_table_without_end(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(LEGACY + b"\x80\x02" + b"N" * (2 * pickles.LARGEST))
    assert "damaged pickle" in refusal(tmp_path / "w.pth")
    rewritten(tmp_path / "w.pth", lambda name, data: data + bytes(pickles.LARGEST) if "data.pkl" in name else data)
    assert "a table of tensors of" in refusal(tmp_path / "w.pth")


def tagged(tensor: Tensor) -> Tensor:
    tensor.tag = "mine"  # type: ignore[attr-defined]
    return tensor


NOT_PLAIN = {
    "sparse": (lambda: torch.ones(3).to_sparse(), "_rebuild_sparse_tensor"),
    "meta": (lambda: torch.empty(3, device="meta"), "_rebuild_meta_tensor_no_storage"),
    "float8": (lambda: torch.ones(3).to(torch.float8_e4m3fn), "_rebuild_tensor_v3"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "_rebuild_qtensor"),
    "a negative view": (lambda: torch._neg_view(torch.ones(3)), "_tensor"),
    "a subclass": (lambda: torch.nn.Buffer(torch.ones(3)), "_rebuild_from_type_v2"),
    "a tensor with an attribute": (lambda: tagged(torch.ones(3)), "_rebuild_from_type_v2"),
    "text": (lambda: "text", "expected a state dict of tensors, got a dict of other things, too"),
    "a storage": (lambda: torch.ones(3).untyped_storage(), "UntypedStorage"),
    "a set": (lambda: {1}, "holds 'builtins.set'"),
    "a module": (lambda: torch.nn.Linear(2, 2), "holds 'torch.nn.modules.linear.Linear'"),
    "a dict": (lambda: {"y": torch.ones(3)}, "expected a state dict of tensors, got a dict of other things, too"),
}


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("what", NOT_PLAIN)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_tensor(tmp_path: Path, kind: str, what: str) -> None:
    make, message = NOT_PLAIN[what]
    SAVERS[kind]({**STATE, "x": make()}, tmp_path / "w.pth")
    assert message in refusal(tmp_path / "w.pth").replace("__builtin__", "builtins")


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("key", [1, 1.5, None, ("a",), b"a", True])
def test_names_that_are_no_text(tmp_path: Path, kind: str, key: object) -> None:
    SAVERS[kind]({**STATE, key: torch.ones(1)}, tmp_path / "w.pth")
    refusal(tmp_path / "w.pth")


# --- zip files ------------------------------------------------------------------------------------------------------


def rewritten(
    file: Path,
    change: Callable[[str, bytes], bytes] = lambda name, data: data,
    *,
    rename: Callable[[str], str] = str,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Save a state dict, then write its zip file anew."""
    torch.save(STATE, file)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(rename(name), change(name, data))
    return file


def test_a_zip_file_by_another_writer(tmp_path: Path) -> None:
    assert equal(read_tensors(rewritten(tmp_path / "w.pth")), STATE)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_entries(tmp_path: Path, compression: int) -> None:
    assert "is compressed" in refusal(rewritten(tmp_path / "w.pth", compression=compression))


@pytest.mark.parametrize("name", ["../evil", "w/../../evil", "/etc/evil", "w//evil", "w/.", "C:/evil", "w\\..\\evil"])
def test_entries_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    file = rewritten(tmp_path / "w.pth", rename=lambda n: name if n.endswith("byteorder") else n)
    assert "leads out of its folder, or has a name that is not plain" in refusal(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_of_one_name(tmp_path: Path) -> None:
    file = rewritten(tmp_path / "w.pth", rename=lambda n: n.replace("data/1", "data/0"))
    assert "'w/data/0' occurs twice" in refusal(file)


def test_storages_of_another_length(tmp_path: Path) -> None:
    for change in (lambda d: d[:-4], lambda d: d + bytes(4), lambda d: b""):
        file = rewritten(tmp_path / "w.pth", lambda name, data, c=change: c(data) if name == "w/data/0" else data)
        assert "storage '0' of 24 bytes has" in refusal(file)
    file = rewritten(tmp_path / "w.pth", rename=lambda n: n.replace("data/0", "data/7"))
    assert "storage '0' of 24 bytes has 0 in the file" in refusal(file)
    file = rewritten(tmp_path / "w.pth", rename=lambda n: n.replace("data.pkl", "other.pkl"))
    assert "has no data.pkl" in refusal(file)


def central(content: bytearray, name: bytes) -> int:
    """Return where an entry's record in the directory begins."""
    return content.rindex(name) - 46


@pytest.mark.parametrize(
    "lie", ["overlap", "beyond", "elsewhere", "sizes", "encrypted", "folder", "directory", "count"]
)
def test_a_zip_file_that_lies(tmp_path: Path, lie: str) -> None:
    content = bytearray(rewritten(tmp_path / "w.pth").read_bytes())
    first, second, end = central(content, b"w/data/0"), central(content, b"w/data/1"), len(content) - 22
    if lie == "overlap":
        content[second + 42 : second + 46] = content[first + 42 : first + 46]
    elif lie == "beyond":
        content[first + 20 : first + 28] = struct.pack("<LL", 1 << 31, 1 << 31)
    elif lie == "elsewhere":
        content[first + 42 : first + 46] = struct.pack("<L", 5)
    elif lie == "sizes":
        content[first + 24 : first + 28] = struct.pack("<L", 1 << 31)
    elif lie == "encrypted":
        content[first + 8] |= 1
    elif lie == "folder":
        content[first + 38] |= 0x10
    elif lie == "directory":
        content[end + 12 : end + 16] = struct.pack("<L", 1 << 30)
    else:
        content += b"after the end"
    (tmp_path / "w.pth").write_bytes(content)
    message = {
        "overlap": "overlaps another",
        "beyond": "is longer than the file",
        "elsewhere": "is not where the directory says",
        "sizes": "is compressed, encrypted or a folder",
        "folder": "is compressed, encrypted or a folder",
        "encrypted": "is compressed, encrypted or a folder",
        "directory": "a zip directory of 1073741824 bytes",
        "count": "directory of the zip file is not at its end",
    }[lie]
    assert message in refusal(tmp_path / "w.pth")


def test_two_directories(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth")
    whole = bytearray((tmp_path / "w.pth").read_bytes())
    assert whole[-42:-38] == b"PK\x06\x07"  # torch writes the 64-bit directory, too
    for position in (len(whole) - 34, len(whole) - 22 - 20 - 16, len(whole) - 22 - 20 - 8):
        content = bytearray(whole)
        content[position] ^= 1
        (tmp_path / "w.pth").write_bytes(content)
        assert "two directories" in refusal(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "w.pth")
    assert "refused" in refusal(tmp_path / "w.pth")
    file = rewritten(tmp_path / "w.pth", rename=lambda name: name.replace("byteorder", "constants.pkl"))
    assert "a TorchScript archive, which holds code" in refusal(file)


# --- safetensors ----------------------------------------------------------------------------------------------------


def header(file: Path, value: object, data: bytes = bytes(24), length: int | None = None) -> Path:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2, 3), begin: int = 0, end: int = 24) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_the_headers_made_here_are_read(tmp_path: Path) -> None:
    assert equal(read_tensors(header(tmp_path / "w.safetensors", {"x": entry()})), {"x": torch.zeros(2, 3)})


@pytest.mark.parametrize("length", [25, 1 << 20, (1 << 20) + 1, 1 << 40, (1 << 64) - 1])
def test_headers_longer_than_the_file_or_any_network(tmp_path: Path, length: int) -> None:
    file = header(tmp_path / "w.safetensors", {}, length=length, data=b"")
    if length == (1 << 20) + 1:
        os.truncate(file, 1 << 24)
    assert f"a header of {length} bytes in a file of" in refusal(file)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"x": 1}',
        b"\xff",
        b"[" * 100_000,
        b'{"x":' * 100_000,
        b'{"x":' + b"9" * 10_000 + b"}",
        {"x": entry(end=1 << 62)},
        {"x": entry(shape=(1 << 62, 1 << 62))},
        {"x": entry(shape=(-2, 3))},
        {"x": entry(begin=24, end=0)},
        {"x": entry(end=20, shape=(5,))},
        {"x": entry(), "y": entry()},
        {"x": entry(begin=4, end=24, shape=(5,))},
        {"x": entry("F99")},
        {"x": entry("I64")},
        {"x": {"dtype": "F32"}},
        {"__metadata__": {"x": 1}},
    ],
)
def test_headers_that_lie(tmp_path: Path, value: object) -> None:
    assert "not a readable .safetensors file" in refusal(header(tmp_path / "w.safetensors", value))


# --- any kind -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_file(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"empty{suffix}").touch()
    (tmp_path / f"broken{suffix}").symlink_to("nothing")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    for name, message in (
        ("pipe", "Not a regular file"),
        ("folder", "Is a directory"),
        ("empty", "damaged, the file is empty"),
        ("broken", "No such file"),
        ("device", "Not a regular file"),
        ("gone", "No such file"),
    ):
        assert message in refusal(tmp_path / f"{name}{suffix}")


def test_messages_stay_short(tmp_path: Path) -> None:
    long = "k" * 500_000
    torch.save({long: "text"}, tmp_path / "w.pth")
    assert len(refusal(tmp_path / "w.pth")) < 1000
    legacy_file(tmp_path / "w.pth", b"ctorch\n" + long.encode() + b"\n)R")
    assert len(refusal(tmp_path / "w.pth")) < 1000


def test_torch_and_the_walk_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, tmp_path / "w.pth")
    monkeypatch.setattr(torch, "load", lambda *_, **__: {**STATE, "b": torch.zeros(3)})
    assert "torch reads it otherwise" in refusal(tmp_path / "w.pth")


MEASURE = """
import resource, sys
from pathlib import Path
from damlpips.nets.checkpoints import WeightsError, read_tensors

for name in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_tensors(Path(name))
    except WeightsError:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_lies_cost_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    files = [legacy_file(tmp_path / f"{k}.pth", tensor) for k, (tensor, _) in enumerate(LIES.values())]
    files.append(header(tmp_path / "w.safetensors", {}, length=1 << 40))
    files.append(rewritten(tmp_path / "zip.pth", lambda n, d: bytes(1 << 26) if n == "w/version" else d, compression=8))
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, files[0], *files], capture_output=True, text=True, timeout=300, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    added = [int(line) * unit for line in run.stdout.splitlines()][1:]
    assert len(added) == len(files)
    assert max(added) < 16 << 20
