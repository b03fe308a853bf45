"""What a report is made from: rows read, remembered and summed up, and places in charts."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from damlpips.report.intervals import interval, paired_difference
from damlpips.report.page import charts
from damlpips.report.page.collecting import Collection, method_names
from damlpips.report.page.figures import Figures, figures, means_of_samples
from damlpips.report.page.reading import ScoredPair, read_rows
from damlpips.scoring.images import ScoringError
from tests.support.scored import COLUMNS, row, run_score, write_rows


def counted(path: Path) -> tuple[int, int]:
    """Return how many rows a file has, and how many were cut off."""
    cut: list[None] = []
    return len(list(read_rows(path, lambda: cut.append(None)))), len(cut)


def collected(*paths: Path, keep: int = 3) -> Collection:
    found = Collection(keep)
    found.add_files(paths)
    return found


def figures_of(path: Path) -> dict[str, Figures]:
    (section,) = collected(path).sections.values()
    return {f.method.name: f for f in figures(section, samples=400)}


class TestReading:
    def test_all_formats_hold_the_same(self, tmp_path: Path) -> None:
        names = ["a.png", 'with "quotes", and comma.png']
        found = []
        for out in ("rows.csv", "rows.jsonl", "rows.parquet"):
            path = run_score(tmp_path, noises={"m": 9, "n": 20}, names=names, out=out)
            found.append(list(read_rows(path)))
        assert found[0] == found[1] == found[2]
        first = found[0][0]
        assert len(found[0]) == 4
        assert (first.method, Path(first.reference).name, first.error) == ("m", "a.png", "")
        assert first.score == pytest.approx(sum(first.layers), rel=1e-6)
        assert first.settings.metric == "damlpips"

    def test_a_spreadsheets_csv(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.csv", [row(), row(name="b.png")])
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert [r.reference for r in read_rows(path)] == ["ref/a.png", "ref/b.png"]

    @pytest.mark.parametrize("keep", [-1, -30, -160])
    def test_a_row_that_was_cut_off(self, tmp_path: Path, keep: int) -> None:
        path = write_rows(tmp_path / "a.csv", [row(), row(name="b.png", error="x" * 9, score="")])
        path.write_bytes(path.read_bytes()[:keep])
        # without its last character alone, the end of a line, the row is whole
        assert counted(path) == ((2, 0) if keep == -1 else (1, 1))

    def test_json_lines_that_were_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps(row()) + "\n" + json.dumps(row(name="b"))[:-9])
        assert counted(path) == (1, 1)

    def test_columns_of_another_version_are_passed_over(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.csv", [row(frames=7, layer_x=1)], [*COLUMNS, "frames", "layer_x"])
        assert [r.layers for r in read_rows(path)] == [(0.2, 0.3)]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("none.csv", None, "No such file"),
            ("a.txt", "x", r"expected rows of scores, as damlpips score writes them \(\.csv"),
            ("a.json", "{}", "expected CSV, JSON Lines or Parquet"),
            ("a.csv", "name,value\n1,2\n", "no column reference, distorted, score, metric"),
            ("a.csv", "\0\0\n", "not a table"),
            ("a.jsonl", "[1]\n", "expected an object"),
            ("a.jsonl", "nonsense\n", "row 1 is damaged"),
            ("a.jsonl", '{"reference": 1}\n', "no column distorted"),
            ("a.parquet", "nonsense", "not a Parquet file"),
        ],
    )
    def test_no_table(self, tmp_path: Path, name: str, content: str | None, message: str) -> None:
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(ScoringError, match=message) as caught:
            list(read_rows(tmp_path / name))
        assert name in str(caught.value)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"score": "much"}, "row 2 is damaged .score: expected a number, got 'much'"),
            ({"score": "nan"}, "row 2 is damaged .score: expected a finite number, got nan"),
            ({"layer_1": "inf"}, "row 2 is damaged .layer_1: expected a finite number"),
            ({"score": ""}, "row 2 is damaged .neither a score nor an error"),
        ],
    )
    def test_damaged_values(self, tmp_path: Path, values: dict[str, object], message: str) -> None:
        rows = [row(), row(**values)]
        write_rows(tmp_path / "a.csv", rows)
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        for name in ("a.csv", "a.jsonl"):
            with pytest.raises(ScoringError, match=message):
                list(read_rows(tmp_path / name))

    def test_other_fields_than_the_header(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.csv", [row()])
        path.write_text(path.read_text() + "a,b\n")
        with pytest.raises(ScoringError, match=rf"row 2 is damaged \(2 fields, the header has {len(COLUMNS)}\)"):
            list(read_rows(path))


class TestCollecting:
    def test_sections_and_methods(self, tmp_path: Path) -> None:
        rows = [row(), row(method="n"), row(metric="lpips"), row(name="b.png", score="", error="gone")]
        found = collected(write_rows(tmp_path / "a.csv", rows))
        assert [(s.settings.metric, list(s.methods), s.count, s.failed) for s in found.sections.values()] == [
            ("damlpips", ["m", "n"], 2, 1),
            ("lpips", ["m"], 1, 0),
        ]
        (damlpips, _) = found.sections.values()
        assert [pair.error for pair in damlpips.failures] == ["gone"]
        assert damlpips.methods["m"].layers == [0.2, 0.3]

    def test_rows_without_a_method_are_named_by_their_file(self, tmp_path: Path) -> None:
        one = write_rows(tmp_path / "ours.csv", [row(method="")])
        other = write_rows(tmp_path / "theirs.csv", [row(method="", distorted="x")])
        (section,) = collected(one, other).sections.values()
        assert list(section.methods) == ["ours", "theirs"]
        paths = [Path("a/x.csv"), Path("b/x.csv")]
        assert method_names(paths) == {path: str(path) for path in paths}

    def test_best_and_worst_in_order(self, tmp_path: Path) -> None:
        scores = np.random.default_rng(0).permutation(40) / 8 // 1  # each five or eight times
        rows = [row(name=f"{k}.png", score=score) for k, score in enumerate(scores)]
        (section,) = collected(write_rows(tmp_path / "a.csv", rows), keep=6).sections.values()
        method = section.methods["m"]
        order = sorted(range(40), key=lambda k: (scores[k], k))
        assert [p.reference for p in method.best()] == [f"ref/{k}.png" for k in order[:6]]
        order = sorted(range(40), key=lambda k: (-scores[k], k))
        assert [p.reference for p in method.worst()] == [f"ref/{k}.png" for k in order[:6]]

    def test_a_pair_that_comes_twice(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.csv", [row()])
        with pytest.raises(ScoringError, match=r"b.csv: row 1: m/a.png of method 'm' comes a second time"):
            collected(path, write_rows(tmp_path / "b.csv", [row()]))

    @pytest.mark.parametrize("text", ["", ",".join(COLUMNS) + "\n"])
    def test_no_rows(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(ScoringError, match=r"a.csv: there are no rows"):
            collected(tmp_path / "a.csv")

    def test_memory_and_kept_names_do_not_grow_with_rows(self) -> None:
        def peak(count: int) -> int:
            found = Collection(3)
            tracemalloc.start()
            for k in range(count):
                settings = ("damlpips", "nano", "w", "o")
                # not from a file: one of as many rows takes its time under tracemalloc
                pair = ScoredPair(settings, "m", "r" * 400, f"{k}" * 40, k / count, (0.1,), "s", f"{k:064}", "")
                found.add(pair, "")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            method = found.sections[settings].methods["m"]
            assert len(method.lowest) == len(method.highest) == 3
            return peak

        # the reference's hash and place, the score and its number, and that the pair was seen
        assert (peak(24_000) - peak(4_000)) / 20_000 < 400


class TestFigures:
    @pytest.fixture
    def rows(self) -> list[dict[str, object]]:
        """Return three methods on eight references, two images each; the third lacks two references."""
        generator = np.random.default_rng(1)
        hard = generator.uniform(0.2, 0.6, 8)
        return [
            row(method=m, reference=f"r{k}", reference_sha256=f"s{k}", distorted=f"{m}{k}{j}", score=value)
            for m, more in (("ours", 0.0), ("theirs", 0.05), ("third", 0.1))
            for k in range(8 if m != "third" else 6)
            for j in range(2)
            for value in [hard[k] + more + 0.01 * generator.standard_normal()]
        ]

    def test_they_are_those_of_the_evaluation(self, tmp_path: Path, rows: list[dict[str, object]]) -> None:
        found = figures_of(write_rows(tmp_path / "a.csv", rows))
        assert list(found) == ["ours", "theirs", "third"]
        scores = {m: np.array([r["score"] for r in rows if r["method"] == m]) for m in found}
        contents = [r["reference"] for r in rows if r["method"] == "ours"]
        for name in ("ours", "theirs"):
            expected = interval(contents, lambda k, name=name: float(scores[name][k].mean()), samples=400)
            got = found[name]
            assert (got.mean.low, got.mean.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
            assert got.mean.value == pytest.approx(expected.value)
            assert got.quartiles == pytest.approx(tuple(np.quantile(scores[name], (0.25, 0.5, 0.75))))
            assert (got.lowest, got.highest) == (scores[name].min(), scores[name].max())
            assert got.contents == 8
        first, second = (lambda k, name=name: float(scores[name][k].mean()) for name in ("theirs", "ours"))
        expected = paired_difference(contents, first, second, samples=400)
        difference = found["theirs"].difference
        assert difference is not None
        assert difference.contents == 8
        got = difference.interval
        assert (got.value, got.low, got.high) == pytest.approx((expected.value, expected.low, expected.high), abs=1e-9)
        # what is hard about a reference cancels out
        assert got.high - got.low < 0.1 * (found["ours"].mean.high - found["ours"].mean.low)
        assert found["ours"].difference is None

    def test_difference_on_shared_references_only(self, tmp_path: Path, rows: list[dict[str, object]]) -> None:
        third = figures_of(write_rows(tmp_path / "a.csv", rows))["third"]
        assert third.difference is not None
        assert third.difference.contents == 6
        own = np.mean([r["score"] for r in rows if r["method"] == "third"])
        best = np.mean([r["score"] for r in rows if r["method"] == "ours" and int(str(r["reference"])[1:]) < 6])
        assert third.difference.interval.value == pytest.approx(own - best)

    def test_no_reference_in_common(self, tmp_path: Path) -> None:
        rows = [
            row(method=m, name=f"{m}{k}.png", score=s + k / 10) for m, s in (("m", 0.1), ("n", 0.2)) for k in (0, 1)
        ]
        assert figures_of(write_rows(tmp_path / "a.csv", rows))["n"].difference is None

    def test_one_reference_has_no_interval(self, tmp_path: Path) -> None:
        rows = [row(distorted=f"{k}.png", score=k / 10) for k in range(5)]
        found = figures_of(write_rows(tmp_path / "a.csv", rows))["m"]
        assert np.isnan([found.mean.low, found.mean.high]).all()
        assert found.mean.value == pytest.approx(0.2)

    def test_shares_of_layers(self, tmp_path: Path) -> None:
        layers = [{"layer_0": 0.1, "layer_1": 0.3}, {"layer_0": 0.2, "layer_1": 0.2}, {"score": "", "error": "x"}]
        rows = [row(name=f"{k}", **values) for k, values in enumerate(layers)]
        found = figures_of(write_rows(tmp_path / "a.csv", rows))["m"]
        assert found.shares == pytest.approx((0.375, 0.625))
        same = [row(score=0.0, layer_0=0.0, layer_1=0.0)]
        assert figures_of(write_rows(tmp_path / "b.csv", same))["m"].shares == ()

    def test_samples_are_the_same_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sums = np.random.default_rng(0).random((2, 7))
        whole = means_of_samples(sums, np.ones((2, 7)), samples=50, seed=3)
        monkeypatch.setattr("damlpips.report.intervals.BLOCK", 21)
        assert (means_of_samples(sums, np.ones((2, 7)), samples=50, seed=3) == whole).all()
        assert whole.shape == (2, 50)


class TestCharts:
    def test_axis(self, tmp_path: Path) -> None:
        scores = {"m": (0.3, 0.62), "n": (0.41, 0.97)}
        rows = [row(method=m, name=f"{k}", score=s) for m, both in scores.items() for k, s in enumerate(both)]
        found = charts.axis(list(figures_of(write_rows(tmp_path / "a.csv", rows)).values()))
        assert (found.low, found.high) == (0.0, 0.97)
        assert [tick.text for tick in found.ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8"]
        assert (found.position(0.0), found.position(0.97)) == (charts.MARGIN, 100 - charts.MARGIN)

    @pytest.mark.parametrize("scores", [(0.0, 0.0), (0.5,), (100.0, 100.5), (-0.2, 0.1), (1e-6, 2e-6)])
    def test_axes_hold_all_scores(self, tmp_path: Path, scores: tuple[float, ...]) -> None:
        rows = [row(name=f"{k}", score=s) for k, s in enumerate(scores)]
        found = figures_of(write_rows(tmp_path / "a.csv", rows))
        axis = charts.axis(list(found.values()))
        assert 2 <= len(axis.ticks) <= 12
        drawn = charts.distribution(found["m"], axis)
        assert all(0 <= x <= 100 and 0 <= y <= charts.HEIGHT for x, y in drawn.dots)
        assert len(drawn.dots) == len(scores)

    def test_histogram_counts_all(self, tmp_path: Path) -> None:
        scores = np.random.default_rng(0).beta(2, 6, 500)
        rows = [row(name=f"{k}", score=s) for k, s in enumerate(scores)]
        found = figures_of(write_rows(tmp_path / "a.csv", rows))["m"]
        axis = charts.axis([found])
        drawn = charts.distribution(found, axis)
        assert drawn.dots == ()
        assert max(bar.height for bar in drawn.bars) == charts.HEIGHT
        assert all(bar.top + bar.height == pytest.approx(charts.HEIGHT) for bar in drawn.bars)
        counts, _ = np.histogram(scores, charts.BINS, (axis.low, axis.high))
        assert len(drawn.bars) == (counts > 0).sum()
        assert drawn.interval is not None
        assert drawn.interval[0] < drawn.mean < drawn.interval[1]

    def test_shares_fill_the_whole(self) -> None:
        bars = charts.shares((0.5, -0.1, 0.25, 0.35))
        assert sum(bar.width for bar in bars) == pytest.approx(100, abs=0.01)
        assert bars[1].width == 0
        assert bars[3].left + bars[3].width == pytest.approx(100, abs=0.01)
