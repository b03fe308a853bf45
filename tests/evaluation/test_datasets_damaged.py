"""Files that a bad disk or a bad person changed: the right data or a DatasetError, nothing else."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from damlpips.evaluation.datasets import DatasetError, load
from damlpips.evaluation.judgements import JudgedSet
from tests.support import layouts
from tests.support.mutations import mutated

# a folder is written once and used by all examples
KEPT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def outcome(path: Path, layout: str = "auto") -> list[JudgedSet] | str:
    """Return what `path` holds, or what the error says; anything else fails the test."""
    try:
        return load(path, layout)
    except DatasetError as error:
        return str(error)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("bapps-2afc", "judge/000001.npy"),
        ("tid2008", "mos_with_names.txt"),
        ("kadid10k", "dmos.csv"),
        ("csiq", "csiq.DMOS.xlsx"),
        ("live", "dmos_realigned.mat"),
        ("live", "refnames_all.mat"),
        ("csv", "pairs.csv"),
    ],
)
@KEPT
@given(data=st.data())
def test_damaged_files(layout: str, name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = written(layout, tmp_path_factory)
    path = root / name
    original = path.read_bytes()
    path.write_bytes(data.draw(mutated(original)))
    try:
        found = outcome(root, layout)
    finally:
        path.write_bytes(original)
    complain_or_load(found, root)


@KEPT
@given(data=st.data())
def test_damaged_parts_of_a_workbook(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = written("csiq", tmp_path_factory)
    path = root / "csiq.DMOS.xlsx"
    parts = layouts.parts_of(path)
    name = data.draw(st.sampled_from(sorted(parts)))
    changed = {**parts, name: data.draw(mutated(parts[name]))}
    original = path.read_bytes()
    layouts.pack(path, changed)
    try:
        found = outcome(root)
    finally:
        path.write_bytes(original)
    complain_or_load(found, root)


def complain_or_load(found: list[JudgedSet] | str, root: Path) -> None:
    if isinstance(found, str):
        assert str(root) in found
    else:
        assert all(judged.judgements for judged in found)


WRITTEN: dict[str, Path] = {}


def written(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if layout not in WRITTEN:
        root = tmp_path_factory.mktemp(layout)
        writers = {
            "bapps-2afc": layouts.bapps_2afc,
            "tid2008": lambda path: layouts.tid(path, 2, 1, contents=1),
            "kadid10k": lambda path: layouts.kadid10k(path, contents=1),
            "csiq": layouts.csiq,
            "live": layouts.live,
            "csv": layouts.plain,
        }
        WRITTEN[layout] = writers[layout](root)
    return WRITTEN[layout]


@KEPT
@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12))
@example(name="..")
@example(name="..\\a")
@example(name="a/../../b")
@example(name="//a")
@example(name="\\\\server\\a")
@example(name="./r.png")
def test_no_path_leads_out(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = written("csv", tmp_path_factory)
    quoted = name.replace('"', '""')
    table = root / "x" / "one.csv"
    table.write_text(f'ref,dist,score\n"{quoted}","r.png",1\n', encoding="utf-8", newline="")
    found = outcome(table)
    if isinstance(found, str):
        assert "column 'ref'" in found
    else:
        reference = found[0].judgements[0].reference
        assert reference.is_file()
        assert reference.resolve().is_relative_to(root / "x")
