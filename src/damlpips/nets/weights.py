"""Find, verify and load weights: backbones from a folder, a cache or a download; LPIPS heads from `weights/`.

No file is trusted, and none of its code runs: `checkpoints.py` reads it. A file with a published name must have the
published contents.
"""

import os
import reprlib
import stat
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from damlpips.checks import FLOATING_TYPES, one_of
from damlpips.files import digest, identity, is_plain_name, reason
from damlpips.nets.checkpoints import WeightsError as WeightsError
from damlpips.nets.checkpoints import read_tensors

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef,import-not-found,unused-ignore]

ENVIRONMENT_VARIABLE = "DAMLPIPS_WEIGHTS_DIR"
SUFFIXES = (".safetensors", ".pth", ".pt")


def weights_dir() -> Path:
    """Return the folder with the cards and the heads: inside the installed package, or at the top of a checkout."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "_weights", here.parents[1] / "weights"):
        if (folder / "cards.toml").is_file():
            return folder
    raise WeightsError(f"weights/cards.toml is missing beside {here}: install damlpips again")


@lru_cache(maxsize=1)
def cards() -> dict[str, Any]:
    """Return `weights/cards.toml`: what is known about each weights file."""
    return tomllib.loads((weights_dir() / "cards.toml").read_text(encoding="utf-8"))


def _file_name(card: Mapping[str, Any], field: str = "file") -> str:
    if not is_plain_name(name := card[field]):
        raise WeightsError(f"weights/cards.toml: {field} = {_shown(name)} is not the name of a file in a folder")
    return name


def _shown(value: object) -> str:
    """Return a value as an error message quotes it, shortened: a file may hold very long ones."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    short.maxtuple = 8
    return short.repr(value)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits; computed once while the file looks unchanged.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        return _sha256(str(path), identity(path))
    except OSError as error:
        raise WeightsError(f"{path}: {reason(error)}") from error


@lru_cache(maxsize=64)
def _sha256(path: str, _identity: tuple[int, ...]) -> str:
    return digest(path)


def existing_file(path: str | os.PathLike[str], *, option: str) -> Path:
    """Return the resolved path of a file that can be loaded.

    Raises:
        WeightsError: there is no such file, it is not a regular file, or its suffix is neither `.safetensors` nor
            `.pth`.
    """
    shown = f"{option}={str(path)!r}"
    try:
        file = Path(path).expanduser()
        mode = file.stat().st_mode
    except FileNotFoundError as error:
        raise WeightsError(f"{shown}: no such file") from error
    except OSError as error:
        raise WeightsError(f"{shown}: {reason(error)}") from error
    except (ValueError, RuntimeError) as error:  # a NUL character, or the home of an unknown user
        raise WeightsError(f"{shown}: not a file name ({error})") from error
    if not stat.S_ISREG(mode):
        raise WeightsError(f"{shown}: is a folder, a pipe or a device, expected a .safetensors or .pth file")
    if file.suffix not in SUFFIXES:
        raise WeightsError(f"{shown}: expected a .safetensors or .pth file, got {file.suffix!r}")
    return file.resolve()


def select_strictly(
    state: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    *,
    path: Path,
    ignored_prefixes: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Return the tensors of `state` that `expected` (name -> shape) lists.

    Args:
        ignored_prefixes: what the keys that are skipped begin with, such as those of a classifier on the features.

    Raises:
        WeightsError: a key is missing, unexpected, of another shape or not finite; names the first one.
    """
    for name, shape in expected.items():
        if name not in state:
            raise WeightsError(f"{path}: key {name!r} is missing")
        if tuple(state[name].shape) != tuple(shape):
            found = _shown(tuple(state[name].shape))
            raise WeightsError(f"{path}: key {name!r} has shape {found}, expected {tuple(shape)}")
    for name in state:
        if name not in expected and not name.startswith(tuple(ignored_prefixes)):
            raise WeightsError(f"{path}: unexpected key {_shown(name)}")
    for name in expected:
        _check_values(name, state[name], path)
    # copies, since the readers may map the file, and tensors must not change with it
    return {name: state[name].detach().clone(memory_format=torch.contiguous_format) for name in expected}


def _check_values(name: str, tensor: Tensor, path: Path) -> None:
    whole = name.endswith("num_batches_tracked") and tensor.dtype == torch.int64
    if not whole and tensor.dtype not in FLOATING_TYPES:
        raise WeightsError(
            f"{path}: key {name!r} holds {tensor.dtype}, expected floating-point numbers of 16, 32 or 64 bits"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise WeightsError(f"{path}: key {name!r} holds values that are not finite")


def _known_digests() -> dict[str, str]:
    """Return the SHA-256, or its first digits, of each file in the cards, by the file's name; empty if unknown."""
    heads = (card for versions in cards()["head"].values() for card in versions.values())
    digests = {_file_name(card): card["sha256"] for card in heads}
    for card in cards()["backbone"].values():
        digests[_file_name(card)] = card["sha256"] if _is_embedded(card) else card["sha256_prefix"]
        if not _is_embedded(card):
            digests[_file_name(card, "features_file")] = card.get("features_sha256", "")
    return digests


def known_digest(path: Path) -> str:
    """Return the published SHA-256, or the first digits of it, of a file with this name; empty if there is none."""
    return _known_digests().get(path.name, "")


def _verify(path: Path) -> bool:
    """Return whether the file is a published one, by its name and its digest.

    Raises:
        WeightsError: it has the name of a published file, but other contents.
    """
    if not (expected := known_digest(path)):
        return False
    # hashed each time, since the file may have been replaced
    if not (found := digest(path)).startswith(expected):
        raise WeightsError(
            f"{path}: SHA-256 is {found}, expected {expected}{'...' if len(expected) < 64 else ''} for a file of this"
            " name: it is damaged or another file; delete it, or rename it if these are weights of your own"
        )
    return True


def load_tensors(
    path: Path, expected: Mapping[str, tuple[int, ...]], ignored_prefixes: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Verify a file, then read it, then check its contents."""
    try:
        before = identity(path)
        tensors = read_tensors(path, known=_verify(path))
        state = select_strictly(tensors, expected, path=path, ignored_prefixes=ignored_prefixes)
        unchanged = identity(path) == before
    except OSError as error:
        raise WeightsError(f"{path}: {reason(error)}") from error
    if not unchanged:
        raise WeightsError(f"{path}: was written to while it was read: try again")
    return state


def _torch_hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _candidates(card: Mapping[str, Any]) -> list[Path]:
    """Return the files that may hold a backbone's weights, in the order in which they are tried."""
    if _is_embedded(card):
        return [weights_dir() / _file_name(card)]
    found = []
    if folder := os.environ.get(ENVIRONMENT_VARIABLE):
        found += [Path(folder).expanduser() / _file_name(card, field) for field in ("features_file", "file")]
    return [*found, _torch_hub_folder() / _file_name(card)]


def _is_embedded(card: Mapping[str, Any]) -> bool:
    """Return whether a backbone's weights are part of this package."""
    return "url" not in card


def backbone_card(name: str) -> dict[str, Any]:
    """Return a backbone's card by its name: the backbone's own, or one of `TRAINED_FOR`."""
    return cards()["backbone"][name]


def find_backbone(name: str, weights: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the file with a backbone's weights, or None if it would have to be downloaded.

    The first that exists of `weights`, the files in the folder `DAMLPIPS_WEIGHTS_DIR`, and torch hub's cache. The
    weights of an embedded backbone are in the package.
    """
    if weights is not None:
        return existing_file(weights, option="weights")
    return next((path for path in _candidates(backbone_card(name)) if _exists(path)), None)


def _exists(path: Path) -> bool:
    """Return whether a path exists in any form: one that is not a readable file is an error later, never skipped."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise WeightsError(f"{path}: {reason(error)}") from error
    return True


def short_digest(name: str, weights: str | os.PathLike[str] | None = None) -> str:
    """Return the first eight digits of the SHA-256 of a backbone's weights, wherever they are.

    Of the published ones it is that of the published file, whatever file they are in. Nothing is downloaded.
    """
    card = backbone_card(name)
    published = card["sha256"] if _is_embedded(card) else card["sha256_prefix"]
    if (path := find_backbone(name, weights)) is None:
        return published[:8]
    found = sha256(path)
    return published[:8] if found == card.get("features_sha256") or found.startswith(published) else found[:8]


def load_backbone(
    name: str,
    weights: str | os.PathLike[str] | None,
    expected: Mapping[str, tuple[int, ...]],
    ignored_prefixes: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Return a backbone's state dict from the file that `find_backbone` finds, or from a download.

    Raises:
        WeightsError: it is damaged, has other keys, or is neither found nor downloadable (says where it was looked for
            and what to do).
    """
    card = backbone_card(name)
    path = find_backbone(name, weights) or _download(name, card)
    return load_tensors(path, expected, ignored_prefixes)


def _download(name: str, card: Mapping[str, Any]) -> Path:
    target = _torch_hub_folder() / _file_name(card)
    if _is_embedded(card):
        raise WeightsError(f"{_candidates(card)[0]} is missing: install damlpips again")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(card["url"], str(target), hash_prefix=card["sha256_prefix"])
    except (URLError, OSError, RuntimeError) as error:
        looked = "\n".join(f"  {path}" for path in _candidates(card))
        unset = "" if os.environ.get(ENVIRONMENT_VARIABLE) else f" ({ENVIRONMENT_VARIABLE} is not set)"
        raise WeightsError(
            f"no weights for backbone {name!r} ({card['title']}). Looked for{unset}:\n{looked}\n"
            f"and could not download {card['url']} ({error}).\n"
            f"Three ways out:\n"
            f"  1. pass weights='/path/to/{card['file']}' (or .safetensors);\n"
            f"  2. set {ENVIRONMENT_VARIABLE} to a folder with {card['features_file']} or {card['file']};\n"
            f"  3. on a machine with a network, download {card['url']} and copy it to {target}.\n"
            f"Or use the embedded backbone, which needs no other file: DAMLPIPS('nano')."
        ) from error
    return target


def head_names() -> list[str]:
    """Return the versions of LPIPS heads in this package, the newest first."""
    return list(cards()["head"])


def load_heads(heads: str, backbone: str, channels: tuple[int, ...]) -> list[Tensor]:
    """Return the head of each layer, (C_l,), of a version (`"v0.1"`, `"v0.0"`) or from a file in the format of `lpips`.

    Raises:
        WeightsError: the file is missing, damaged, or has other keys than `lin0.model.1.weight`, ... with the channels
            of the backbone.
        ValueError: `heads` is neither a version nor a path, or the version has no heads for this backbone.
    """
    if heads in cards()["head"]:
        version = cards()["head"][heads]
        card = version[one_of(f"backbone for heads={heads!r}", backbone, version)]
        path = weights_dir() / _file_name(card)
    elif Path(heads).suffix in SUFFIXES:
        path = existing_file(heads, option="heads")
    else:
        known = ", ".join(repr(k) for k in [*head_names(), "uniform"])
        raise ValueError(
            f"unknown heads {heads!r}: expected one of {known}, or the path of a .safetensors or .pth file"
        )
    expected = {f"lin{k}.model.1.weight": (1, c, 1, 1) for k, c in enumerate(channels)}
    state = load_tensors(path, expected)
    return [state[name].reshape(-1).float() for name in expected]
