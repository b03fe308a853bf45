"""Where `damlpips score` writes its rows: growing files, standard output, and files that are made at the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

from damlpips.files import remove_unfinished, write_whole
from damlpips.scoring.formats import (
    Csv,
    JsonLines,
    check_parquet,
    format_of,
    journal_of,
    json_parts,
    write_parquet,
)
from damlpips.scoring.images import ScoringError
from damlpips.scoring.journal import InUseError, Outputs, RowFile, RowStream, explained, locked, write_all
from damlpips.scoring.pairs import Pair
from damlpips.scoring.rows import Table

STANDARD_OUTPUT = Path("-")


class Destination(NamedTuple):
    """A file, its format, and the option that asked for it."""

    option: str
    kind: str
    path: Path


def destinations(files: Mapping[str, Path | None]) -> list[Destination]:
    """Return what was asked for, by the options of `damlpips score`; the ending of `--output` says its format.

    Raises:
        ScoringError: a format or a file that is not possible; names the option.
    """
    found = []
    for option, path in files.items():
        if path is None:
            continue
        kind = option.removeprefix("--")
        if option == "--output":
            if path == STANDARD_OUTPUT:
                raise ScoringError("--output -: which format? use --csv -, --jsonl - or --json -")
            kind = format_of(path)
        if kind == "parquet":
            check_parquet("writing")
            if path == STANDARD_OUTPUT:
                raise ScoringError(f"{option} -: Parquet cannot be standard output")
        if kind == "frames-csv" and _passing(path):
            raise ScoringError(f"{option} {path}: expected a file")
        found.append(Destination(option, kind, path))
    twice = [d.path for d in found if d.path != STANDARD_OUTPUT]
    if len({path.resolve() for path in twice}) < len(twice):
        raise ScoringError(f"{' and '.join(d.option for d in found)}: expected different files")
    return found


def growing(wanted: Sequence[Destination]) -> Path | None:
    """Return the first of the files that a killed run goes on with; None if there is no such file."""
    return next((d.path for d in wanted if not _passing(d.path)), None)


@contextmanager
def alone(wanted: Sequence[Destination]) -> Iterator[None]:
    """Be the only run that writes these files; what killed runs have left beside them is removed.

    Raises:
        InUseError: another run writes one of them; names the option and the process.
    """
    with ExitStack() as locks:
        for option, _, path in wanted:
            try:
                if not _passing(path):
                    locks.enter_context(locked(path))
                    for grown in (path, journal_of(path)):
                        remove_unfinished(grown)
            except InUseError as error:
                raise InUseError(f"{option} {error}; wait for its end, or name another file") from error
        yield


@contextmanager
def opened(
    wanted: Sequence[Destination],
    table: Table,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    overwrite: bool,
    echo: Callable[[bytes], object],
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Outputs]:
    """Yield what takes the rows; afterwards, unless something was raised, the files are complete.

    Args:
        wanted: where the rows go; rows of frames last, so that a pair whose frames are written has its own row, too.
        echo: writes bytes to standard output.
        notes: what a JSON object says of the run besides, where there is something to say.
    """
    files: list[RowFile] = []
    streams: list[RowStream] = []
    journals: list[tuple[Destination, Path]] = []
    with ExitStack() as folders:
        with ExitStack() as handles:
            for destination in wanted:
                option, kind, path = destination
                form = (Csv if "csv" in kind else JsonLines)(replace(table, per_frame=kind == "frames-csv"))
                passing = _passing(path)
                if kind in ("json", "parquet"):
                    if passing:
                        with explained(f"{option} {path}"):
                            path = Path(folders.enter_context(TemporaryDirectory(prefix="damlpips-"))) / "rows.jsonl"
                    else:
                        path = journal_of(path)
                    journals.append((destination, path))
                if not passing:
                    with explained(f"{option} {path}"):
                        files.append(RowFile(path, form, overwrite=overwrite, option=option))
                elif path == STANDARD_OUTPUT:
                    streams.append(RowStream(form, echo, name=f"{option} {path}"))
                else:
                    # without a buffer: what a full disk does not take would fail once more when it is closed
                    with explained(f"{option} {path}"):
                        file = handles.enter_context(FileIO(path, "w"))
                    streams.append(RowStream(form, partial(write_all, file), name=f"{option} {path}"))
            outputs = Outputs(files, streams, pairs, batch_size=batch_size)
            handles.callback(outputs.close)
            yield outputs
            outputs.finish()
        for destination, journal in journals:
            _complete(destination, journal, table, echo, notes)


def _passing(path: Path) -> bool:
    """Return whether what is written to a path cannot be read back: standard output, a pipe, a device."""
    return path == STANDARD_OUTPUT or (path.exists() and not path.is_file())


def _complete(
    destination: Destination, journal: Path, table: Table, echo: Callable[[bytes], object], notes: Mapping[str, Any]
) -> None:
    """Make a file from the rows in its journal."""
    option, kind, path = destination
    with explained(f"{option} {path}"):
        if kind == "parquet":
            write_parquet(journal, path, table)
        elif path == STANDARD_OUTPUT:
            for part in json_parts(journal, table, notes):
                echo(part.encode())
        else:
            write_whole(path, json_parts(journal, table, notes))
        journal.unlink()
