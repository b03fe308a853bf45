"""Every column that is declared is written, read back, compared on resuming, shown and documented."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from damlpips.adapters.ray import ScorePairs
from damlpips.report.page import reading
from damlpips.report.page.reading import RunSettings, ScoredPair, read_rows
from damlpips.report.page.rendering import render_report
from damlpips.scoring import rows
from damlpips.scoring.formats import READERS, Csv, JsonLines, write_parquet
from damlpips.scoring.frames import Compared, FrameScores
from damlpips.scoring.images import ScoringError
from damlpips.scoring.journal import RowFile
from damlpips.scoring.pairs import Pair
from damlpips.scoring.rows import COLUMNS, FRAME, INTEGER, NUMBER, PAIR, RUN, SCORE, TEXT, Column, Table
from damlpips.scoring.scorer import Score
from damlpips.scoring.several import Said, as_text
from tests.support.pictures import image_file

DOCS = Path(__file__).resolve().parents[2] / "docs"
# the columns of version 0.1.0, but for those of frames
OLD = (
    *("reference", "distorted", "score", "metric", "backbone", "method", "layer_0", "layer_1", "width", "height"),
    *("sha256", "reference_sha256", "weights", "options", "error"),
)
TABLE = Table({column.name: f"{column.name}=of this run" for column in COLUMNS if column.source is RUN}, layers=2)
OTHERS = ("psnr", "piq:fsim")
PYTHON = {TEXT: str, INTEGER: int, NUMBER: float}
PARQUET = {TEXT: "string", INTEGER: "int32", NUMBER: "double"}
NEW = Column("seconds", NUMBER, SCORE, "how long it took", lambda score: 1.5 if score.score else None, label="Took")


def scores(*errors: str) -> list[Score]:
    pairs = [Pair(Path("r.png"), Path(f'{k} "d",\n.png'), str(k), "m") for k in range(len(errors))]
    return [
        Score(p, None, (), None, "", "s", error)
        if error
        else Score(p, k / 3, (k / 3, 0.1), (40, 50), "d", "s", others=(k / 7, None if k == 0 else 0.5))
        for k, (p, error) in enumerate(zip(pairs, errors, strict=True))
    ]


def written(path: Path, form: Csv | JsonLines, every: Sequence[Score]) -> Path:
    file = RowFile(path, form)
    for score in every:
        file.write(form.table.scored(score))
    file.close()
    return path


@pytest.fixture(params=[COLUMNS, (*COLUMNS[:9], NEW, *COLUMNS[9:])], ids=["declared", "and a new one"])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Column, ...]:
    for module in (rows, reading):
        monkeypatch.setattr(module, "COLUMNS", request.param)
    return request.param


def test_old_columns_are_all_there_in_order() -> None:
    assert [name for name in TABLE.types if name in OLD] == list(OLD)
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("others", [(), OTHERS], ids=["one metric", "several"])
@pytest.mark.usefixtures("columns")
def test_every_column_comes_back_from_every_format(tmp_path: Path, kind: str, others: tuple[str, ...]) -> None:
    table, every = Table(TABLE.settings, 2, others=others), scores("", "no score", "")
    if not others:
        every = [replace(score, others=()) for score in every]
    file = tmp_path / f"s.{kind}"
    if kind == "parquet":
        write_parquet(written(tmp_path / "s.jsonl", JsonLines(table), every), file, table)
        assert {f.name: str(f.type) for f in pq.read_schema(file)} == {n: PARQUET[t] for n, t in table.types.items()}
    else:
        written(file, Csv(table) if kind == "csv" else JsonLines(table), every)
    with open(file, "rb") as opened:
        found = [read.row for read in READERS[kind](opened, file, lambda _: table.types, lambda: None)]
    expected = [table.scored(score).row for score in every]
    assert found == expected
    assert [list(row) for row in found] == [list(table.types)] * 3
    for name, value in found[2].items():
        assert type(value) is PYTHON[table.types[name]], name


def test_rows_of_frames_come_back_as_those_of_their_pairs(tmp_path: Path, columns: Sequence[Column]) -> None:
    table = Table(TABLE.settings, 2, per_frame=True, others=OTHERS)
    assert {c.name for c in table.columns} == {c.name for c in columns}
    frames = FrameScores()
    for k in range(3):
        found = Compared([k / 7, 0.5], k / 7 + 0.5, (k / 11, None if k == 1 else 0.5))
        frames.add(found, k / 25 if k else float("nan"))
    layers, mean = frames.mean()
    every = scores("", "no score", "")
    every[2] = replace(every[2], score=mean, layers=tuple(layers), frames=frames, others=frames.means_of_others())
    assert every[2].others == (pytest.approx(1 / 11), None)
    file = RowFile(written(tmp_path / "f.csv", Csv(table), every), Csv(table))
    alone = Table(TABLE.settings, 2, others=OTHERS)
    kept = [scored.row for scored in file.keep(3, [score.pair for score in every])]
    assert [{name: row[name] for name in alone.types} for row in kept] == [alone.scored(s).row for s in every]
    with open(tmp_path / "f.csv", newline="", encoding="utf-8") as opened:
        places = [(row["frame"], row["frames"], row["time"]) for row in csv.DictReader(opened)]
    assert places == [("0", "1", ""), ("", "", ""), ("0", "3", ""), ("1", "3", "0.04"), ("2", "3", "0.08")]


@pytest.mark.parametrize("form", [Csv, JsonLines])
@pytest.mark.usefixtures("columns")
def test_rows_of_another_run_are_refused(tmp_path: Path, form: type[Csv]) -> None:
    settings = {**TABLE.settings, "metrics": as_text([Said("psnr", False, "PSNR")])}
    table, every = Table(settings, 2, others=OTHERS), scores("", "")
    pairs = [score.pair for score in every]
    for column in table.columns:
        if column.source not in (RUN, PAIR):
            continue
        changed = {**table.scored(every[1]).row, column.name: "another=1"}
        file = written(tmp_path / column.name, form(table), every[:1])
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(form(table).text(changed))
        with pytest.raises(
            ScoringError, match=r"row 2 (has|was scored with|metrics: expected) .*; --overwrite starts anew"
        ):
            list(RowFile(file, form(table)).keep(2, pairs))
    # an older version may have written rows without one of the columns
    for left_out in table.columns:
        others = [column for column in rows.COLUMNS if column is not left_out]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "COLUMNS", others)
            file = written(tmp_path / f"without {left_out.name}", form(Table(settings, 2, others=OTHERS)), every)
        lacked = left_out.headers(2, OTHERS)[0]
        with pytest.raises(ScoringError, match=f"it lacks {lacked}.*; --overwrite starts anew"):
            RowFile(file, form(table))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_a_report_is_made_of(tmp_path: Path, kind: str, columns: Sequence[Column]) -> None:
    form = {"csv": Csv, "jsonl": JsonLines}[kind]
    every = scores("", "no score", "")
    for left_out in columns:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "COLUMNS", [column for column in columns if column is not left_out])
            file = written(tmp_path / f"{left_out.name}.{kind}", form(Table(TABLE.settings, 2)), every)
        if left_out.needed:
            with pytest.raises(ScoringError, match=f"it has no column {left_out.name}$"):
                list(read_rows(file))
        else:
            assert len(list(read_rows(file))) == 3
    *_, pair = read_rows(written(tmp_path / f"all.{kind}", form(Table(TABLE.settings, 2)), every))
    assert pair.layers == every[2].layers
    row = TABLE.scored(every[2]).row
    assert {name: getattr(pair, name) for name in ScoredPair._fields if name in row} == {
        name: row[name] for name in ScoredPair._fields if name in row
    }
    assert pair.settings._asdict() == {**TABLE.settings, "metrics": ""}
    row = Table(TABLE.settings, 2).scored(every[2]).row
    assert pair.labelled == tuple((c.label, str(row[c.name])) for c in columns if c.label)


def test_a_column_with_a_label_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled = [replace(column, label=f"the <{column.name}> of it") for column in COLUMNS if not column.numbered]
    for module in (rows, reading):
        monkeypatch.setattr(module, "COLUMNS", labelled)
    table = Table(TABLE.settings, 0)
    page = render_report([written(tmp_path / "s.csv", Csv(table), scores("", ""))])
    for column in table.columns:
        value = table.scored(scores("", "")[1]).row[column.name]
        line = f"the &lt;{column.name}&gt; of it <span"
        assert (line in page) == (value not in (None, "")), column.name


def test_the_settings_of_a_report_are_those_of_a_run() -> None:
    assert RunSettings._fields == tuple(column.name for column in COLUMNS if column.source is RUN)


def test_ray_adds_what_is_taken_from_a_score(tmp_path: Path) -> None:
    image = str(image_file(tmp_path / "a.png", 1))
    found = ScorePairs()({"reference": np.array([image, image]), "distorted": np.array([image, "gone"])})
    added = [column for column in COLUMNS if column.source is SCORE]
    types = {name: column.type for column in added for name in column.headers(5)}
    assert list(found) == ["reference", "distorted", *types]
    kinds = {TEXT: np.dtype(object), INTEGER: np.dtype(np.int32), NUMBER: np.dtype(np.float64)}
    assert {name: found[name].dtype for name in types} == {name: kinds[kind] for name, kind in types.items()}


@pytest.mark.parametrize(("page", "sources"), [("score-folders", (PAIR, RUN, SCORE)), ("video", (FRAME,))])
def test_the_docs_have_all_columns(page: str, sources: tuple[rows.Source, ...]) -> None:
    text = (DOCS / f"how-to/{page}.md").read_text(encoding="utf-8")
    found = re.search(r"^\| column \| type \| \|\n\|(?:---\|)+\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    assert found

    def headers(column: Column) -> str:
        named = column.headers(2, OTHERS)
        return ", ".join(f"`{name}`" for name in named) + ", ..." * (column.numbered or column.named)

    assert found[1].splitlines() == [
        f"| {headers(c)} | {c.type} | {c.meaning} |" for c in COLUMNS if c.source in sources
    ]


def test_numbers_that_are_none(tmp_path: Path) -> None:
    row = TABLE.scored(scores("")[0]).row
    for name, kind in TABLE.types.items():
        for value in {TEXT: [1, True], INTEGER: ["x", 1.5, True, [], "nan"], NUMBER: ["x", True, {}, "inf"]}[kind]:
            (tmp_path / "s.jsonl").write_text(json.dumps({**row, name: value}) + "\n")
            with pytest.raises(ScoringError, match=rf"row 1 is damaged \({name}: expected a .*\); --overwrite"):
                RowFile(tmp_path / "s.jsonl", JsonLines(TABLE))
