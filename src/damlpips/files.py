"""Files whose names and contents come from others: a name may be that of a folder, a pipe, a device or another file."""

import errno
import hashlib
import math
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

# characters that an error quotes
MOST_SHOWN = 200
# what a name is not written with: controls, marks that reverse the order of letters, lone surrogates, which stand for
# bytes that are not UTF-8, and a backslash that would look like one that stands for such
ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\\(?=x[0-9a-fA-F]{2})")
SPELLED_BYTES = re.compile(r"(?:\\x[0-9a-fA-F]{2})+")
# how Python keeps what a file's name has besides text
NAME_ERRORS = sys.getfilesystemencodeerrors()


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; never wait for a pipe, never touch a device.

    Raises:
        OSError: there is no such file, no permission to read it, or it is not a regular file; `strerror` says which.
    """
    try:
        _check_regular(os.stat(path))  # before it is opened, since opening a device may have effects
        # non-blocking, since a pipe may have replaced the file in the meantime
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL, or a character that the file system does not allow
        raise OSError(errno.EINVAL, f"not a file name ({error})") from error
    try:
        _check_regular(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file")


def is_gone(path: str | os.PathLike[str]) -> bool:
    """Return whether a file or folder that was there is there no longer: of a disk that is gone, an empty one is left.

    Example:
        >>> is_gone("."), is_gone("no/such/folder")
        (False, True)
    """
    try:
        if not os.path.isdir(path):
            return not os.path.exists(path)
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def reason(error: OSError) -> str:
    """Return what went wrong, without the path, which the caller's message names."""
    return error.strerror or str(error) or type(error).__name__


def shown(text: str, most: int = MOST_SHOWN) -> str:
    """Return a text as an error message quotes it, shortened: a file may hold very long ones."""
    text = text if len(text) <= most else f"{text[:most]}..."
    # an odd name as it is, like all names in messages: where these are written it is `spelled`
    return f"'{text}'" if ODD.search(text) else repr(text)


def spelled(text: str) -> str:
    r"""Return a name, or a text with names, as all outputs write it: in UTF-8, on one line, and to be read back.

    A byte that is not UTF-8, and each byte of a control character, is spelled `\xff`; the backslash of a name that has
    such a text itself is spelled `\x5c`.

    Example:
        >>> spelled("photo\udcff.png"), spelled(r"photo\xff.png"), spelled("\x1b[1mphoto.png"), spelled("ü.png")
        ('photo\\xff.png', 'photo\\x5cxff.png', '\\x1b[1mphoto.png', 'ü.png')
    """
    return ODD.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in _bytes(found[0])), text)


def _bytes(character: str) -> bytes:
    try:
        return character.encode("utf-8", NAME_ERRORS)
    except UnicodeEncodeError:  # half a character, which no file's name has here
        return character.encode("utf-8", "surrogatepass")


def unspelled(text: str) -> str:
    r"""Return the name that a text spells, as Python has it; the inverse of `spelled`.

    Example:
        >>> unspelled(r"photo\xff.png") == "photo\udcff.png", unspelled(r"photo\x5cxff.png") == r"photo\xff.png"
        (True, True)
    """
    return SPELLED_BYTES.sub(lambda run: _characters(bytes.fromhex(run[0].replace("\\x", ""))), text)


def _characters(content: bytes) -> str:
    try:
        return content.decode("utf-8", NAME_ERRORS)
    except UnicodeDecodeError:  # no name of this system
        return content.decode("utf-8", "surrogateescape")


def composed(name: str) -> str:
    """Return a name with its letters composed (NFC): macOS takes them apart, and both look the same.

    Example:
        >>> composed("u\u0308.png") == "\u00fc.png"
        True
    """
    return unicodedata.normalize("NFC", name)


def printable(text: str, kept: str = "") -> str:
    """Return a text without control characters, which could steer a terminal or reverse the order of letters."""
    return "".join(c if c.isprintable() or c in kept else "\ufffd" for c in text)


def is_plain_name(name: object) -> bool:
    """Return whether `name` is a plain file name on every system: without a separator, a drive, `..` or a NUL."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def natural(path: Path) -> tuple[list[list[tuple[float, str]]], str]:
    """Return a sort key: numbers by value and before letters, the files of one folder before those of the next."""
    runs = [re.findall(r"[0-9]+|[^0-9]+", composed(part.lower())) for part in path.with_suffix("").parts]
    return [[(int(r), "") if r.isdecimal() else (math.inf, r) for r in part] for part in runs], path.as_posix()


def path_within(folder: Path, name: str) -> Path:
    """Return the path of `name` in a folder, checked by the rules of every system; it may still contain links.

    Raises:
        ValueError: it is an absolute path, or has a `..`.
    """
    # by the rules of Windows, too, so that a table means the same everywhere
    as_windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or as_windows.drive or as_windows.root:
        raise ValueError(f"{shown(name, MOST_SHOWN)} is an absolute path, expected one within {folder}")
    if ".." in as_windows.parts:
        raise ValueError(f"{shown(name, MOST_SHOWN)} leads out of {folder} with '..'")
    return folder / name


def as_text(content: bytes, path: Path) -> str:
    """Decode the contents of a file in UTF-8, without a byte order mark.

    Raises:
        ValueError: it is not UTF-8, or holds a NUL; names the file and the line.
    """
    if (nul := content.find(0)) >= 0:
        raise ValueError(f"{path}, line {_line(content, nul)}: a NUL byte, not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {_line(content, error.start)}: not UTF-8 ({error.reason})") from error


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def size(file: BinaryIO) -> int:
    """Return the length of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which replaces `path` when the block ends; after a failure nothing changes."""
    # the target of a link is replaced; a device or a pipe is written to, since it must not become a regular file
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes have left of files that were to replace `path`; no other process may write it."""
    path = path.resolve()
    name = re.compile(re.escape(f".{path.name}") + r"\.[0-9]+\.tmp")
    for left in path.parent.glob(".*.tmp"):
        if name.fullmatch(left.name):
            left.unlink(missing_ok=True)


def write_whole(path: Path, text: str | Iterable[str]) -> None:
    """Write a file, of one text or of parts, whole or not at all: a run that fails leaves what was there before."""
    with replacing(path) as whole, open(whole, "w", encoding="utf-8", newline="") as file:
        file.writelines([text] if isinstance(text, str) else text)


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a regular file, as hexadecimal digits."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def identity(path: Path) -> tuple[int, ...]:
    """Return numbers that change when a file is written to or replaced."""
    status = path.stat()
    # the modification time can be set back, the status change time cannot
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
