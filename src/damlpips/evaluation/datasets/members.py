"""Images inside shards, by paths that go through the shard: `train.tar/000001.ref.png`, `train.parquet/17/ref`.

An image is read when it is asked for: of a tar its own bytes, of a Parquet file the row group that it is in. Errors
are a `ScoringError` that names the shard and the image.
"""

import hashlib
import tarfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

from damlpips import files
from damlpips.files import identity, open_regular, path_within, reason
from damlpips.scoring.images import LARGEST_FILE, ScoringError

TAR, PARQUET = ".tar", ".parquet"
T = TypeVar("T")
BLOCK = 512
# bytes of the images of a row group, unpacked
LARGEST_GROUP = 1 << 28
# bytes of the row groups that are kept, of all files
MOST_KEPT = 1 << 27


class Tar:
    """The files of a tar by name, and where each begins; of names that are damaged or stand twice, an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, tuple[int, int]] = {}
        try:
            with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # each takes a kilobyte
                    if member.isreg():
                        self._add(member)
                file.seek(tar.offset)
                # tarfile takes a damaged header for the end
                if any(file.read(BLOCK)):
                    raise ScoringError(f"{path}: damaged at byte {tar.offset}, after {len(self.places)} files")
        except OSError as error:
            raise ScoringError(f"{path}: {reason(error)}") from error
        except tarfile.TarError as error:
            raise ScoringError(
                f"{path}: not a tar that can be read ({error}), expected one without compression"
            ) from error

    def _add(self, member: tarfile.TarInfo) -> None:
        name = PurePosixPath(member.name).as_posix()
        try:
            path_within(self.path, name)
        except ValueError as error:
            raise ScoringError(f"{self.path}: {error}") from error
        if name in self.places:
            raise ScoringError(f"{self.path / name}: a second file of this name")
        if member.issparse() or member.size > LARGEST_FILE:
            raise ScoringError(f"{self.path / name}: refused, {member.size} bytes, expected at most {LARGEST_FILE}")
        self.places[name] = member.offset_data, member.size

    def read(self, name: str) -> bytes:
        """Return what a file holds."""
        if name not in self.places:
            raise ScoringError(f"{self.path / name}: no file of this name in the tar")
        offset, size = self.places[name]
        # opened for each file: a descriptor that several processes share has one position
        with open_regular(self.path) as file:
            file.seek(offset)
            return file.read(size)


class Parquet:
    """The images of a Parquet file by row and column: bytes, or structs with `bytes` among their fields."""

    # the row groups that were read last, by their file and number
    kept: ClassVar[OrderedDict[tuple["Parquet", int], Any]] = OrderedDict()

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path):
            import pyarrow.parquet as pq

            self.file: Any = pq.ParquetFile(path, page_checksum_verification=True)
            self.columns = self.file.schema_arrow.names
            self.images = [field.name for field in self.file.schema_arrow if _holds_bytes(field.type)]
            groups = range(self.file.num_row_groups)
            rows = [self.file.metadata.row_group(group).num_rows for group in groups]
        self.ends = list(accumulate(rows))

    def read(self, name: str) -> bytes:
        """Return the image `ROW/COLUMN`."""
        row, _, column = name.partition("/")
        if not row.isdecimal() or int(row) >= (self.ends or [0])[-1] or column not in self.images:
            raise ScoringError(f"{self.path / name}: no image of this row and column")
        group = bisect_right(self.ends, int(row))
        start = self.ends[group - 1] if group else 0
        value = self._group(group)[column][int(row) - start].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise ScoringError(f"{self.path / name}: null, expected the bytes of an image")
        return content

    def _group(self, group: int) -> Any:
        key = self, group
        if key not in self.kept:
            size = self.file.metadata.row_group(group).total_byte_size
            if size > LARGEST_GROUP:
                raise ScoringError(
                    f"{self.path}: row group {group} has {size} bytes, expected at most {LARGEST_GROUP}: write it with"
                    " fewer rows in a group (row_group_size=100)"
                )
            with _explained(self.path, f", row group {group}"):
                self.kept[key] = self.file.read_row_group(group, columns=self.images, use_threads=False)
            while len(self.kept) > 1 and sum(table.nbytes for table in self.kept.values()) > MOST_KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]

    def values(self, columns: list[str]) -> list[dict[str, object]]:
        """Return columns that are no images, a row each."""
        with _explained(self.path):
            return self.file.read(columns=columns, use_threads=False).to_pylist()


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


@contextmanager
def _explained(path: Path, where: str = "") -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ScoringError(f"{path}: reading it needs pyarrow: pip install 'damlpips[parquet]'") from error
    except Exception as error:  # pyarrow has many kinds of errors for a damaged file
        what = " ".join(str(error).split())
        raise ScoringError(f"{path}{where}: damaged, or not Parquet ({type(error).__name__}: {what})") from error


SHARDS: dict[str, type[Tar] | type[Parquet]] = {TAR: Tar, PARQUET: Parquet}
_opened: dict[Path, tuple[tuple[int, ...], Tar | Parquet]] = {}


def opened(shard: Path) -> Tar | Parquet:
    """Return a shard, looked through once in each process until the file changes."""
    try:
        looks = identity(shard)
    except OSError as error:
        raise ScoringError(f"{shard}: {reason(error)}") from error
    if shard not in _opened or _opened[shard][0] != looks:
        _opened[shard] = looks, SHARDS[shard.suffix.lower()](shard)
    return _opened[shard][1]


def file_of(path: Path) -> Path:
    """Return the file that holds an image: itself, or the shard that its path goes through."""
    parts = path.parts
    for k, part in enumerate(parts[:-1], start=1):
        if part.lower().endswith(tuple(SHARDS)) and (shard := Path(*parts[:k])).is_file():
            return shard
    return path


def read(path: Path, file: Callable[[Path], T], content: Callable[[bytes, str], T]) -> T:
    """Return what `file` makes of an image's file, or `content` of its bytes and name where it is in a shard."""
    shard = file_of(path)
    if shard is path:
        return file(path)
    return content(opened(shard).read(path.relative_to(shard).as_posix()), str(path))


def digest(path: Path) -> str:
    """Return the SHA-256 of an image's file, wherever it is, as hexadecimal digits."""
    return read(path, files.digest, lambda content, _: hashlib.sha256(content).hexdigest())
