"""Where `damlpips score` writes its rows: growing files, standard output, and files that are made at the end."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import typer

from damlpips.cli.program import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from damlpips.scoring.journal import Outputs
    from damlpips.scoring.pairs import Pair
    from damlpips.scoring.rows import Table

STANDARD_OUTPUT = Path("-")


class Destination(NamedTuple):
    """A file, its format, and the option that asked for it."""

    option: str
    kind: str
    path: Path


def destinations(files: Mapping[str, Path | None]) -> list[Destination]:
    """Return what was asked for; the ending of `--output` says its format."""
    from damlpips.scoring.formats import check_parquet, format_of

    found = []
    for option, path in files.items():
        if path is None:
            continue
        kind = option.removeprefix("--")
        if option == "--output":
            if path == STANDARD_OUTPUT:
                fail("--output -: which format? use --csv -, --jsonl - or --json -")
            kind = format_of(path)
        if kind == "parquet":
            check_parquet()
            if path == STANDARD_OUTPUT:
                fail(f"{option} -: Parquet cannot be standard output")
        if kind == "frames-csv" and _passing(path):
            fail(f"{option} {path}: expected a file")
        found.append(Destination(option, kind, path))
    twice = [d.path for d in found if d.path != STANDARD_OUTPUT]
    if len({path.resolve() for path in twice}) < len(twice):
        fail(f"{' and '.join(d.option for d in found)}: expected different files")
    return found


def growing(wanted: "Sequence[Destination]") -> Path | None:
    """Return the first of the files that a killed run goes on with; None if there is no such file."""
    return next((d.path for d in wanted if not _passing(d.path)), None)


@contextmanager
def alone(wanted: "Sequence[Destination]") -> "Iterator[None]":
    """Be the only run that writes these files."""
    from damlpips.scoring.journal import InUseError, locked

    with ExitStack() as locks:
        for option, _, path in wanted:
            try:
                if not _passing(path):
                    locks.enter_context(locked(path))
            except InUseError as error:
                fail(f"{option} {error}; wait for its end, or name another file")
        yield


@contextmanager
def opened(
    wanted: "Sequence[Destination]", table: "Table", pairs: "Sequence[Pair]", *, batch_size: int, overwrite: bool
) -> "Iterator[Outputs]":
    """Yield what takes the rows; afterwards, unless something was raised, the files are complete."""
    from damlpips.scoring.formats import Csv, JsonLines, journal_of
    from damlpips.scoring.journal import Outputs, RowFile, RowStream

    files: list[RowFile] = []
    streams: list[RowStream] = []
    journals: list[tuple[Destination, Path]] = []
    with ExitStack() as folders:
        with ExitStack() as handles:
            # rows of frames last: a pair whose frames are written has its own row, too
            for destination in sorted(wanted, key=lambda d: d.kind == "frames-csv"):
                option, kind, path = destination
                form = (Csv if "csv" in kind else JsonLines)(replace(table, per_frame=kind == "frames-csv"))
                if kind in ("json", "parquet"):
                    folder = folders.enter_context(TemporaryDirectory(prefix="damlpips-")) if _passing(path) else None
                    path = journal_of(path) if folder is None else Path(folder) / "rows.jsonl"
                    journals.append((destination, path))
                    into_stream = folder is not None
                else:
                    into_stream = _passing(path)
                if not into_stream:
                    files.append(RowFile(path, form, overwrite=overwrite, option=option))
                elif path == STANDARD_OUTPUT:
                    streams.append(RowStream(form, lambda text: typer.echo(text, nl=False), name=option))
                else:
                    file = handles.enter_context(open(path, "wb"))
                    streams.append(RowStream(form, file.write, name=f"{option} {path}"))
            outputs = Outputs(files, streams, pairs, batch_size=batch_size)
            handles.callback(outputs.close)
            yield outputs
            outputs.finish()
        for destination, journal in journals:
            _complete(destination, journal, table)


def _passing(path: Path) -> bool:
    """Return whether what is written to a path cannot be read back: standard output, a pipe, a device."""
    return path == STANDARD_OUTPUT or (path.exists() and not path.is_file())


def _complete(place: Destination, journal: Path, table: "Table") -> None:
    """Make a file from the rows in its journal."""
    from damlpips.scoring import formats

    try:
        if place.kind == "parquet":
            formats.write_parquet(journal, place.path, table)
        elif place.path == STANDARD_OUTPUT:
            for part in formats.json_parts(journal, table):
                # as bytes, so that a file name that is not UTF-8 is kept
                typer.echo(part.encode(errors="surrogateescape"), nl=False)
        else:
            formats.write_json(journal, place.path, table)
        journal.unlink()
    except OSError as error:
        fail(f"{place.option} {place.path}: {error.strerror}")
