"""The layouts of judged sets that are known, and the one way to load any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from damlpips.checks import one_of
from damlpips.evaluation.datasets import bapps, csiq, live, numbered, pipal, plain
from damlpips.evaluation.datasets.tables import DatasetError
from damlpips.evaluation.judgements import JudgedSet
from damlpips.files import reason

AUTO = "auto"
CSV = "csv"


@dataclass(frozen=True)
class Layout:
    """How the files of a set lie on disk.

    Attributes:
        looked_for: the files that tell this layout, in words.
        detect: whether a path has them.
        read: the sets of a path.
    """

    looked_for: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], list[JudgedSet]]


LAYOUTS: dict[str, Layout] = {
    "bapps-2afc": Layout(
        "judge/ beside ref/, p0/, p1/ in it, in */, val/*/ or 2afc/val/*/", bapps.is_2afc, bapps.read_2afc
    ),
    "bapps-jnd": Layout("same/ beside p0/, p1/ in it, in */, val/*/ or jnd/val/*/", bapps.is_jnd, bapps.read_jnd),
    "tid2008": Layout(
        "mos_with_names.txt, distorted_images/; 17 kinds, 4 levels", numbered.is_tid2008, numbered.read_tid2008
    ),
    "tid2013": Layout(
        "mos_with_names.txt, distorted_images/; 24 kinds, 5 levels", numbered.is_tid2013, numbered.read_tid2013
    ),
    "kadid10k": Layout("dmos.csv with a column dist_img, images/", numbered.is_kadid10k, numbered.read_kadid10k),
    "csiq": Layout("csiq.DMOS.xlsx or a text of it, src_imgs/", csiq.is_csiq, csiq.read_csiq),
    "live": Layout("dmos_realigned.mat or dmos.mat, refimgs/", live.is_live, live.read_live),
    "pipal": Layout("Train_Label/, Train_Ref/", pipal.is_pipal, pipal.read_pipal),
    CSV: Layout("a file *.csv, or a folder with some", plain.is_plain, plain.read_plain),
}


def load(path: Path, layout: str = AUTO) -> list[JudgedSet]:
    """Return the judged sets that a folder or a CSV file holds; scores are turned so that higher is closer.

    Every image that a table names is there: folders are listed for that, no image is opened.

    Args:
        path: the folder of a published set, or a CSV file or folder of one's own.
        layout: a name in `LAYOUTS`, or "auto": every published layout whose files are there, and plain CSV where
            none is.

    Raises:
        DatasetError: no layout fits, or a file is missing or damaged; names the file, row and column.
        ValueError: `layout` is unknown; lists the known ones.

    Example:
        >>> from pathlib import Path
        >>> load(Path("no/such/folder"))
        Traceback (most recent call last):
        damlpips.evaluation.datasets.tables.DatasetError: no/such/folder: No such file or directory
    """
    one_of("layout", layout, (AUTO, *LAYOUTS))
    path = Path(path)
    try:
        path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL
        raise DatasetError(f"{path}: {reason(error) if isinstance(error, OSError) else error}") from error
    names = _fitting(path) if layout == AUTO else [layout]
    return [judged for name in names for judged in LAYOUTS[name].read(path)]


def _fitting(path: Path) -> list[str]:
    # a published set may hold CSV files, too
    names = [name for name, layout in LAYOUTS.items() if name != CSV and layout.detect(path)]
    if not names and not LAYOUTS[CSV].detect(path):
        known = "; ".join(f"{name} ({layout.looked_for})" for name, layout in LAYOUTS.items())
        raise DatasetError(f"{path}: no judged set of a known layout, looked for {known}")
    return names or [CSV]
