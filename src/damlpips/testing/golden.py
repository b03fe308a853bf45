"""A pytest plugin: the fixture `damlpips_golden` compares images with golden ones that are kept beside the tests.

    def test_plot(damlpips_golden):
        damlpips_golden(draw_plot(), max=0.02)

pytest imports this module at its start: torch and the rest of the package are imported by the first comparison.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

# the folder of golden images, beside the tests, and the one of failures, below the root of the tests
GOLDEN, FAILURES = "golden", "golden-failures"
# what reports carry from a worker to where the summary is printed
WRITTEN = "damlpips golden image written"
# of a file's name
LONGEST = 100


class Golden:
    """Compares the images of one test with golden ones.

    Attributes:
        folder: where the golden images of the test's module are.
        failures: where the pictures of its failures are saved.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        node, config = request.node, request.config
        self._node = node
        self._test = node.nodeid.partition("::")[2].replace("::", ".")
        self._update = bool(config.getoption("--update-golden"))
        self._names: set[str] = set()
        module = Path(node.path)
        self.folder = module.parent / str(config.getini("golden_folder")) / module.stem
        failures = Path(config.rootpath, str(config.getini("golden_failures")))
        # two modules of one name in different folders
        within = module.parent.relative_to(config.rootpath) if module.is_relative_to(config.rootpath) else Path()
        self.failures = failures / within / module.stem

    def path(self, name: str | None = None) -> Path:
        """Return the golden image of this test, or of a further name."""
        whole = self._test if name is None else f"{self._test}-{name}"
        plain = re.sub(r"[^\w.\-\[\]]+", "_", whole)
        if plain != whole or len(plain) > LONGEST or plain.casefold() != plain:
            # names that differ in what a file's name cannot tell, on every kind of disk
            plain = f"{plain[:LONGEST]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
        return self.folder / f"{plain}.png"

    def __call__(self, image: Any, name: str | None = None, *, max: float | None = None, metric: Any = None) -> float:
        """Compare an image with the golden one, or with `--update-golden` write it; return the distance.

        Args:
            image, max, metric: as for `damlpips.testing.assert_similar`.
            name: tells several images of one test apart.

        Raises:
            AssertionError: the image is not similar to the golden one, or there is none.
            ValueError: a second image of the same name.
        """
        __tracebackhide__ = True
        from damlpips.testing import similar

        path = self.path(name)
        if path.name in self._names:
            raise ValueError(f"damlpips_golden: this test has compared {name or 'an image without a name'!r} already")
        self._names.add(path.name)
        folder = self.failures / path.stem
        for file in ("image.png", "reference.png", "difference.png"):  # of a run before
            (folder / file).unlink(missing_ok=True)
        module = similar.module_of("damlpips" if metric is None else metric)
        pixels = similar.tensor_of(image, module, what="image")
        if self._update:
            self._write(pixels, path, module)
        if not path.is_file():
            similar.save_image(pixels, folder / "image.png", module)
            raise AssertionError(
                f"there is no golden image {path}\nthe image is saved as {folder / 'image.png'}\nlook at it, and to"
                f" keep it as the golden one: pytest --update-golden '{self._node.nodeid}'"
            )
        try:
            limit = similar.MAX if max is None else max
            return similar.assert_similar(pixels, path, max=limit, metric=module, save_to=folder)
        except AssertionError as error:
            told = f"if it is as it should be now: pytest --update-golden '{self._node.nodeid}'"
            raise AssertionError(f"{error}\n{told}") from None

    def _write(self, pixels: Any, path: Path, module: Any) -> None:
        """Write a golden image, unless the one that is there has the same pixels."""
        from damlpips.report.figure import as_bytes
        from damlpips.scoring.images import ScoringError, read_image
        from damlpips.testing import similar

        try:
            if read_image(path).equal(as_bytes(pixels, module.settings.value_range)):
                return
        except ScoringError:
            pass  # there is none, or none that can be read
        similar.save_image(pixels, path, module)
        self._node.user_properties.append((WRITTEN, str(path)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and the settings."""
    group = parser.getgroup("damlpips")
    group.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden images that tests compare with damlpips_golden, in place of those that differ",
    )
    parser.addini("golden_folder", "folder of golden images beside the tests", default=GOLDEN)
    parser.addini("golden_failures", "folder, below the root, for the pictures of failures", default=FAILURES)


@pytest.fixture
def damlpips_golden(request: pytest.FixtureRequest) -> Golden:
    """Compare an image with the golden one of this test: `damlpips_golden(image, name=None, max=0.05, metric=None)`."""
    return Golden(request)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which golden images were written."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    written = sorted({path for r in reports for key, path in getattr(r, "user_properties", ()) if key == WRITTEN})
    if written:
        terminalreporter.section("golden images written: look at them before you commit them")
        for path in written:
            terminalreporter.line(path)
