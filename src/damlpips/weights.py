"""Find, verify and load weights: backbones from a folder, a cache or a download; LPIPS heads from `weights/`.

Nothing here runs code from a file: `.pth` is read with `weights_only=True`, anything else must be safetensors.
"""

import hashlib
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from damlpips.checks import one_of

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef,import-not-found,unused-ignore]

ENVIRONMENT_VARIABLE = "DAMLPIPS_WEIGHTS_DIR"
SUFFIXES = (".safetensors", ".pth", ".pt")


class WeightsError(RuntimeError):
    """Weights cannot be found, cannot be read, or are not what they should be."""


def weights_dir() -> Path:
    """Return the folder with the cards and the heads: inside an installed package, or at the top of a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_weights", here.parents[1] / "weights"):
        if (folder / "cards.toml").is_file():
            return folder
    raise WeightsError(f"weights/cards.toml is missing beside {here}: install damlpips again")


@lru_cache(maxsize=1)
def cards() -> dict[str, Any]:
    """Return `weights/cards.toml`: what is known about every weights file."""
    return tomllib.loads((weights_dir() / "cards.toml").read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    status = path.stat()
    return _sha256(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _sha256(path: str, _mtime_ns: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def existing_file(path: str | os.PathLike[str], *, option: str) -> Path:
    """Return `path` if it is a file of a kind that can be loaded.

    Raises:
        WeightsError: no such file, or neither `.safetensors` nor `.pth`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(f"{option}={str(path)!r}: no such file")
    if file.suffix not in SUFFIXES:
        raise WeightsError(f"{option}={str(path)!r}: expected a .safetensors or .pth file, got {file.suffix!r}")
    return file.resolve()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` or `.pth` file without running any code from it.

    Raises:
        WeightsError: the file is damaged, or holds anything but tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # only torch's zip format can be mapped; the legacy one is read
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it holds more than tensors, or is damaged; save a plain state dict instead"
            f" ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # each reader has its own kinds of errors for a damaged file
        raise WeightsError(f"{path}: not a readable {path.suffix} file ({type(error).__name__}: {error})") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(f"{path}: expected a state dict of tensors, got {type(state).__name__}")
    return dict(state)


def select_strictly(
    state: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    *,
    path: Path,
    ignored_prefixes: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Return the tensors of `state` that `expected` (name -> shape) asks for.

    Raises:
        WeightsError: names the first key that is missing, unexpected, of another shape or not finite. Keys that begin
            with one of `ignored_prefixes` (a classifier on top of the features) are passed over.
    """
    for name, shape in expected.items():
        if name not in state:
            raise WeightsError(f"{path}: key {name!r} is missing")
        if tuple(state[name].shape) != tuple(shape):
            raise WeightsError(f"{path}: key {name!r} has shape {tuple(state[name].shape)}, expected {tuple(shape)}")
    for name in state:
        if name not in expected and not name.startswith(tuple(ignored_prefixes)):
            raise WeightsError(f"{path}: unexpected key {name!r}")
    for name in expected:
        if not state[name].is_floating_point() and not name.endswith("num_batches_tracked"):
            raise WeightsError(f"{path}: key {name!r} holds {state[name].dtype}, expected floating-point numbers")
        if not bool(torch.isfinite(state[name]).all()):
            raise WeightsError(f"{path}: key {name!r} holds values that are not finite")
    # copies: the readers map the file, and tensors must not change with it
    return {name: state[name].clone() for name in expected}


def _verify(path: Path, card: Mapping[str, Any]) -> None:
    """Raise a WeightsError if the file bears a known name but not the contents that belong to it."""
    known = {
        card["file"]: card.get("sha256") or card.get("sha256_prefix"),
        card.get("features_file"): card.get("features_sha256"),
    }
    expected = known.get(path.name)
    if expected and not (found := sha256(path)).startswith(expected):
        raise WeightsError(
            f"{path}: SHA-256 is {found}, expected {expected}{'...' if len(expected) < 64 else ''} for a file of this"
            " name: it is damaged or another file; delete it, or rename it if these are weights of your own"
        )


def _torch_hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _places(card: Mapping[str, Any]) -> list[Path]:
    """Return the files that may hold a backbone's weights, in the order in which they are looked for."""
    places = []
    if folder := os.environ.get(ENVIRONMENT_VARIABLE):
        places += [Path(folder).expanduser() / card["features_file"], Path(folder).expanduser() / card["file"]]
    return [*places, _torch_hub_folder() / card["file"]]


def backbone_card(name: str) -> dict[str, Any]:
    """Return the card of a torchvision backbone."""
    return cards()["backbone"][name]


def find_backbone(name: str, weights: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the file with a backbone's weights, or None where it would have to be downloaded.

    Looked for in this order: `weights`, the folder `DAMLPIPS_WEIGHTS_DIR`, torch hub's cache.
    """
    if weights is not None:
        return existing_file(weights, option="weights")
    return next((place for place in _places(backbone_card(name)) if place.is_file()), None)


def load_backbone(
    name: str,
    weights: str | os.PathLike[str] | None,
    expected: Mapping[str, tuple[int, ...]],
    ignored_prefixes: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Return a backbone's state dict from the first place that has it; download it as a last resort.

    Raises:
        WeightsError: not found and not downloadable (says where it looked and what to do), damaged, or with other keys.
    """
    card = backbone_card(name)
    path = find_backbone(name, weights) or _download(name, card)
    state = select_strictly(read_tensors(path), expected, path=path, ignored_prefixes=ignored_prefixes)
    _verify(path, card)
    return state


def _download(name: str, card: Mapping[str, Any]) -> Path:
    target = _torch_hub_folder() / card["file"]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(card["url"], str(target), hash_prefix=card["sha256_prefix"])
    except (URLError, OSError, RuntimeError) as error:
        looked = "\n".join(f"  {place}" for place in _places(card))
        unset = "" if os.environ.get(ENVIRONMENT_VARIABLE) else f" ({ENVIRONMENT_VARIABLE} is not set)"
        raise WeightsError(
            f"no weights for backbone {name!r} ({card['title']}). Looked for{unset}:\n{looked}\n"
            f"and could not download {card['url']} ({error}).\n"
            f"Three ways out:\n"
            f"  1. pass weights='/path/to/{card['file']}' (or .safetensors);\n"
            f"  2. set {ENVIRONMENT_VARIABLE} to a folder with {card['features_file']} or {card['file']};\n"
            f"  3. on a machine with a network, download {card['url']} and copy it to {target}.\n"
            f"Or use the embedded backbone, which needs no weights: DAMLPIPS('gabor')."
        ) from error
    return target


def head_names() -> list[str]:
    """Return the versions of LPIPS heads that this package carries, the newest first."""
    return list(cards()["head"])


def load_heads(heads: str, backbone: str, channels: tuple[int, ...]) -> list[Tensor]:
    """Return the head of each layer, shape (C_l,), by version (`"v0.1"`, `"v0.0"`) or from a file in `lpips`'s layout.

    Raises:
        WeightsError: no such file, a damaged file, or other keys than `lin0.model.1.weight`, ... of the backbone's
            channels.
        ValueError: neither a version nor a path, or the version has no heads for this backbone.
    """
    if heads in cards()["head"]:
        version = cards()["head"][heads]
        card = version[one_of(f"backbone for heads={heads!r}", backbone, version)]
        path = weights_dir() / card["file"]
        _verify(path, card)
    elif Path(heads).suffix in SUFFIXES:
        path = existing_file(heads, option="heads")
    else:
        known = ", ".join(repr(k) for k in [*head_names(), "uniform"])
        raise ValueError(
            f"unknown heads {heads!r}: expected one of {known}, or the path of a .safetensors or .pth file"
        )
    expected = {f"lin{k}.model.1.weight": (1, c, 1, 1) for k, c in enumerate(channels)}
    state = select_strictly(read_tensors(path), expected, path=path)
    return [state[name].reshape(-1).float() for name in expected]
