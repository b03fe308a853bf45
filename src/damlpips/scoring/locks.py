"""One writer a file: a lock that the system gives back when its process ends, however it ends."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# who holds a lock is told in at most so many bytes
MOST_TOLD = 300
# errors of `flock` that mean another process has it
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class InUseError(OSError):
    """A file that another process writes; the message names the file and the process."""


def lock_of(path: Path) -> Path:
    """Return the file that stands beside `path` while it is written.

    Example:
        >>> lock_of(Path("scores.csv")).name
        'scores.csv.lock'
    """
    path = path.resolve()  # a file is one file by whatever name
    return path.with_name(f"{path.name}.lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that writes `path`, which need not exist.

    The lock is on a file beside it, since the file itself may be replaced. A process that was killed leaves that file,
    but no lock. Where there are no locks, on Windows, on some network file systems and in folders without the right to
    write, nothing is locked.

    Raises:
        InUseError: another process has it, or this one already.

    Example:
        >>> with locked(Path("scores.csv")):
        ...     pass
    """
    place = lock_of(path)
    descriptor = _taken(path, place)
    try:
        yield
    finally:
        if descriptor is not None:
            # before it is let go: afterwards it may be somebody else's
            place.unlink(missing_ok=True)
            os.close(descriptor)


def _taken(path: Path, place: Path) -> int | None:
    if fcntl is None:
        return None
    while True:
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError:
            return None  # who may not write here writes no rows either, and is told so there
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            told = os.pread(descriptor, MOST_TOLD, 0).decode("utf-8", "replace")
            os.close(descriptor)
            if error.errno in HELD:
                raise InUseError(f"{path}: is being written by another run{told and f' ({told})'}") from error
            place.unlink(missing_ok=True)
            return None
        if _is(descriptor, place):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            return descriptor
        # its last holder has removed it meanwhile: nobody else would look at this one
        os.close(descriptor)


def _is(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(place))
    except OSError:
        return False
