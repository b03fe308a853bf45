"""The page of a report: what is on it, what is not, and that names of files stay text."""

import re
from base64 import b64decode, b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from damlpips import DAMLPIPS
from damlpips.report.page import render_report, write_report
from damlpips.report.page.views import TYPICAL
from damlpips.scoring.images import ScoringError, read_image
from tests.support.pictures import image_file
from tests.support.scored import ODD, row, run_score, score, write_rows

ROOT = Path(__file__).resolve().parents[2]
LPIPS = "alpha=error heads={} resize=none tile=none"
# attributes that a browser may load something from
LOADING = {*("src", "srcset", "href", "xlink:href", "data", "poster", "action", "formaction", "background", "style")}


class Page(HTMLParser):
    """A page's elements, its texts, and what its scripts and styles hold."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.texts: list[str] = []
        self._open = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.raw:
            self.raw[self._open].append(data)
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def images(self, kind: str) -> list[dict[str, str]]:
        """Return the images of the figures of a kind: reference, result or heat."""
        found, inside = [], ""
        for tag, attributes in self.elements:
            inside = attributes.get("class", "") if tag == "figure" else inside
            if tag == "img" and inside == kind and "id" not in attributes:
                found.append(attributes)
                inside = ""
        return found


def rendered(*rows: Path, **options: object) -> Page:
    return Page(render_report(rows, **options))


def picture(attributes: dict[str, str]) -> np.ndarray:
    head, _, content = attributes["src"].partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(BytesIO(b64decode(content))) as image:
        assert image.size == (int(attributes["width"]), int(attributes["height"]))
        return np.asarray(image.convert("RGB")).astype(float)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the rows of two methods on three references."""
    folder = tmp_path_factory.mktemp("run")
    return run_score(folder, noises={"weak": 6, "strong": 25}, names=["a.png", "b.png", "c.png"])


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return rendered(run, title="Two methods")


def rescored(run: Path, tmp_path: Path, **values: str) -> Path:
    """Return the rows of a run with some columns changed."""
    import csv

    with open(run, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return write_rows(tmp_path / "changed.csv", [{**r, **values} for r in rows], list(rows[0]))


class TestOneFile:
    def test_nothing_is_loaded(self, page: Page) -> None:
        for tag, attributes in page.elements:
            for name in LOADING & set(attributes):
                value = attributes[name]
                assert value.startswith(("#", "data:")), f"{tag} {name}={value[:80]}"
                if value.startswith("#"):
                    assert any(a.get("id") == value[1:] for _, a in page.elements), value
            assert not [name for name in attributes if name.startswith("on")], tag
        assert {tag for tag, _ in page.elements}.isdisjoint({"iframe", "object", "embed", "base", "form"})
        for source in [*page.raw["script"], *page.raw["style"]]:
            assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch|XMLHttp|import\(|eval|innerHTML", source), source

    def test_policy_names_just_the_script_and_the_style(self, page: Page) -> None:
        policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["img-src"] == "data:"
        for tag in ("script", "style"):
            (text,) = page.raw[tag]
            assert rules[f"{tag}-src"] == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    def test_ids_are_unique(self, page: Page) -> None:
        ids = Counter(a["id"] for _, a in page.elements if "id" in a)
        assert max(ids.values()) == 1
        for _, attributes in page.elements:
            assert set(attributes.get("aria-labelledby", "").split()) <= set(ids)

    def test_it_is_made_for_phones_and_both_schemes(self, page: Page) -> None:
        metas = {a.get("name"): a.get("content") for a in page.of("meta")}
        assert metas["viewport"] == "width=device-width, initial-scale=1"
        assert metas["color-scheme"] == "light dark"
        (style,) = page.raw["style"]
        assert "prefers-color-scheme: dark" in style
        assert "prefers-reduced-motion" in style

    def test_same_rows_same_page(self, run: Path) -> None:
        assert render_report([run]) == render_report([run])


class TestContents:
    def test_table(self, page: Page, run: Path) -> None:
        rows = re.findall(r"(weak|strong) .*?(0\.\d{4}) (0\.\d{4}) to (0\.\d{4})", page.text)
        assert [name for name, *_ in rows][:2] == ["weak", "strong"]
        assert "closest" in page.text
        assert re.search(r"\+0\.\d{4} \+0\.\d{4} to \+0\.\d{4}", page.text)
        assert "DAMLPIPS (nano): 6 pairs from rows.csv. Lower is closer." in page.text

    def test_what_it_was_scored_with(self, page: Page) -> None:
        assert f"weights {DAMLPIPS().source.identity()[:21]}" in page.text
        assert "alpha error colour convert orientation apply resize none tile none version 2" in page.text
        assert "6 with a score, 0 failed; 3 references" in page.text

    def test_pictures_are_those_of_the_files(self, page: Page, run: Path) -> None:
        for kind, folders in (("reference", ["ref"] * 6), ("result", ["weak"] * 3 + ["strong"] * 3)):
            images = page.images(kind)
            assert len(images) == 6
            for attributes, folder in zip(images, folders, strict=True):
                path = Path(attributes["alt"].split(" ", 1)[1])
                assert path.parent.name == folder
                expected = np.asarray(Image.open(path)).astype(float)
                assert np.abs(picture(attributes) - expected).mean() < 8

    def test_heat_maps_share_a_scale(self, page: Page, run: Path) -> None:
        heats = page.images("heat")
        assert len(heats) == 6
        light = [picture(attributes).mean() for attributes in heats]
        results = [picture(attributes) for attributes in page.images("result")]
        assert all(np.abs(h - r.mean()).mean() > 5 for h, r in zip(light, results, strict=True))
        model = DAMLPIPS()
        ends = []
        for attributes in page.images("result"):
            path = Path(attributes["alt"].split(" ", 1)[1])
            with torch.no_grad():
                found = model.spatial_map(read_image(path)[None], read_image(run.parent / "ref" / path.name)[None])
            ends.append(float(np.quantile(found.numpy(), 0.99)))
        assert f"{max(ends):.3g} and more" in page.text

    def test_pictures_of_noise(self, tmp_path: Path) -> None:
        """They are larger than an encoder expects of a picture."""
        noise = np.random.default_rng(0).integers(0, 256, (2, 400, 480, 3), np.uint8)
        for folder, image in zip(("ref", "m"), noise, strict=True):
            (tmp_path / folder).mkdir()
            Image.fromarray(image).save(tmp_path / folder / "a.png")
        page = rendered(score(tmp_path))
        assert picture(page.images("result")[0]).std() > 50
        assert len(page.images("heat")) == 1

    def test_largest_side(self, run: Path) -> None:
        page = rendered(run, side=24)
        assert {picture(a).shape for kind in ("heat", "result") for a in page.images(kind)} == {(20, 24, 3)}

    def test_number_of_pairs(self, run: Path) -> None:
        page = rendered(run, pairs=1)
        assert page.text.count("Worst") >= 3  # a column, and a list for each method
        assert len(page.images("result")) == 4
        assert rendered(run, pairs=0).images("result") == []

    def test_no_maps(self, run: Path) -> None:
        page = rendered(run, maps=False)
        assert page.images("heat") == []
        assert len(page.images("result")) == 6
        assert "There are no heat maps: they were not asked for." in page.text

    def test_metrics_are_sections(self, run: Path, tmp_path: Path) -> None:
        options = ("--metric", "lpips", "--backbone", "nano", "--heads", "uniform")
        other = run_score(tmp_path, *options, noises={"m": 9}, names=["a.png", "b.png"])
        page = rendered(run, other)
        assert [a["id"] for a in page.of("section")] == ["metrics", "s0", "s1", "meaning"]
        assert "LPIPS (nano)" in page.text
        assert len(page.images("heat")) == 8
        assert "heads uniform" in page.text

    def test_failed_pairs(self, tmp_path: Path) -> None:
        run_score(tmp_path, noises={"m": 9}, names=["a.png", "b.png"])
        (tmp_path / "m" / "b.png").write_bytes(b"\x89PNG nonsense")
        path = score(tmp_path, status=3)
        page = rendered(path)
        assert "1 of 2 pairs have no score and count in no figure:" in page.text
        assert re.search(r"m : \S*b\.png .*not an image of a known kind", page.text)
        many = [row(), *(row(name=f"{k}.png", score="", error=f"error {k}") for k in range(70))]
        page = rendered(write_rows(tmp_path / "many.csv", many))
        assert "70 of 71 pairs have no score" in page.text
        assert "the first 50 are:" in page.text
        assert "error 49" in page.text
        assert "error 50" not in page.text

    def test_no_pair_has_a_score(self, tmp_path: Path) -> None:
        text = rendered(write_rows(tmp_path / "a.csv", [row(score="", error="gone")])).text
        assert "No pair has a score." in text
        assert "gone" in text

    def test_one_method_without_any_score(self, tmp_path: Path) -> None:
        rows = [row(), row(method="bad", score="", error="gone")]
        assert "bad none none none none 0 1 " in rendered(write_rows(tmp_path / "a.csv", rows)).text

    def test_page_does_not_grow_with_rows(self, tmp_path: Path) -> None:
        sizes = []
        for count in (200, 2000):
            scores = np.random.default_rng(0).beta(2, 6, count)
            rows = [row(name=f"{k:05}.png", score=s) for k, s in enumerate(scores)]
            sizes.append(len(render_report([write_rows(tmp_path / "a.csv", rows)], samples=50)))
        assert abs(sizes[1] - sizes[0]) < 6000

    def test_typical_values_are_those_of_the_demo_images(self) -> None:
        demo, model = ROOT / "docs" / "demo", DAMLPIPS()
        files = ("jpeg_q80.jpg", "jpeg_q30.jpg", "jpeg_q8.jpg", "blur_0.7.png", "blur_1.5.png", "blur_3.png")
        for file, (what, value) in zip((*files, "noise_5.png", "noise_15.png", "noise_40.png"), TYPICAL, strict=True):
            scores = []
            for scene in ("landscape", "pebbles", "still_life"):
                with torch.no_grad():
                    pair = read_image(demo / scene / file)[None], read_image(demo / f"{scene}.png")[None]
                    scores.append(float(model(*pair)))
            assert np.mean(scores) == pytest.approx(value, abs=0.006), what
        assert max(scores) / min(scores) < 3


class TestWhatIsMissing:
    def test_images_that_are_gone_or_changed(self, tmp_path: Path) -> None:
        path = run_score(tmp_path, noises={"m": 9}, names=["a.png", "b.png", "c.png", "d.png"])
        (tmp_path / "m" / "a.png").unlink()
        image_file(tmp_path / "ref" / "b.png", 77)
        (tmp_path / "m" / "c.png").unlink()
        (tmp_path / "ref" / "c.png").unlink()
        page = rendered(path)
        assert len(page.images("result")) == len(page.images("heat")) == 1
        assert "The result is not shown: No such file or directory." in page.text
        assert "The reference is not shown: the file has changed since it was scored." in page.text
        assert "Neither picture is shown: No such file or directory." in page.text
        assert "3 of the pairs below have no pictures" in page.text

    def test_no_file_but_what_was_scored_gets_on_the_page(self, run: Path, tmp_path: Path) -> None:
        secret = image_file(tmp_path / "secret.png", 5)
        path = rescored(run, tmp_path, distorted=str(secret))
        header, first, *_ = path.read_text().splitlines(keepends=True)
        path.write_text(header + first)
        page = rendered(path)
        assert page.images("result") == []
        assert "has changed since it was scored" in page.text

    def test_relative_paths_start_from_a_folder(self, run: Path, tmp_path: Path) -> None:
        path = tmp_path / "moved.csv"
        path.write_text(run.read_text().replace(f"{run.parent}/", ""))
        assert rendered(path).images("result") == []
        assert len(rendered(path, images=run.parent).images("heat")) == 6

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"weights": "nano:0000"}, "the weights of nano on this machine are not those of the scores"),
            ({"backbone": "vgg", "weights": "vgg:0"}, "the weights of vgg are not on this machine"),
            ({"backbone": "mine"}, "the backbone 'mine' is not one of this package"),
            ({"metric": "ssim"}, "the metric 'ssim' is not one of this package"),
            ({"options": "alpha=error resize=none tile=none version=0"}, "expected one of 1, 2, got '0'"),
            ({"options": "alpha=error resize=none"}, "this version of damlpips cannot score with the options"),
            ({"options": "alpha=error resize=none tile=-3 version=1"}, "expected a number of pixels, got '-3'"),
            ({"options": "alpha=x resize=none tile=none version=1"}, "this version of damlpips cannot score"),
            ({"metric": "lpips", "options": LPIPS.format("00ff")}, "the heads of the scores were a file"),
            ({"metric": "lpips", "options": LPIPS.format("v0.1")}, "the metric cannot be built"),
        ],
    )
    def test_no_map_with_anything_else(self, run: Path, tmp_path: Path, values: dict[str, str], message: str) -> None:
        page = rendered(rescored(run, tmp_path, **values))
        assert page.images("heat") == []
        assert len(page.images("result")) == 6
        assert f"There are no heat maps: {message}" in page.text

    def test_a_score_that_is_another_now(self, run: Path, tmp_path: Path) -> None:
        page = rendered(rescored(run, tmp_path, score="0.123"))
        assert page.images("heat") == []
        assert page.text.count("No heat map: scored again, the pair has 0.") == 6

    def test_weights_from_a_file(self, tmp_path: Path, random_nano_weights: Path, random_alex_weights: Path) -> None:
        path = run_score(tmp_path, "--weights", str(random_nano_weights), noises={"m": 9}, names=["a.png"])
        assert "are not those of the scores" in rendered(path).text
        assert len(rendered(path, weights=[random_alex_weights, random_nano_weights]).images("heat")) == 1

    def test_heads_from_a_file(self, tmp_path: Path, random_alex_weights: Path) -> None:
        heads = ROOT / "weights" / "lpips_v0.0_alex.safetensors"
        options = ("--metric", "lpips", "--weights", str(random_alex_weights), "--heads", str(heads))
        path = run_score(tmp_path, *options, noises={"m": 9}, names=["a.png"])
        assert "the heads of the scores were a file" in rendered(path, weights=[random_alex_weights]).text
        assert len(rendered(path, weights=[random_alex_weights], heads=[heads]).images("heat")) == 1

    @pytest.mark.parametrize(
        ("option", "size"), [("--resize=reference", (40, 48)), ("--resize=32", (32, 43)), ("--tile=48", (90, 120))]
    )
    def test_images_as_they_were_compared(self, tmp_path: Path, option: str, size: tuple[int, int]) -> None:
        image_file(tmp_path / "ref" / "a.png", 1, (40, 48) if option == "--resize=reference" else (90, 120))
        image_file(tmp_path / "m" / "a.png", 2, (90, 120))
        (heat,) = rendered(score(tmp_path, option)).images("heat")
        assert picture(heat).shape[:2] == size

    def test_transparent_and_deep_images(self, tmp_path: Path) -> None:
        for folder in ("ref", "m"):
            (tmp_path / folder).mkdir()
        deep = np.random.default_rng(0).integers(0, 65536, (40, 48), np.uint16)
        Image.fromarray(deep).save(tmp_path / "ref" / "a.png")
        glass = np.random.default_rng(0).integers(0, 256, (40, 48, 4), np.uint8)
        Image.fromarray(glass, "RGBA").save(tmp_path / "m" / "a.png")
        path = score(tmp_path, "--alpha", "white")
        for maps in (True, False):
            page = rendered(path, maps=maps)
            assert (len(page.images("result")), len(page.images("heat"))) == (1, int(maps)), page.text

    def test_a_row_that_was_cut_off(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.csv", [row(), row(name="b.png")])
        path.write_bytes(path.read_bytes()[:-40])
        assert "The last row of a.csv was cut off and is left out" in rendered(path).text


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Return the page of names that mean something in HTML, everywhere where there are names."""
    trap, quotes = ODD[0].removesuffix(".png"), ODD[1]
    path = run_score(tmp_path_factory.mktemp("odd"), noises={trap: 9, quotes: 20}, names=ODD)
    return rendered(path, title=trap)


class TestNamesAreText:
    def test_nothing_of_a_name_is_an_element(self, odd: Page, page: Page) -> None:
        assert len(odd.of("script")) == len(odd.of("style")) == len(odd.of("title")) == 1
        known = set().union(*(set(attributes) for _, attributes in page.elements))
        assert set().union(*(set(attributes) for _, attributes in odd.elements)) <= known
        assert {tag for tag, _ in odd.elements} <= {tag for tag, _ in page.elements}

    def test_they_are_shown_as_they_are(self, odd: Page) -> None:
        assert odd.text.count("<script>alert(1)<!--") >= 8
        assert "{{ 7 * 7 }}.png" in odd.text
        assert r"a\xe2\x80\xaegnp.b\x1b.png" in odd.text  # what would turn the letters round, or steer a terminal
        assert "\u202e" not in odd.text
        names = {a["data-name"] for a in odd.of("li") if "data-name" in a}
        assert "\"&'<title>.png" in names

    def test_every_column_is_text(self, tmp_path: Path) -> None:
        trap = "</script><img src=x onerror=alert(1)>\"'"
        texts = ("reference", "distorted", "metric", "backbone", "method", "weights", "options", "error")
        failed = {**dict.fromkeys(texts, trap), "score": "", "distorted": f"b{trap}"}
        rows = [row(**dict.fromkeys(texts[:-1], trap)), row(**failed)]
        page = rendered(write_rows(tmp_path / "a.csv", rows), title=trap)
        assert [a for a in page.of("img") if "src" in a] == []
        assert page.text.count(trap) > 8

    def test_names_that_are_no_text(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.csv", [row(distorted="mean.png")])
        path.write_bytes(path.read_bytes().replace(b"mean", b"m\xff\xfe"))
        page = render_report([path])
        page.encode("utf-8")
        assert r"m\xff\xfe.png" in page
        odd = path.rename(tmp_path / "\udcff\x07.csv")
        page = render_report([odd], title="\udcfe")
        page.encode("utf-8")
        assert r"from \xff\x07.csv" in page


class TestWriting:
    def test_whole_or_not_at_all(self, run: Path, tmp_path: Path) -> None:
        out = tmp_path / "report.html"
        write_report([run], out, pairs=1)
        assert out.read_text(encoding="utf-8") == render_report([run], pairs=1)
        with pytest.raises(ScoringError):
            write_report([tmp_path / "none.csv"], out)
        assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]

    def test_bad_arguments(self, run: Path) -> None:
        for name, least, value in (("pairs", 0, -1), ("side", 16, 2.5), ("samples", 1, 0)):
            with pytest.raises(ValueError, match=f"{name}: expected a whole number from {least} up, got {value}"):
                render_report([run], **{name: value})
        with pytest.raises(ScoringError, match="expected a file of rows, got none"):
            render_report([])

    def test_progress(self, run: Path) -> None:
        moves: list[tuple[int, int]] = []
        render_report([run], pairs=1, progress=lambda *move: moves.append(move))
        assert moves == [(1, 4), (2, 4), (3, 4), (4, 4)]
