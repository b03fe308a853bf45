"""Read tensors from files that may be damaged or hostile, without running any code from them.

safetensors reads `.safetensors`, `torch.load(weights_only=True)` reads `.pth`.
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from damlpips.files import open_regular, reason, size

# 120 bytes per tensor, and ample room for metadata
LARGEST_HEADER = 1 << 20

# Before, a file could make `weights_only=True` run code: CVE-2025-32434 (torch 2.5), CVE-2026-24747 (torch 2.9).
FIRST_SAFE_TORCH = TorchVersion("2.10")

# of an entry's attributes in a zip archive
FOLDER = 0x10


class WeightsError(RuntimeError):
    """Weights cannot be found, cannot be read, or are not what they should be."""


def read_tensors(path: Path, *, known: bool = False) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` or `.pth` file without running any code from it.

    The tensors are on the CPU; they may share memory with each other and with the file.

    Args:
        known: whether the file's digest is that of a published file. Any other `.pth` file needs a torch without known
            flaws.

    Raises:
        WeightsError: the file is damaged, holds anything but tensors by name, or cannot be read safely here.
    """
    try:
        with open_regular(path) as file:
            if size(file) == 0:
                raise WeightsError(f"{path}: damaged, the file is empty")
            if path.suffix == ".safetensors":
                return _read_safetensors(path, file)
            if not known:
                _check_torch(path)
            return _read_torch(path, file)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it holds more than tensors, or is damaged; save a plain state dict instead"
            f" ({_cause(error)})"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path}: not a readable {path.suffix} file ({reason(error)})") from error
    except Exception as error:  # each reader has its own kinds of errors for a damaged file
        raise WeightsError(
            f"{path}: not a readable {path.suffix} file ({type(error).__name__}: {_cause(error)})"
        ) from error


def _check_torch(path: Path) -> None:
    if TorchVersion(torch.__version__) < FIRST_SAFE_TORCH:
        raise WeightsError(
            f"{path}: refused, a {path.suffix} file of unknown origin can run code in torch {torch.__version__}"
            f" (CVE-2026-24747). Upgrade to torch {FIRST_SAFE_TORCH} or later; or, if you trust the file, convert it:"
            f" safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
        )


def _cause(error: Exception) -> str:
    """Return the first line of an error; of torch's, without its advice to turn off what keeps this safe."""
    cause = str(error.__context__ or error).partition(" Please use")[0]
    return (cause.splitlines() or [""])[0][:300]


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
    is_zip = zipfile.is_zipfile(file)
    file.seek(0)
    if is_zip:
        _check_archive(file)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    else:  # the format before torch 1.6, which cannot be mapped
        state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise WeightsError(f"{path}: expected a state dict of tensors, got {type(state).__name__}")
    if not all(type(name) is str and _is_plain(value) for name, value in state.items()):
        raise WeightsError(f"{path}: expected a state dict of tensors, got a dict of other things, too")
    return {name: tensor.detach() for name, tensor in state.items()}


def _check_archive(file: BinaryIO) -> None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            # mapped, a compressed entry's bytes would be taken for numbers; of a folder torch reads nothing
            if entry.compress_type != zipfile.ZIP_STORED or entry.external_attr & FOLDER:
                name = repr(entry.filename[:80])
                raise pickle.UnpicklingError(f"zip entry {name} is compressed or a folder, which torch never writes")


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
