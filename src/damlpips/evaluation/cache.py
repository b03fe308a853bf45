"""Distances kept between runs, under what they depend on: the metric, the viewing scale, the contents of both files.

One SQLite file. Every row carries a digest of its own, for SQLite does not notice a value that was damaged on the disk.
"""

import hashlib
import json
import os
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from damlpips.evaluation.datasets.members import digest, file_of
from damlpips.files import identity, reason
from damlpips.scoring.images import ScoringError

# "dmlp": marks a SQLite file as a cache of this package
APPLICATION_ID = 0x646D6C70
LAYOUT = 1  # of the tables below

# Another process writes for milliseconds; one that holds the file for longer has been stopped while it wrote.
PATIENCE_S = 60.0
# Every transaction waits for the disk. Rows are gathered for this long; a run that is killed loses no more.
FLUSH_S = 1.0
# File systems count time in steps of up to 2 s: within one, a file may change and look as it did before.
STEP_NS = 2_000_000_000

TABLES = (
    "CREATE TABLE distances (key BLOB PRIMARY KEY, value REAL, digest BLOB) WITHOUT ROWID",
    "CREATE TABLE contents (path BLOB PRIMARY KEY, identity TEXT, sha256 TEXT, digest BLOB) WITHOUT ROWID",
)


class CacheError(Exception):
    """A cache that cannot be used; the message names the file and says what to do."""


def default_path() -> Path:
    """Return where the cache is by default: `$XDG_CACHE_HOME/damlpips/distances.sqlite`, else in `~/.cache`.

    Raises:
        CacheError: there is no home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # the XDG specification: a relative path there is to be ignored
        folder = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise CacheError(
            f"no folder for the cache of distances ({error}): set XDG_CACHE_HOME or name a file"
        ) from error
    return folder / "damlpips" / "distances.sqlite"


def key(identity: str, view: str, reference: str, distorted: str) -> bytes:
    """Return what a distance is kept under: a digest of the metric, the view, and the contents of both files."""
    return hashlib.sha256(json.dumps([identity, view, reference, distorted]).encode()).digest()


class DistanceCache:
    """Distances that were computed before, by `key`; also by other processes, at the same time.

    A context manager. What was put is written about once a second, and at the latest when the cache is closed: a run
    that is interrupted keeps it.

    Args:
        path: the file, made if it is not there; None for `default_path()`.

    Raises:
        CacheError: here and from its methods: the file cannot be opened or written, is no cache of this package's, or
            is damaged.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = default_path() if path is None else Path(path)
        self._distances: dict[bytes, float] = {}
        self._contents: dict[bytes, tuple[str, str]] = {}
        self._flushed = time.monotonic()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"{self.path.parent}: {reason(error)}: name another cache, or use none") from error
        with self._explained():
            self._database = sqlite3.connect(self.path, timeout=PATIENCE_S, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        """Make the tables of a new file; refuse a file that is not a cache of this package."""
        with self._transaction():
            (found,) = self._database.execute("PRAGMA application_id").fetchone()
            (layout,) = self._database.execute("PRAGMA user_version").fetchone()
            (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if (found, layout, tables) == (0, 0, 0):
                for statement in TABLES:
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._database.execute(f"PRAGMA user_version = {LAYOUT}")
            elif found != APPLICATION_ID:
                raise CacheError(f"{self.path}: a database, but not a cache of distances: name another file")
            elif layout != LAYOUT:
                raise CacheError(
                    f"{self.path}: a cache in layout {layout}, expected {LAYOUT}: another version of damlpips made it;"
                    " delete it, or name another file"
                )

    def get(self, key: bytes) -> float | None:
        """Return the distance under `key`, or None."""
        if key in self._distances:
            return self._distances[key]
        with self._explained():
            row = self._database.execute("SELECT value, digest FROM distances WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        value, digest = row
        if not isinstance(value, float) or digest != _digest(key, struct.pack("<d", value)):
            raise self._damaged("a distance is not what was written")
        return value

    def put(self, key: bytes, value: float) -> None:
        """Keep a distance under `key`; NaN, which is none, is a ValueError."""
        if value != value:
            raise ValueError("expected a distance, got NaN")
        self._distances[key] = float(value) + 0.0  # SQLite does not keep the sign of a zero
        self._flush_in_time()

    def content(self, path: Path) -> str:
        """Return the SHA-256 of a file as hexadecimal digits; of a file that looks unchanged, from memory.

        Raises:
            ScoringError: the file cannot be read.
        """
        name = os.fsencode(path.absolute())
        try:
            file = file_of(path)
            looks = json.dumps(identity(file))
            known = self._known_content(name)
            if known is not None and known[0] == looks:
                return known[1]
            settled = time.time_ns() - max(file.stat().st_mtime_ns, file.stat().st_ctime_ns) > STEP_NS
            content = digest(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise ScoringError(f"{path}: {reason(error) if isinstance(error, OSError) else error}") from error
        if settled:
            self._contents[name] = (looks, content)
            self._flush_in_time()
        return content

    def _known_content(self, name: bytes) -> tuple[str, str] | None:
        if name in self._contents:
            return self._contents[name]
        with self._explained():
            query = "SELECT identity, sha256, digest FROM contents WHERE path = ?"
            row = self._database.execute(query, (name,)).fetchone()
        if row is None:
            return None
        looks, content, digest = row
        if digest != _digest(name, str(looks).encode(), str(content).encode()):
            raise self._damaged("a file's content is not what was written")
        return looks, content

    def flush(self) -> None:
        """Write what was put to the disk."""
        distances = [(k, v, _digest(k, struct.pack("<d", v))) for k, v in self._distances.items()]
        contents = [(n, *row, _digest(n, *(text.encode() for text in row))) for n, row in self._contents.items()]
        if distances or contents:
            with self._transaction():
                self._database.executemany("INSERT OR REPLACE INTO distances VALUES (?, ?, ?)", distances)
                self._database.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)", contents)
        self._distances.clear()
        self._contents.clear()
        self._flushed = time.monotonic()

    def _flush_in_time(self) -> None:
        if time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def close(self) -> None:
        """Write what was put, and close the file."""
        try:
            self.flush()
        finally:
            self._database.close()

    def __enter__(self) -> "DistanceCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                # some errors, such as a full disk, have ended it already
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # the file's surroundings: rights, space, locks
            raise CacheError(f"{self.path}: {error}: name another cache, or use none") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> CacheError:
        return CacheError(f"{self.path}: a damaged cache of distances, or another file ({what}): delete or move it")


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(struct.pack("<q", len(part)))
        digest.update(part)
    return digest.digest()
