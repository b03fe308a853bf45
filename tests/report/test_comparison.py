"""Metrics side by side: means, places, correlations and disagreements, on the page and in a paper's table."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from damlpips.report.page import render_report
from damlpips.report.page.comparison import Comparison, Scores, places
from damlpips.report.table import in_latex, render_table
from damlpips.scoring.images import ScoringError
from damlpips.scoring.several import Said, as_text
from tests.support import commands
from tests.support.commands import refused, run
from tests.support.scored import COLUMNS, row, run_score, score, write_rows

METRICS = (
    Said("damlpips", True, "DAMLPIPS v2 (nano, ...)", "1"),
    Said("psnr", False, "PSNR in dB (torchmetrics 1; RGB; 50 % <b>)", "2", "dB"),
    Said("piq:fsim", False, "piq:fsim (piq 0.8)", "3"),
)
NAMES = [metric.name for metric in METRICS]


def rows_of(methods: dict[str, Sequence[Sequence[float | None]]]) -> list[dict[str, object]]:
    """Return rows of methods: of each pair the scores of METRICS, None for one that failed."""
    return [
        row(
            name=f"{k}.png",
            method=method,
            metrics=as_text(METRICS),
            **{name: "" if value is None else value for name, value in zip(["score", *NAMES[1:]], values, strict=True)},
            error="" if None not in values else "a <reason>",
        )
        for method, pairs in methods.items()
        for k, values in enumerate(pairs)
    ]


def file_of(folder: Path, methods: dict[str, Sequence[Sequence[float | None]]], name: str = "s.csv") -> Path:
    return write_rows(folder / name, rows_of(methods), [*COLUMNS, "metrics", *NAMES[1:]])


GENERATOR = np.random.default_rng(3)
RANDOM = {
    "a_b&c": GENERATOR.random((8, 3)).round(3).tolist(),
    "d|*e*": (GENERATOR.random((8, 3)) + np.array([0.4, 0.2, 0.1])).round(3).tolist(),
    "f": GENERATOR.random((8, 3)).round(3).tolist(),
}
FAILED = {**RANDOM, "f": [[0.5, None, 0.5], [None, 20.0, 0.25], *RANDOM["f"][2:]]}


def compared(path: Path, **options: int) -> Comparison:
    return Scores.of_files([path]).compared(samples=200, **options)


class TestComparison:
    def test_means_are_those_of_the_scores_there_are(self, tmp_path: Path) -> None:
        found = compared(file_of(tmp_path, FAILED))
        assert found.methods == tuple(FAILED)
        assert [column.said for column in found.columns] == list(METRICS)
        for k, column in enumerate(found.columns):
            for pairs, cell in zip(FAILED.values(), column.cells, strict=True):
                values = [pair[k] for pair in pairs if pair[k] is not None]
                assert cell.mean.value == pytest.approx(np.mean(values), rel=1e-12)
                assert (cell.count, cell.failed) == (len(values), 8 - len(values))
                assert cell.mean.low < cell.mean.value < cell.mean.high

    def test_intervals_are_those_of_the_page(self, tmp_path: Path) -> None:
        path = file_of(tmp_path, RANDOM)
        page = render_report([path], samples=200, maps=False)
        for cell in compared(path).columns[0].cells:
            assert page.count(f"{cell.mean.low:.4f} to {cell.mean.high:.4f}") == 2

    def test_correlations_are_scipys(self, tmp_path: Path) -> None:
        found = compared(file_of(tmp_path, FAILED))
        table = np.array([[np.nan if v is None else v for v in pair] for pairs in FAILED.values() for pair in pairs])
        table *= [1 if metric.lower_is_closer else -1 for metric in METRICS]
        for i in range(3):
            for j in range(3):
                both = ~np.isnan(table[:, [i, j]]).any(1)
                # both are ratios of sums of half-integers: only the order of additions differs
                expected = spearmanr(table[both, i], table[both, j]).statistic
                assert found.correlations[i][j] == pytest.approx(expected, abs=1e-12)

    def test_no_correlation_of_what_has_no_order(self, tmp_path: Path) -> None:
        few = compared(file_of(tmp_path, {"m": [[1, 2, 3], [2, 3, 4]]}, "few.csv"))
        same = compared(file_of(tmp_path, {"m": [[1, 2, 3], [1, 3, 4], [1, 4, 2]]}, "same.csv"))
        assert np.isnan(few.correlations).all()
        assert np.isnan(same.correlations[0]).all()
        assert same.correlations[1][2] == pytest.approx(0.5 * -1 + 0)

    def test_the_pair_on_which_metrics_disagree_most_comes_first(self, tmp_path: Path) -> None:
        # all agree but for one pair, which the first metric finds closest and the second furthest
        pairs = [[k, 50 - k, 1 - k / 20] for k in range(1, 10)]
        pairs[4] = [0, 0, pairs[4][2]]
        found = compared(file_of(tmp_path, {"m": pairs}), most=2)
        first, second = found.disagreements
        assert (first.pair, first.closer, first.further, first.shares) == (4, 0, 1, (0.0, 1.0))
        assert second.shares[1] - second.shares[0] < 0.5
        assert compared(file_of(tmp_path, {"m": [[1, 9, 9], [2, 8, 8]]}), most=5).disagreements == ()

    def test_runs_of_one_metric_each_are_columns_too(self, tmp_path: Path) -> None:
        one = write_rows(tmp_path / "one.csv", [row(name=f"{k}", score=k / 4) for k in range(4)])
        other = [row(name=f"{k}", score=1 - k / 8, metric="lpips", options="heads=v0.1") for k in range(4)]
        found = Scores.of_files([one, write_rows(tmp_path / "other.csv", other)]).compared()
        assert [column.name for column in found.columns] == ["damlpips-nano", "lpips-nano"]
        assert found.correlations[0][1] == -1
        assert found.columns[1].said.description == "LPIPS (nano, weights 447c84c0; heads=v0.1)"
        assert found.pairs == 4

    def test_a_metric_is_the_same_one_in_any_order_but_not_of_images_read_otherwise(self, tmp_path: Path) -> None:
        def file(name: str, order: Sequence[Said], options: str) -> Path:
            rows = [row(method=name, metrics=as_text(order), psnr=1, damlpips=1, options=options)]
            return write_rows(tmp_path / f"{name}.csv", rows, [*COLUMNS, "metrics", order[1].name])

        usual, masked = "alpha=error colour=convert version=2", "alpha=error colour=convert masks=named version=2"
        one, other = METRICS[:2]
        paths = [file("a", (one, other), usual), file("b", (other, one), usual), file("c", (one, other), masked)]
        found = Scores.of_files(paths).compared()
        assert [[cell.count for cell in column.cells] for column in found.columns] == [[1, 1, 0]] * 2 + [[0, 0, 1]] * 2
        assert [column.name for column in found.columns] == [
            one.name,
            other.name,
            f"{one.name} (2)",
            f"{other.name} (2)",
        ]
        assert render_table(paths).count("; masks=named.") == 2

    def test_a_run_of_one_metric_joins_the_column_of_several(self, tmp_path: Path) -> None:
        noises = {"m": 20, "n": 40}
        several = run_score(tmp_path, "--metric", "damlpips:1", "--metric", "damlpips", noises=noises, names=["a.png"])
        alone = score(tmp_path, "--metric", "damlpips", "--method", f"o={tmp_path / 'n'}", methods=(), out="one.csv")
        found = Scores.of_files([several, alone]).compared()
        assert [column.name for column in found.columns] == ["damlpips:1", "damlpips"]
        _, n, o = found.columns[1].cells
        assert n.mean.value == o.mean.value
        assert found.columns[0].cells[2].count == 0

    def test_two_names_of_one_metric_have_a_column_each(self, tmp_path: Path) -> None:
        names = "--metric", "damlpips", "--metric", "damlpips-nano"
        found = compared(run_score(tmp_path, *names, noises={"m": 20}, names=["a.png"]))
        assert [column.name for column in found.columns] == ["damlpips", "damlpips-nano"]

    def test_bad_rows(self, tmp_path: Path) -> None:
        rows = rows_of({"m": [[1, 2, 3]]})
        twice = write_rows(tmp_path / "twice.csv", rows * 2, [*COLUMNS, "metrics", *NAMES[1:]])
        text = write_rows(tmp_path / "t.csv", [{**rows[0], "psnr": "x"}], [*COLUMNS, "metrics", *NAMES[1:]])
        unknown = write_rows(tmp_path / "u.csv", [{**rows[0], "metrics": "x"}], [*COLUMNS, "metrics"])
        for path, message in ((twice, "comes a second time"), (text, "psnr: expected"), (unknown, "expected a list")):
            with pytest.raises(ScoringError, match=message):
                Scores.of_files([path])


def test_places() -> None:
    assert places([3, 1, 2], ["3", "1", "2"], lower_is_closer=False) == [1, 3, 2]
    assert places([1.0, 1.001, 2], ["1.00", "1.00", "2.00"], lower_is_closer=True) == [1, 1, 3]
    assert places([1.0, float("nan")], ["1", "-"], lower_is_closer=True) == [0, 0]


class TestTable:
    def test_latex(self, tmp_path: Path) -> None:
        methods = {"a_b&c": [[0.25, 20, 0.5]], "50%": [[0.5, 30, 0.7]], "#^x": [[0.75, 10, 0.7]]}
        lines = render_table([file_of(tmp_path, methods)], "latex").splitlines()
        assert lines[:8] == [
            r"% \usepackage{booktabs}",
            r"\begin{tabular}{lccc}",
            r"\toprule",
            r"Method & DAMLPIPS $\downarrow$ & PSNR (dB) $\uparrow$ & piq:fsim $\uparrow$ \\",
            r"\midrule",
            r"a\_b\&c & \textbf{0.250} & \underline{20.00} & 0.500 \\",
            # two share the first place by FSIM: there is no second
            r"50\% & \underline{0.500} & \textbf{30.00} & \textbf{0.700} \\",
            r"\#\textasciicircum{}x & 0.750 & 10.00 & \textbf{0.700} \\",
        ]
        assert r"PSNR: PSNR in dB (torchmetrics 1; RGB; 50 \% \textless{}b\textgreater{})." in lines
        assert in_latex("~\\{}$") == r"\textasciitilde{}\textbackslash{}\{\}\$"

    def test_markdown(self, tmp_path: Path) -> None:
        text = render_table([file_of(tmp_path, FAILED)], digits=2)
        head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
        assert head == "| method | DAMLPIPS \u2193 | PSNR (dB) \u2191 | piq:fsim \u2191 |"
        assert rows[1].startswith(r"| d\|\*e\* | ")
        for k, metric in enumerate(METRICS, 1):
            means = [np.mean([pair[k - 1] for pair in pairs if pair[k - 1] is not None]) for pairs in FAILED.values()]
            order = np.argsort(means) if metric.lower_is_closer else np.argsort(means)[::-1]
            cells = [re.split(r"(?<!\\)\|", line)[k + 1].strip() for line in rows]
            for place, mark in zip(order, ("**{}**", "<u>{}</u>", "{}"), strict=True):
                assert cells[place] == mark.format(f"{means[place]:.2f}")
        assert "- Pairs without PSNR, which count in no mean of it: 1 of 8 of f." in text
        assert "- Means over 24 pairs with 8 references; the best of each metric is bold" in text

    @pytest.mark.parametrize("digits", [None, 3])
    def test_csv(self, tmp_path: Path, digits: int | None) -> None:
        path = file_of(tmp_path, FAILED)
        found = compared(path)
        table = list(
            csv.DictReader(io.StringIO(render_table([path], "csv", digits=digits, intervals=True, samples=200)))
        )
        assert [line["method"] for line in table] == list(FAILED)
        for k, line in enumerate(table):
            for column in found.columns:
                mean = column.cells[k].mean
                for name, value in (("", mean.value), (" low", mean.low), (" high", mean.high)):
                    expected = repr(value) if digits is None else f"{value:.3f}"
                    assert line[f"{column.name}{name}"] == expected

    def test_intervals_in_brackets(self, tmp_path: Path) -> None:
        path = file_of(tmp_path, RANDOM)
        mean = compared(path).columns[1].cells[2].mean
        for format in ("latex", "markdown"):
            assert f"[{mean.low:.2f}, {mean.high:.2f}]" in render_table([path], format, intervals=True, samples=200)
        one = render_table([file_of(tmp_path, {"a": [[1, 2, 3]], "b": [[2, 3, 4]]})], intervals=True)
        assert "There are no intervals: they need two references." in one
        assert "[" not in one.split("\n\n")[0]

    def test_one_method_is_not_marked(self, tmp_path: Path) -> None:
        text = render_table([file_of(tmp_path, {"m": [[1, 2, 3]]})])
        assert "| m | 1.000 | 2.00 | 3.000 |" in text
        assert "- Means over 1 pair with 1 reference.\n" in text

    def test_a_method_without_any_score(self, tmp_path: Path) -> None:
        path = file_of(tmp_path, {"good": [[1, 2, 3]], "bad": [[None, None, None]]})
        assert "| bad | - | - | - |" in render_table([path])
        assert render_table([path], "csv").splitlines()[2] == "bad,0,,,"

    def test_options_that_mean_nothing(self, tmp_path: Path) -> None:
        path = file_of(tmp_path, RANDOM)
        for message, options in (("format: expected one of latex", {"format": "x"}), ("digits: ", {"digits": 16})):
            with pytest.raises(ValueError, match=message):
                render_table([path], **options)
        refused("--latex and --csv: expected one of them", "table", path, "--latex", "--csv")
        refused("--out .*: is one of the files of rows", "table", path, "--out", path)
        refused("not a table of `damlpips score`", "table", write_rows(tmp_path / "x.csv", [], ["a"]))
        refused("no such file|No such file", "table", tmp_path / "gone.csv")

    def test_the_command_writes_what_the_function_returns(self, tmp_path: Path) -> None:
        path = file_of(tmp_path, RANDOM)
        assert run("table", path).stdout == render_table([path])
        assert run("table", path, "--latex", "--digits", 1, "--intervals", "-o", tmp_path / "t.tex").stdout == ""
        assert (tmp_path / "t.tex").read_text() == render_table([path], "latex", digits=1, intervals=True)

    def test_a_row_of_latex_does_not_begin_with_what_a_line_end_takes(self, tmp_path: Path) -> None:
        # as in \\[2pt] and \\*
        text = render_table([file_of(tmp_path, {"[a]": [[1, 2, 3]], "*b": [[1, 2, 3]], "c": [[1, 2, 3]]})], "latex")
        assert [line.partition(" &")[0] for line in text.splitlines()[5:8]] == ["{}[a]", "{}*b", "c"]


class TestPage:
    def test_a_run_of_several_metrics(self, tmp_path: Path) -> None:
        options = ("--metric", "damlpips", "--metric", "psnr", "--metric", "damlpips:1")
        noises = {"weak": 4, "strong": 30}
        run_score(tmp_path, *options, noises=noises, names=["a.png", "b.png", "c.png"])
        # darker by much: PSNR finds it far off, DAMLPIPS near
        pixels = np.asarray(Image.open(tmp_path / "ref/a.png"))
        Image.fromarray((pixels * 0.6).astype(np.uint8)).save(tmp_path / "weak/a.png")
        path = score(tmp_path, *options, methods=noises)
        page = render_report([path], samples=50)
        section = page[page.index('id="metrics"') : page.index('id="s0"')]
        found = Scores.of_files([path]).compared(samples=50)
        for column in found.columns:
            decimals = 2 if column.said.unit else 4
            best = f"{column.cells[0].mean.value:.{decimals}f}"
            assert f"<strong>{best}</strong>" in section
            assert column.said.description in section
        for k, name in enumerate(("DAMLPIPS", "PSNR (dB)", "DAMLPIPS:1")):
            assert f"{name} {found.columns[k].said.arrow}</button>" in section
        for k in range(3):
            for value in found.correlations[k][:k]:
                assert f"<td>{value:.2f}</td>" in section
        # the pairs on which they disagree have pictures and heat maps
        shown = len(Scores.of_files([path]).compared(samples=1, most=6).disagreements)
        assert section.count('<li class="pair"') == shown > 0
        assert section.count('<figure class="heat">') == shown
        assert len(re.findall(r"finds \d+ % of the pairs closer than this one", section)) >= shown
        assert render_report([path], samples=50) == page

    def test_failures_and_odd_names(self, tmp_path: Path) -> None:
        page = render_report([file_of(tmp_path, FAILED)], samples=20, maps=False)
        section = page[page.index('id="metrics"') : page.index('id="s0"')]
        assert section.count("1 failed") == 2
        assert "Pairs that lack a score" in section
        assert "a &lt;reason&gt;" in section
        assert "50 % &lt;b&gt;" in section
        assert "a_b&amp;c" in section

    def test_one_metric_has_no_such_section(self, tmp_path: Path) -> None:
        page = render_report([write_rows(tmp_path / "s.csv", [row()])], maps=False)
        assert 'id="metrics"' not in page
        assert "Lower is closer." in page

    def test_the_same_page_in_another_process(self, tmp_path: Path) -> None:
        path = file_of(tmp_path, RANDOM)
        for k, seed in enumerate(("1", "2")):
            result = commands.piped(*("report", path, "--no-maps", "-o", tmp_path / f"{k}.html"), PYTHONHASHSEED=seed)
            assert result.returncode == 0, result.stderr
        assert (tmp_path / "0.html").read_bytes() == (tmp_path / "1.html").read_bytes()
