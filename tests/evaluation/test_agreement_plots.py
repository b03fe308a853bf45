"""Plots: what they show, that they stay vectors, and that nothing odd in a set breaks them."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from damlpips.evaluation import plots
from damlpips.evaluation.agreement import Result
from damlpips.evaluation.figures import evaluate
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating, SameOrNot
from damlpips.report.figure import FORMATS

PATH = Path("image.png")


def ratings(count: int = 40, kinds: int = 3, contents: int = 4) -> JudgedSet:
    rows = (Rating(PATH, PATH, 5 - k / 10, f"c{k % contents}.png", f"kind {k % kinds}") for k in range(count))
    return JudgedSet("ratings", tuple(rows))


def choices() -> JudgedSet:
    return JudgedSet("choices", tuple(Choice((PATH, PATH), (PATH, PATH), k, 20 - k, f"c{k % 4}") for k in range(20)))


def same() -> JudgedSet:
    return JudgedSet("same", tuple(SameOrNot(PATH, PATH, 1 - k / 12, f"c{k % 3}") for k in range(12)))


def result(judged: JudgedSet, metric: str = "metric", *, distances=None, lower_is_closer: bool = True) -> Result:
    if distances is None:
        random = np.random.default_rng(len(metric))
        shape = (len(judged.judgements), 2) if judged.kind_of_judgement is Choice else len(judged.judgements)
        distances = random.uniform(0.1, 1.0, shape)
    figures = evaluate(judged, distances, samples=10)
    return Result(metric, lower_is_closer, judged, np.asarray(distances), figures, {})


def panels(figure) -> list:
    return [axes for axes in figure.axes if axes.get_ylabel() or axes.get_xlabel()]


class TestContents:
    def test_ratings_have_a_panel_a_metric_with_all_points_and_a_curve(self) -> None:
        judged = ratings()
        results = [result(judged, name) for name in ("one", "other", "the third", "fourth")]
        shown = panels(plots.draw(results))
        assert len(shown) == 4
        for panel, drawn in zip(shown, results, strict=True):
            points = np.concatenate([collection.get_offsets() for collection in panel.collections])
            assert sorted(points[:, 0]) == pytest.approx(sorted(drawn.distances))
            assert sorted(points[:, 1]) == pytest.approx(sorted(j.score for j in judged.judgements))
            assert len(panel.lines) == 1
            title = panel.get_title(loc="left").splitlines()
            value = drawn.figures.headline
            assert title[0] == drawn.metric
            assert title[1] == f"SRCC {value.value:.3f} [{value.low:.2f}, {value.high:.2f}]"
            assert title[2].startswith("PLCC")

    def test_panels_have_one_size_and_one_scale_of_scores(self) -> None:
        judged = ratings()
        figure = plots.draw([result(judged, name) for name in ("one", "other", "the third", "fourth")])
        figure.draw_without_rendering()
        boxes = [panel.get_position() for panel in panels(figure)]
        assert len({(round(box.width, 4), round(box.height, 4)) for box in boxes}) == 1
        assert len({panel.get_ylim() for panel in panels(figure)}) == 1

    def test_kinds_have_colours_and_markers_of_their_own(self) -> None:
        figure = plots.draw([result(ratings(kinds=10))])
        (panel,) = panels(figure)
        markers = {collection.get_paths()[0].vertices.tobytes() for collection in panel.collections}
        assert len(panel.collections) == len(markers) == 10
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [f"kind {k}" for k in range(10)]
        assert legend.get_title().get_text() == "distortion"

    def test_contents_stand_in_for_too_many_kinds(self) -> None:
        (legend,) = plots.draw([result(ratings(kinds=11))]).legends
        assert legend.get_title().get_text() == "content"
        assert [text.get_text() for text in legend.get_texts()] == ["c0", "c1", "c2", "c3"]

    def test_too_many_of_both_have_one_colour_and_no_legend(self) -> None:
        figure = plots.draw([result(ratings(kinds=11, contents=13))])
        assert figure.legends == []
        assert len(panels(figure)[0].collections) == 1

    def test_choices_show_the_share_of_votes_over_the_ratio(self) -> None:
        judged = choices()
        drawn = result(judged)
        (panel,) = panels(plots.draw([drawn]))
        points = np.concatenate([collection.get_offsets() for collection in panel.collections])
        expected = np.log(drawn.distances[:, 1] / drawn.distances[:, 0])
        assert sorted(points[:, 0]) == pytest.approx(sorted(expected))
        assert sorted(points[:, 1]) == pytest.approx([k / 20 for k in range(20)])
        assert panel.get_xlabel() == "log(d$_b$ / d$_a$)"
        assert panel.get_xlim()[0] == -panel.get_xlim()[1]

    def test_without_ratios_the_difference_is_shown(self) -> None:
        judged = choices()
        distances = -np.random.default_rng(0).uniform(0.1, 1.0, (20, 2))
        (panel,) = panels(plots.draw([result(judged, distances=distances, lower_is_closer=False)]))
        points = np.concatenate([collection.get_offsets() for collection in panel.collections])
        assert sorted(points[:, 0]) == pytest.approx(sorted(distances[:, 1] - distances[:, 0]))
        assert panel.get_xlabel() == "d$_b$ - d$_a$"

    def test_the_histogram_counts_every_choice(self) -> None:
        figure = plots.draw([result(choices())])
        marginal = next(axes for axes in figure.axes if axes.patches)
        assert sum(bar.get_height() for bar in marginal.patches) == 20

    def test_same_or_not_has_a_curve_a_metric(self) -> None:
        judged = same()
        figure = plots.draw([result(judged, "one"), result(judged, "other")])
        (panel,) = panels(figure)
        styles = {(line.get_color(), line.get_linestyle()) for line in panel.lines[1:]}
        assert len(styles) == 2
        (legend,) = figure.legends
        assert [text.get_text().split(":")[0] for text in legend.get_texts()] == ["one", "other"]

    def test_a_similarity_is_called_one(self) -> None:
        judged = ratings()
        (panel,) = panels(plots.draw([result(judged, lower_is_closer=False)]))
        assert panel.get_xlabel() == "-score"


class TestFiles:
    def test_svg_keeps_text_as_text(self) -> None:
        text = plots.render([result(ratings(), "a metric")], suffix="svg").decode()
        words = [element.text for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
        assert {"a metric", "distance", "mean opinion score", "kind 0"} <= set(words)

    def test_pdf_embeds_truetype_fonts(self) -> None:
        content = plots.render([result(ratings())], suffix="pdf")
        assert content.startswith(b"%PDF")
        assert re.search(rb"/Subtype /(CIDFontType2|TrueType)", content)
        assert b"/Type3" not in content

    def test_png(self) -> None:
        assert plots.render([result(same())], suffix="png").startswith(b"\x89PNG")

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_equal_results_give_equal_files(self, suffix: str) -> None:
        first, second = (plots.render([result(choices())], suffix=suffix) for _ in range(2))
        assert first == second

    def test_many_points_become_pixels(self) -> None:
        few, many = (
            plots.render([result(ratings(count, kinds=1, contents=1))], suffix="svg").decode()
            for count in (100, plots.MOST_VECTOR_POINTS + 1)
        )
        assert "<image" not in few
        assert "<image" in many

    def test_no_style_is_left_behind(self) -> None:
        import matplotlib

        before = dict(matplotlib.rcParams)
        plots.render([result(ratings())], suffix="svg")
        assert dict(matplotlib.rcParams) == before


class TestOddities:
    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("judged", [ratings(), choices(), same()], ids=lambda judged: judged.name)
    def test_a_blind_metric(self, judged: JudgedSet) -> None:
        shape = (20, 2) if judged.name == "choices" else len(judged.judgements)
        content = plots.render([result(judged, distances=np.full(shape, 0.5))], suffix="svg")
        assert b"metric" in content

    @pytest.mark.filterwarnings("error")
    def test_a_single_judgement(self) -> None:
        for judged in (ratings(1), JudgedSet("choice", choices().judgements[:1])):
            assert b"</svg>" in plots.render([result(judged)], suffix="svg")

    @pytest.mark.filterwarnings("error")
    def test_names_are_no_formulas_and_none_is_hidden(self) -> None:
        rows = (Rating(PATH, PATH, k, str(k), ("_$x^$", "$y", "")[k % 3]) for k in range(9))
        text = plots.render([result(JudgedSet("odd", tuple(rows)), "a$b$_c")], suffix="svg").decode()
        assert "a$b$_c" in text
        assert "_$x^$" in text

    def test_one_set_a_plot(self) -> None:
        with pytest.raises(ValueError, match=r"expected those of one set, got \['ratings', 'same'\]"):
            plots.draw([result(ratings()), result(same())])
        with pytest.raises(ValueError, match="expected those of one set, got"):
            plots.draw([])

    def test_unknown_format(self) -> None:
        with pytest.raises(ValueError, match="unknown format 'gif': expected one of 'png', 'svg', 'pdf'"):
            plots.render([result(ratings())], suffix="gif")
