"""Judged sets in shards, images and all: Parquet files, and tars of samples as WebDataset has them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from damlpips.evaluation.datasets import bapps
from damlpips.evaluation.datasets.folders import Wanted, file_names
from damlpips.evaluation.datasets.forms import COUNT, FORMS, Form, form_of, sets_of
from damlpips.evaluation.datasets.members import PARQUET, TAR, Parquet, Tar, opened
from damlpips.evaluation.datasets.tables import DatasetError, Row
from damlpips.evaluation.judgements import JudgedSet
from damlpips.scoring.images import SUFFIXES, ScoringError

# columns that a row may have besides those of its form
OTHERS = ("set", "content", "kind", "group", COUNT)
# the parts of a sample that say what observers thought
LABELS, SHARE = "json", "judge.npy"
KNOWN = {*OTHERS, *(column for form in FORMS for column in form.opinions)}


@dataclass(frozen=True)
class Shards:
    """A kind of shards.

    Attributes:
        suffix: of its files.
        table: what a shard holds, and its rows; images are named by their paths through the shard.
    """

    suffix: str
    table: Callable[[Path], tuple[Form, list[Row]]]

    def detect(self, path: Path) -> bool:
        """Return whether a path is a shard, or a folder with some."""
        return bool(self._files(path))

    def read(self, path: Path) -> list[JudgedSet]:
        """Return the sets of all shards: of one name, that of the folder or the file, unless rows name others."""
        files = self._files(path)
        if not files:
            raise DatasetError(f"{path}: expected a shard (*{self.suffix}), or a folder with some")
        name = path.resolve().name if path.is_dir() else path.stem
        try:
            return sets_of([(name, *self.table(file)) for file in files], _found)
        except ScoringError as error:
            raise DatasetError(str(error)) from error

    def _files(self, path: Path) -> list[Path]:
        if path.is_dir():
            return [path / name for name in file_names(path, (self.suffix,))]
        return [path] if path.suffix.lower() == self.suffix else []


def _found(wanted: Iterable[Wanted]) -> list[Path]:
    return [Path(name) for _, name in wanted]


def _rows_of_parquet(path: Path) -> tuple[Form, list[Row]]:
    shard = opened(path)
    assert isinstance(shard, Parquet)
    form = form_of(shard.columns, str(path))
    for column in form.images:
        if column not in shard.images:
            raise DatasetError(f"{path}, column {column!r}: expected images, as bytes or structs of bytes and path")
    named = [column for column in (*form.opinions, *OTHERS) if column in shard.columns]
    values = shard.values(named)
    if not values:
        raise DatasetError(f"{path}: the table is empty, expected rows")
    return form, [
        Row(f"{path}, row {k}", {**_texts(value), **{image: f"{path}/{k}/{image}" for image in form.images}})
        for k, value in enumerate(values)
    ]


def _samples_of_tar(path: Path) -> tuple[Form, list[Row]]:
    shard = opened(path)
    assert isinstance(shard, Tar)
    samples: dict[str, dict[str, str]] = {}
    for name in shard.places:
        folder, _, file = name.rpartition("/")
        stem, _, part = file.partition(".")
        fields = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
        column, _, suffix = part.partition(".")
        if part == LABELS:
            fields.update(_labels(shard, name))
        elif part == SHARE:
            fields["judge"] = repr(bapps.share(shard.read(name), path / name))
        elif f".{suffix.lower()}" in SUFFIXES:
            if column in fields:
                raise DatasetError(f"{path / name}: a second image {column!r} of this sample")
            fields[column] = str(path / name)
    if not samples:
        raise DatasetError(f"{path}: the tar is empty, expected samples (KEY.ref.png, KEY.a.png, KEY.b.png, KEY.json)")
    form = form_of(next(iter(samples.values())), f"{path}, sample {next(iter(samples))}")
    for key, fields in samples.items():
        if missing := [column for column in form.columns if column not in fields]:
            raise DatasetError(f"{path}, sample {key}: no {missing[0]!r}, expected {', '.join(form.columns)}")
    return form, [Row(f"{path}, sample {key}", fields) for key, fields in samples.items()]


def _labels(shard: Tar, name: str) -> dict[str, str]:
    try:
        found = json.loads(shard.read(name))
    except ValueError as error:
        raise DatasetError(f"{shard.path / name}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{shard.path / name}: expected an object of names and values, got {type(found).__name__}")
    # no other names: none may stand for an image
    return _texts({name: value for name, value in found.items() if name in KNOWN})


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in values.items()}


WEBDATASET = Shards(TAR, _samples_of_tar)
PARQUET_FILES = Shards(PARQUET, _rows_of_parquet)
