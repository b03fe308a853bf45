"""The pytest plugin, by runs of pytest of their own: golden images are compared, written and missed."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import pixels

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

pytest_plugins = ("pytester",)

ROOT = Path(__file__).resolve().parents[2]
TEST = """
import numpy as np
from PIL import Image

def test_render(damlpips_golden):
    assert damlpips_golden(Image.open("render.png")) < 0.05
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Return what runs pytest with the plugin, in this process."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(*arguments: object) -> pytest.RunResult:
        plugins = ("-p", "no:cacheprovider", "-p", "damlpips.testing.golden")
        return pytester.runpytest_inprocess(*plugins, *map(str, arguments))

    return run


def rendered(pytester: pytest.Pytester, seed: int) -> None:
    Image.fromarray(pixels(seed)).save(pytester.path / "render.png")


@pytest.fixture
def test_file(pytester: pytest.Pytester) -> Path:
    rendered(pytester, 1)
    return pytester.makepyfile(test_plot=TEST)


def golden(pytester: pytest.Pytester) -> list[str]:
    return sorted(str(p.relative_to(pytester.path)) for p in pytester.path.glob("**/golden/**/*") if p.is_file())


def failures(pytester: pytest.Pytester) -> list[str]:
    folder = pytester.path / "golden-failures"
    return sorted(str(p.relative_to(folder)) for p in folder.glob("**/*") if p.is_file())


def test_missing_then_written_then_compared(pytester: pytest.Pytester, run, test_file: Path) -> None:
    missing = run()
    missing.assert_outcomes(failed=1)
    path = pytester.path / "golden/test_plot/test_render.png"
    missing.stdout.fnmatch_lines(
        [
            f"E *there is no golden image {path}",
            f"E *the image is saved as {pytester.path}/golden-failures/test_plot/test_render/image.png",
            "E *pytest --update-golden 'test_plot.py::test_render'",
        ]
    )
    assert golden(pytester) == []
    assert failures(pytester) == ["test_plot/test_render/image.png"]

    written = run("--update-golden")
    written.assert_outcomes(passed=1)
    written.stdout.fnmatch_lines(["*golden images written: look at them before you commit them*", str(path)])
    assert np.array_equal(np.asarray(Image.open(path)), pixels(1))
    assert failures(pytester) == []  # what was true no longer is

    run().assert_outcomes(passed=1)
    before = path.stat()
    again = run("--update-golden")
    again.assert_outcomes(passed=1)
    again.stdout.no_fnmatch_line("*golden images written*")
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_failure_saves_the_images_and_where_they_differ(pytester: pytest.Pytester, run, test_file: Path) -> None:
    run("--update-golden").assert_outcomes(passed=1)
    rendered(pytester, 2)
    failed = run()
    failed.assert_outcomes(failed=1)
    folder = pytester.path / "golden-failures/test_plot/test_render"
    failed.stdout.fnmatch_lines(
        [
            "E *images are not similar: their distance is *, above max=0.05",
            "E *metric: DAMLPIPS v2 (nano, weights *",
            f"E *reference: {pytester.path}/golden/test_plot/test_render.png",
            f"E *heat map: {folder}/difference.png",
            "E *if it is as it should be now: pytest --update-golden 'test_plot.py::test_render'",
        ]
    )
    assert sorted(p.name for p in folder.iterdir()) == ["difference.png", "image.png", "reference.png"]
    assert np.array_equal(np.asarray(Image.open(folder / "image.png")), pixels(2))
    run("--update-golden").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)
    assert failures(pytester) == []


MANY = """
import numpy as np
import pytest

def image(level):
    return np.full((32, 32, 3), level, np.uint8)

@pytest.mark.parametrize("level", [0, 90, 200], ids=["a/b", "a_b", "A_b"])
def test_levels(damlpips_golden, level):
    damlpips_golden(image(level))
    damlpips_golden(image(255 - level), "inverse")

class TestPlot:
    def test_levels(self, damlpips_golden):
        damlpips_golden(image(50), max=0.01, metric="lpips-nano:spatial")
"""


def test_every_test_and_name_has_an_image_of_its_own(pytester: pytest.Pytester, run) -> None:
    pytester.makepyfile(test_many=MANY)
    run("--update-golden").assert_outcomes(passed=4)
    names = golden(pytester)
    assert len({name.casefold() for name in names}) == 7
    assert all(re.fullmatch(r"golden/test_many/[\w.\[\]-]+\.png", name) for name in names)
    assert {"golden/test_many/test_levels[a_b].png", "golden/test_many/test_levels[a_b]-inverse.png"} <= set(names)
    run().assert_outcomes(passed=4)


def test_workers_of_xdist_write_and_the_summary_names_it(
    pytester: pytest.Pytester, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(test_many=MANY)
    with monkeypatch.context() as alone:
        alone.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        plugins = ("-p", "no:cacheprovider", "-p", "xdist.plugin", "-p", "damlpips.testing.golden")
        written = pytester.runpytest_subprocess(*plugins, "-n", "2", "--update-golden")
    written.assert_outcomes(passed=4)
    assert len(golden(pytester)) == 7
    for name in golden(pytester):
        written.stdout.fnmatch_lines([f"{pytester.path}/{name.replace('[', '[[]')}"])
    run().assert_outcomes(passed=4)
    assert failures(pytester) == []


def test_folders_can_be_set(pytester: pytest.Pytester, run, test_file: Path) -> None:
    pytester.makeini("[pytest]\ngolden_folder = expected\ngolden_failures = build/failures\n")
    run().assert_outcomes(failed=1)
    assert (pytester.path / "build/failures/test_plot/test_render/image.png").is_file()
    run("--update-golden").assert_outcomes(passed=1)
    assert (pytester.path / "expected/test_plot/test_render.png").is_file()


def test_modules_of_one_name_do_not_share_failures(pytester: pytest.Pytester, run) -> None:
    rendered(pytester, 1)
    for folder in ("one", "two"):
        (pytester.path / folder).mkdir()
        (pytester.path / folder / "test_plot.py").write_text(TEST)
    run("--import-mode=importlib").assert_outcomes(failed=2)
    expected = [f"{folder}/test_plot/test_render/image.png" for folder in ("one", "two")]
    assert failures(pytester) == expected


def test_a_damaged_golden_image_is_an_error_and_can_be_written_anew(pytester: pytest.Pytester, run, test_file) -> None:
    path = pytester.path / "golden/test_plot/test_render.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    failed = run()
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines([f"E *ScoringError: {path}: *"])
    run("--update-golden").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)


def test_two_images_without_a_name_are_an_error(pytester: pytest.Pytester, run) -> None:
    pytester.makepyfile(
        """
        import numpy as np

        def test_twice(damlpips_golden):
            image = np.zeros((32, 32, 3), np.uint8)
            damlpips_golden(image)
            damlpips_golden(image)
        """
    )
    failed = run("--update-golden")
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["E *ValueError: damlpips_golden: this test has compared 'an image without a name'*"])


def test_pytest_starts_without_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        HEAVY = {"torch", "numpy", "PIL", "matplotlib", "torchvision"}

        def test_nothing_is_loaded(damlpips_golden):
            assert "damlpips.testing.golden" in sys.modules
            assert not HEAVY & set(sys.modules)
        """
    )
    plugins = (
        "-p",
        "no:cacheprovider",
        "-p",
        "no:jaxtyping",
        "-p",
        "no:hypothesispytest",
        "-p",
        "damlpips.testing.golden",
    )
    pytester.runpytest_subprocess(*plugins).assert_outcomes(passed=1)


def test_the_package_declares_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"damlpips.testing.golden": "damlpips.testing.golden"}


def test_help_lists_the_option_and_the_settings(run) -> None:
    listed = run("--help")
    listed.stdout.fnmatch_lines(["*--update-golden*write the golden images*", "*golden_folder (string):*"])
