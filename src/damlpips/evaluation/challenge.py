"""Images that people find alike and deep similarity metrics do not: how often does a metric find them alike?

The set of arXiv 2207.02512: an image that was inverted, rotated or shifted is still closer to itself than an empty one
is; and an image that keeps the object is closer than one that keeps the background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from damlpips.evaluation.cache import DistanceCache
from damlpips.evaluation.distances import Progress, pair_distances
from damlpips.evaluation.named import NamedMetric
from damlpips.evaluation.views import View, read_without_alpha
from damlpips.files import reason
from damlpips.scoring.images import SUFFIXES, ScoringError

# what follows an image's name in the names of its changed versions, by folder
CHANGES = {
    "invert": ("invert",),
    "rotate": ("22", "45", "67", "90", "180"),
    "translate": ("translate",),
}
STAIN = "color_stain"
CLOSER, FARTHER = "stain", "ref"  # the object kept, the background kept
KINDS = (*CHANGES, STAIN)
EMPTY = ("black", "blue", "gray", "green", "random", "red", "white")
WITHOUT_ALPHA = View(read_without_alpha)


@dataclass(frozen=True)
class Case:
    """An image, a version of it that people find closer, and images that they find farther.

    Attributes:
        kind: one of `KINDS`.
        name: of the changed version, such as `dog_22`.
        ties_succeed: whether a metric may find them equally close.
    """

    kind: str
    name: str
    image: Path
    closer: Path
    farther: tuple[Path, ...]
    ties_succeed: bool


@dataclass(frozen=True)
class Rate:
    """In how many of some cases a metric agrees with people."""

    successes: int
    cases: int

    @property
    def share(self) -> float:
        """The share of successes, 0 to 1."""
        return self.successes / self.cases


def load(folder: Path) -> list[Case]:
    """Return the cases of a folder that is laid out as the study's, in the order of `KINDS` and of names.

    ::

        ref/ref_{black,blue,gray,green,random,red,white}
        invert/NAME     invert/NAME_invert
        rotate/NAME     rotate/NAME_{22,45,67,90,180}
        translate/NAME  translate/NAME_translate
        color_stain/NAME    color_stain/NAME_stain    color_stain/NAME_ref

    each with the suffix of an image. Files belong together by these names, whatever their suffixes. The published set
    has 51 cases: 11 inverted, 30 rotated, 5 shifted, 5 stained.

    Raises:
        ScoringError: a folder that is missing or empty, an image without one of its partners, a name that two files
            have; names the file.

    Reference:
        Sjögren, Pihlgren, Sandin, Liwicki, "Identifying and Mitigating Flaws of Deep Perceptual Similarity Metrics",
        NLDL 2023, arXiv 2207.02512.
    """
    empty = _by_name(folder / "ref")
    farther = tuple(_partner(empty, f"ref_{colour}", folder / "ref") for colour in EMPTY)
    cases = []
    for kind, changes in CHANGES.items():
        files = _by_name(folder / kind)
        for name in _names(files, changes, folder / kind):
            changed = [f"{name}_{change}" for change in changes]
            cases += [Case(kind, other, files[name], files[other], farther, True) for other in changed]
    files = _by_name(folder / STAIN)
    for name in _names(files, (CLOSER, FARTHER), folder / STAIN):
        closer, other = files[f"{name}_{CLOSER}"], files[f"{name}_{FARTHER}"]
        cases.append(Case(STAIN, closer.stem, files[name], closer, (other,), False))
    return cases


def successes(
    metric: NamedMetric,
    cases: Sequence[Case],
    view: View = WITHOUT_ALPHA,
    *,
    cache: DistanceCache | None = None,
    progress: Progress | None = None,
) -> list[bool]:
    """Return for each case whether a metric d finds the closer image closer::

        d(image, closer) <= d(image, f) for every farther f    inverted, rotated, shifted
        d(image, closer) <  d(image, farther)                  stained

    Images are read as the study read them, without their alpha channels, unless `view` reads them in another way. The
    rest and the errors are those of `damlpips.evaluation.distances.distances`.
    """
    pairs = [(case.image, other) for case in cases for other in (case.closer, *case.farther)]
    distance = dict(zip(pairs, pair_distances(metric, pairs, view, cache=cache, progress=progress), strict=True))
    found = []
    for case in cases:
        closer, nearest = distance[case.image, case.closer], min(distance[case.image, f] for f in case.farther)
        found.append(closer < nearest or (case.ties_succeed and closer == nearest))
    return found


def rates(cases: Sequence[Case], succeeded: Sequence[bool]) -> dict[str, Rate]:
    """Return the rate of each kind that there are cases of, and last that of all of them as `"overall"`."""
    if not cases or len(cases) != len(succeeded):
        raise ValueError(f"expected one result a case, got {len(succeeded)} of {len(cases)}")
    by_kind = {kind: [s for case, s in zip(cases, succeeded, strict=True) if case.kind == kind] for kind in KINDS}
    found = {kind: Rate(sum(results), len(results)) for kind, results in by_kind.items() if results}
    return {**found, "overall": Rate(sum(succeeded), len(succeeded))}


def _by_name(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without suffix."""
    try:
        files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    except OSError as error:
        raise ScoringError(f"{folder}: {reason(error)}") from error
    if not files:
        raise ScoringError(f"{folder}: no images in this folder")
    found: dict[str, Path] = {}
    for file in files:
        if (other := found.setdefault(file.stem, file)) != file:
            raise ScoringError(f"{file}: {other.name} has the same name: which of them is meant?")
    return found


def _names(files: dict[str, Path], changes: Sequence[str], folder: Path) -> list[str]:
    """Return the names of the unchanged images, after checking that every image has all of its partners."""
    names = []
    for name, file in files.items():
        original, underscore, change = name.rpartition("_")
        if underscore and change in changes:
            _partner(files, original, folder, of=file)
        else:
            names.append(name)
            for change in changes:
                _partner(files, f"{name}_{change}", folder, of=file)
    return names


def _partner(files: dict[str, Path], name: str, folder: Path, of: Path | None = None) -> Path:
    if name not in files:
        raise ScoringError(f"{of or folder}: its partner {name}.* is missing in {folder}")
    return files[name]
