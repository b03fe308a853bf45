"""Tables for people, CSV and JSON for programs."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from damlpips import __version__
from damlpips.evaluation import tables
from damlpips.evaluation.agreement import Agreement, Failure, Mean, Result
from damlpips.evaluation.challenge import Rate
from damlpips.evaluation.figures import evaluate
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating
from damlpips.report.intervals import Difference, Interval

NAN = math.nan
PATH = Path("image.png")


@pytest.fixture
def found() -> Agreement:
    rows = (Rating(PATH, PATH, float(k), f"c{k % 2}", ("noise", "blur")[k // 3]) for k in range(6))
    ratings = JudgedSet("ratings|1", tuple(rows))
    choices = JudgedSet("choices", tuple(Choice((PATH, PATH), (PATH, PATH), 3, 1, f"c{k}") for k in range(4)))
    results = [
        Result(metric, True, judged, values, evaluate(judged, values, samples=20), differences)
        for metric, judged, values, differences in (
            ("good", ratings, np.arange(6.0)[::-1], {"SRCC": Difference(2.0, 1.5, 2.5, 0.0004)}),
            ("good", choices, np.tile([0.0, 1.0], (4, 1)), {}),
            ("bad", ratings, np.arange(6.0), {}),
        )
    ]
    return Agreement(
        metrics={"good": "the good one", "bad": "the bad one"},
        sets=(ratings, choices),
        results={(result.metric, result.judged_set.name): result for result in results},
        means={"good": Mean(Interval(0.875, 0.8, 0.95), None)},
        challenge={"good": {"rotate": Rate(2, 3), "overall": Rate(2, 3)}},
        failures=(Failure("bad", "choices", "too small"),),
        baseline="bad",
        samples=20,
        seed=0,
        shorter_side=256,
    )


class TestTables:
    def test_main(self, found: Agreement) -> None:
        table = tables.main_table(found)
        assert table.columns == ("metric", "ratings|1 (SRCC)", "choices (2AFC)", "mean")
        assert table.rows == (
            ("good", "1.000 (1.00 to 1.00)", "0.750 (0.75 to 0.75)", "0.875 (0.80 to 0.95)"),
            ("bad", "-1.000 (-1.00 to -1.00)", "-", "-"),
            ("one observer", "-", "0.625", "-"),
            ("most observers", "-", "0.750", "-"),
        )

    def test_differences(self, found: Agreement) -> None:
        table = tables.difference_table(found)
        assert "Difference to bad" in table.title
        assert table.rows == (("good", "+2.000 (+1.50 to +2.50), p < 0.001", "-", "-"),)

    def test_without_means_there_is_no_column(self, found: Agreement) -> None:
        found.means.clear()
        table = tables.main_table(found)
        assert table.columns[-1] == "choices (2AFC)"
        assert {len(row) for row in table.rows} == {3}

    def test_a_set_of_one_content_has_a_note(self, found: Agreement) -> None:
        assert tables.main_table(found).notes == ()
        alone = JudgedSet("alone", tuple(replace(choice, content="c") for choice in found.sets[1].judgements))
        one = replace(found, sets=(found.sets[0], alone))
        why = "No interval for alone: all images are of one content, an interval needs two."
        note = f"{why} In that of the mean it is held fixed."
        assert tables.main_table(one).notes == tables.difference_table(one).notes == (note,)
        assert tables.as_markdown(tables.main_table(one)).endswith(f" |\n\n{note}\n")
        more = replace(one, sets=(*one.sets, replace(alone, name="too")))
        assert tables.main_table(more).notes[0].startswith("No interval for alone, too: ")
        assert tables.main_table(more).notes[0].endswith("In that of the mean they are held fixed.")
        only = replace(one, sets=one.sets[1:])
        assert tables.main_table(only).notes == (f"{why} Nor is there one for the mean.",)
        one.means.clear()
        assert tables.main_table(one).notes == (why,)

    def test_all_figures_of_a_set(self, found: Agreement) -> None:
        first, second = tables.part_tables(found, "set")
        assert first.title == "ratings|1: 6 judgements of 2 contents"
        assert first.columns == ("metric", "SRCC", "KRCC", "PLCC")
        assert [row[:3] for row in first.rows] == [
            ("good", "1.000 (1.00 to 1.00)", "1.000 (1.00 to 1.00)"),
            ("bad", "-1.000 (-1.00 to -1.00)", "-1.000 (-1.00 to -1.00)"),
        ]
        assert second.rows == (("good", "0.750 (0.75 to 0.75)"),)

    def test_by_kind_and_content(self, found: Agreement) -> None:
        first, second = tables.part_tables(found, "kind")
        assert first.columns == ("metric", "kind", "n", "SRCC", "KRCC", "PLCC")
        assert first.rows[:2] == (
            ("good", "noise", "3", "1.000", "1.000", "-"),
            ("good", "blur", "3", "1.000", "1.000", "-"),
        )
        assert second.rows == (("good", "-", "4", "0.750"),)
        assert [row[1] for row in tables.part_tables(found, "content")[1].rows] == ["c0", "c1", "c2", "c3"]
        with pytest.raises(ValueError, match="unknown by 'colour': expected one of 'set', 'kind', 'content'"):
            tables.part_tables(found, "colour")

    def test_challenge(self, found: Agreement) -> None:
        table = tables.challenge_table(found)
        assert (table.columns, table.rows) == (("metric", "rotate", "overall"), (("good", "2 of 3", "2 of 3"),))

    def test_only_what_there_is(self, found: Agreement) -> None:
        assert len(tables.all_tables(found)) == 3
        assert len(tables.all_tables(found, by="set")) == 5
        found.challenge.clear()
        assert len(tables.all_tables(found)) == 2

    def test_markdown(self) -> None:
        table = tables.Table("Title", ("metric", "a|b"), (("x\ny", "1.000"), ("longer name", "-")))
        assert tables.as_markdown(table) == (
            "Title\n\n"
            "| metric      |  a\\|b |\n"
            "| ----------- | ----: |\n"
            "| x y         | 1.000 |\n"
            "| longer name |     - |\n"
        )

    @pytest.mark.parametrize(
        ("difference", "text"),
        [
            (Difference(0.1, 0.05, 0.15, 0.012), "+0.100 (+0.05 to +0.15), p 0.012"),
            (Difference(-0.1, NAN, NAN, NAN), "-0.100"),
            (Difference(NAN, NAN, NAN, NAN), "-"),
        ],
    )
    def test_a_difference(self, difference: Difference, text: str) -> None:
        assert tables._difference(difference) == text


class TestFiles:
    def test_csv_in_full_precision(self, found: Agreement) -> None:
        rows = list(csv.DictReader(io.StringIO(tables.as_csv(found))))
        assert list(rows[0]) == list(tables.CSV_COLUMNS)
        first = rows[0]
        said = [first[name] for name in ("metric", "set", "figure", "judgements", "baseline", "difference", "p")]
        assert said == ["good", "ratings|1", "SRCC", "6", "bad", "2.0", "0.0004"]
        expected = found.results["good", "ratings|1"].figures.figures["PLCC"]
        (plcc,) = [r for r in rows if r["figure"] == "PLCC" and r["metric"] == "good"]
        assert float(plcc["value"]) == expected.value
        assert plcc["p"] == ""
        assert [(r["by"], float(r["value"])) for r in rows if r["figure"] == "mean"] == [("mean", 0.875)]
        assert [r["part"] for r in rows if r["figure"] == "success"] == ["rotate", "overall"]

    def test_csv_by_kind(self, found: Agreement) -> None:
        rows = list(csv.DictReader(io.StringIO(tables.as_csv(found, by="kind"))))
        of_blur = [r for r in rows if r["part"] == "blur" and r["metric"] == "bad"]
        assert [(r["figure"], r["value"]) for r in of_blur] == [("SRCC", "-1.0"), ("KRCC", "-1.0"), ("PLCC", "")]

    def test_json_holds_what_figures_depend_on(self, found: Agreement) -> None:
        read = json.loads(tables.as_json(found, by="content"))
        assert (read["version"], read["samples"], read["seed"], read["shorter_side"]) == (__version__, 20, 0, 256)
        assert read["metrics"][0] == {"name": "good", "identity": "the good one"}
        assert read["sets"][1] == {
            "name": "choices",
            "figure": "2AFC",
            "judgements": 4,
            "contents": 4,
            "ceilings": {"human": 0.625, "majority": 0.75},
        }
        assert read["failures"] == [{"metric": "bad", "set": "choices", "reason": "too small"}]
        assert len(read["figures"]) == len(list(csv.DictReader(io.StringIO(tables.as_csv(found, by="content")))))
        undefined = [row for row in read["figures"] if row["part"] == "c0"]
        assert [row["value"] for row in undefined if row["figure"] == "PLCC"] == [None, None]
