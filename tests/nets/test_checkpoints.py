"""Files that lie about what they hold are refused and run nothing; plain state dicts of any age are read."""

import io
import json
import os
import pickle
import struct
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
from damlpips.nets import checkpoints
from damlpips.nets.checkpoints import read_tensors
from tests.support.processes import python

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


# how torch.save began a file before torch 1.6: a number and the version of the format, each a pickle
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."

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
        assert call.call[0].__name__ in message
    assert "weights_only" not in message
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
    "a storage longer than the file": rebuilt(storage(HUGE), (3,), (1,)),
    "a storage longer than its data": rebuilt(storage(4), (3,), (1,)),
    "a storage shorter than its data": rebuilt(storage(2), (2,), (1,)),
    "a storage of a negative length": rebuilt(storage(-1), (0,), (1,)),
    "a length beyond 64 bits": rebuilt(storage(1 << 66), (3,), (1,)),
    "a tensor larger than its storage": rebuilt(storage(3), (HUGE,), (1,)),
    "a stride beyond the storage": rebuilt(storage(3), (2,), (HUGE,)),
    "a negative stride": rebuilt(storage(3), (2,), (-1,)),
    "fewer strides than sides": rebuilt(storage(3), (1, 3), (1,)),
    "a view beyond the storage": rebuilt(storage(3, view=tuple_of(text("v"), b"K\2K\2")), (2,), (1,)),
    "storage of two kinds": tuple_of(
        rebuilt(storage(3), (3,), (1,)), rebuilt(storage(3, kind="torch\nIntStorage"), (3,), (1,))
    ),
    "gigabytes of a bytearray": b"cbuiltins\nbytearray\n" + number(HUGE) + b"\x85R",
    "gigabytes of a tensor": b"ctorch\nFloatTensor\n" + number(HUGE) + b"\x85R",
    "a tensor without a storage": b"ctorch\nFloatTensor\n)R",
    "a state that hides a method": b"ccollections\nOrderedDict\n)R}" + text("items") + b"K\1sb",
    "a memo that is not there": b"hA",
    "a memo far away": b"}r\xff\xff\xff\xff",
    "nothing on the stack": b"R",
    "a mark too few": b"t",
    "a call of a number": b"K\1)R",
    "a list in itself": b"]q\1h\1a",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_legacy_file_that_lies(tmp_path: Path, lie: str) -> None:
    refusal(legacy_file(tmp_path / "w.pth", LIES[lie]))


@pytest.mark.parametrize("keys", [("1",), ("0", "1")])
def test_a_legacy_file_that_lists_other_storages(tmp_path: Path, keys: tuple[str, ...]) -> None:
    refusal(legacy_file(tmp_path / "w.pth", rebuilt(storage(3), (3,), (1,)), keys=keys))


def test_a_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.pth", "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    refusal(tmp_path / "w.pth")
    # and the same behind the beginning of a legacy file
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[: len(LEGACY)] = LEGACY
    (tmp_path / "w.pth").write_bytes(content)
    refusal(tmp_path / "w.pth")


NOT_PLAIN = {
    "sparse": lambda: torch.ones(3).to_sparse(),
    "meta": lambda: torch.empty(3, device="meta"),
    "text": lambda: "text",
    "a storage": lambda: torch.ones(3).untyped_storage(),
    "a set": lambda: {1},
    "a module": lambda: torch.nn.Linear(2, 2),
    "a dict": lambda: {"y": torch.ones(3)},
}


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("what", NOT_PLAIN)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_tensor(tmp_path: Path, kind: str, what: str) -> None:
    SAVERS[kind]({**STATE, "x": NOT_PLAIN[what]()}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    if what == "a module":
        assert "torch.nn.modules.linear.Linear" in message
    elif (what, kind) != ("a storage", "legacy"):
        assert "expected a state dict of tensors, got a dict of other things, too" in message


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
    # mapped, torch would take the compressed bytes for numbers
    assert "is compressed or a folder" in refusal(rewritten(tmp_path / "w.pth", compression=compression))


def test_an_entry_that_is_flagged_as_a_folder(tmp_path: Path) -> None:
    content = bytearray(rewritten(tmp_path / "w.pth").read_bytes())
    content[content.rindex(b"w/data/0") - 46 + 38] |= checkpoints.FOLDER  # in the directory
    (tmp_path / "w.pth").write_bytes(content)
    assert "is compressed or a folder" in refusal(tmp_path / "w.pth")


def test_storages_of_another_length(tmp_path: Path) -> None:
    file = rewritten(tmp_path / "w.pth", rename=lambda n: n.replace("data/0", "data/7"))
    refusal(file)
    file = rewritten(tmp_path / "w.pth", rename=lambda n: n.replace("data.pkl", "other.pkl"))
    refusal(file)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*TorchScript archive:UserWarning")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "w.pth")
    assert "TorchScript" in refusal(tmp_path / "w.pth") or "is compressed" in refusal(tmp_path / "w.pth")
    file = rewritten(tmp_path / "w.pth", rename=lambda name: name.replace("byteorder", "constants.pkl"))
    assert "TorchScript" in refusal(file)


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
    # torch takes a time that is quadratic in this name's length to word its error
    legacy_file(tmp_path / "w.pth", b"ctorch\n" + long[:5000].encode() + b"\n)R")
    assert len(refusal(tmp_path / "w.pth")) < 1000


@pytest.mark.parametrize("version", ["2.4.0", "2.5.1+cu124", "2.9.1"])
def test_a_torch_with_known_flaws_reads_no_pth_of_unknown_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    for kind, save in SAVERS.items():
        save(STATE, tmp_path / f"{kind}.pth")
    save_file(STATE, tmp_path / "w.safetensors")
    monkeypatch.setattr(torch, "__version__", version)
    for kind in SAVERS:
        file = tmp_path / f"{kind}.pth"
        message = refusal(file)
        for part in (f"in torch {version} (CVE-2026-24747)", "Upgrade to torch 2.10", "safetensors.torch.save_file"):
            assert part in message
        assert equal(read_tensors(file, known=True), STATE)
    assert read_tensors(tmp_path / "w.safetensors").keys() == STATE.keys()


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
    files = [legacy_file(tmp_path / f"{k}.pth", tensor) for k, tensor in enumerate(LIES.values())]
    files.append(header(tmp_path / "w.safetensors", {}, length=1 << 40))
    files.append(rewritten(tmp_path / "zip.pth", lambda n, d: bytes(1 << 26) if n == "w/version" else d, compression=8))
    printed = python(MEASURE, files[0], *files)
    unit = 1 if sys.platform == "darwin" else 1024
    added = [int(line) * unit for line in printed.splitlines()][1:]
    assert len(added) == len(files)
    assert max(added) < 16 << 20
