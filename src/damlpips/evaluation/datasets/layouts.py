"""The layouts of judged sets that are known, a row each, and the one way to load any of them.

The command line, the table in `docs/how-to/judged-sets.md` and the tests read the rows.
"""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from damlpips.evaluation.datasets.tables import DatasetError
from damlpips.evaluation.judgements import JudgedSet
from damlpips.files import reason

AUTO = "auto"
CSV, PARQUET, WEBDATASET = "csv", "parquet", "webdataset"
# layouts of one's own sets: looked for in this order, and only where there is no published one
OWN = (CSV, PARQUET, WEBDATASET)


@dataclass(frozen=True)
class Layout:
    """How the files of a set lie on disk.

    Attributes:
        read_by: a module of this package, or `module:object`. It is imported when a path is checked: the command line
            lists the layouts without loading NumPy.
        looked_for: the files that tell this layout, in words.
        judgements, score, direction: what the files hold, as the docs say it.
    """

    name: str
    read_by: str
    looked_for: str
    judgements: str
    score: str
    direction: str = ""

    @property
    def reader(self) -> Any:
        """What reads this layout: `detect(path)` says whether its files are there, `read(path)` returns the sets."""
        return resolve_name(f"{__package__}.{self.read_by}")


RATINGS, HIGHER_IS_CLOSER, NEGATED = "ratings", "higher is closer", "higher is worse: negated"

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            *("bapps-2afc", "bapps:TWO_AFC", "judge/ beside ref/, p0/, p1/ in it, in */, val/*/ or 2afc/val/*/"),
            *("choices", "`judge`: the share that chose `p1`"),
        ),
        Layout(
            *("bapps-jnd", "bapps:JND", "same/ beside p0/, p1/ in it, in */, val/*/ or jnd/val/*/"),
            *("same or not", "`same`: the share that saw no difference"),
        ),
        Layout(
            *("tid2008", "tid:TID2008", "mos_with_names.txt, distorted_images/; 17 kinds, 4 levels"),
            *(RATINGS, "MOS, 0 to 9", HIGHER_IS_CLOSER),
        ),
        Layout(
            *("tid2013", "tid:TID2013", "mos_with_names.txt, distorted_images/; 24 kinds, 5 levels"),
            *(RATINGS, "MOS, 0 to 9", HIGHER_IS_CLOSER),
        ),
        Layout(
            *("kadid10k", "kadid10k", "dmos.csv with a column dist_img, images/"),
            *(RATINGS, "`dmos`, 1 to 5", "higher is closer, in spite of the name"),
        ),
        Layout("csiq", "csiq", "csiq.DMOS.xlsx or a text of it, src_imgs/", RATINGS, "DMOS, 0 to 1", NEGATED),
        Layout("live", "live", "dmos_realigned.mat or dmos.mat, refimgs/", RATINGS, "DMOS, about 0 to 100", NEGATED),
        Layout("pipal", "pipal", "Train_Label/, Train_Ref/", RATINGS, "Elo", HIGHER_IS_CLOSER),
        Layout(CSV, "plain", "a file *.csv, or a folder with some", "ratings, choices", "yours", HIGHER_IS_CLOSER),
        Layout(
            *(PARQUET, "shards:PARQUET_FILES", "a file *.parquet, or a folder with some"),
            *("ratings, choices", "yours", HIGHER_IS_CLOSER),
        ),
        Layout(
            *(WEBDATASET, "shards:WEBDATASET", "a file *.tar, or a folder with some"),
            *("ratings, choices", "yours", HIGHER_IS_CLOSER),
        ),
    )
}


def load(path: Path, layout: str = AUTO) -> list[JudgedSet]:
    """Return the judged sets that a folder or a file holds; scores are turned so that higher is closer.

    Every image that a table names is there: folders are listed to check that, no image is opened.

    Args:
        path: the folder of a published set, or a CSV file, a shard, or a folder of these.
        layout: a name in `LAYOUTS`, or "auto": every published layout whose files are there, and where none is the
            first of plain CSV, Parquet and WebDataset.

    Raises:
        DatasetError: no layout fits, or a file is missing or damaged; names the file, row and column.
        ValueError: `layout` is unknown; lists the known ones.

    Example:
        >>> from pathlib import Path
        >>> load(Path("no/such/folder"))
        Traceback (most recent call last):
        damlpips.evaluation.datasets.tables.DatasetError: no/such/folder: No such file or directory
    """
    from damlpips.checks import one_of  # which loads torch

    one_of("layout", layout, (AUTO, *LAYOUTS))
    path = Path(path)
    try:
        path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL
        raise DatasetError(f"{path}: {reason(error) if isinstance(error, OSError) else error}") from error
    names = _fitting(path) if layout == AUTO else [layout]
    return [judged for name in names for judged in LAYOUTS[name].reader.read(path)]


def _fitting(path: Path) -> list[str]:
    # a published set may hold CSV files, too
    names = [name for name, layout in LAYOUTS.items() if name not in OWN and layout.reader.detect(path)]
    names = names or [name for name in OWN if LAYOUTS[name].reader.detect(path)][:1]
    if not names:
        known = "; ".join(f"{name} ({layout.looked_for})" for name, layout in LAYOUTS.items())
        raise DatasetError(f"{path}: no judged set of a known layout, looked for {known}")
    return names
