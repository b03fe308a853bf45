"""Lay out the judged sets that `make agree` reads: the seven of the mean, and more beside them.

    python benchmarks/judged_sets.py SHARED OUT

SHARED holds `human/`, and `judged/`, whose `draw.py` draws the images of two sets again from photographs and observers'
scores. Writes

    OUT/seven   raid, motif, tid2013_redrawn, recolour, jpeg10 (opinion scores); gan_restoration, sr (votes)
    OUT/more    raid's comparisons of two pairs; tid_resynth, which tid2013_redrawn replaces in the mean

each with its tables and images. OUT is written whole or not at all, in about two minutes, and not again as long as
SHARED has the same files.
"""

import argparse
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MADE_FROM = "made_from.txt"
TABLES = {
    "mos.csv": ("set", "ref", "dist", "score", "group"),
    "pairs.csv": ("set", "ref", "a", "b", "votes_a", "votes_b"),
    "quads.csv": ("set", "p1", "p2", "q1", "q2", "votes_p", "votes_q", "group"),
}
IMAGES = ("ref", "dist", "a", "b", "p1", "p2", "q1", "q2")


class Source(NamedTuple):
    """A set in a table.

    Attributes:
        name: the set's.
        root: the folder that the table's paths are relative to: "drawn", "judged" or "human".
        source: the table, relative to the root.
        table: the one that its rows go to.
    """

    name: str
    root: str
    source: str
    table: str


LAYOUT = {
    "seven": (
        Source("raid", "drawn", "raid/mos.csv", "mos.csv"),
        Source("motif", "judged", "motif_mos.csv", "mos.csv"),
        Source("tid2013_redrawn", "drawn", "tid2013_redrawn/mos.csv", "mos.csv"),
        Source("recolour", "human", "mos.csv", "mos.csv"),
        Source("jpeg10", "human", "mos.csv", "mos.csv"),
        Source("gan_restoration", "human", "pairs.csv", "pairs.csv"),
        Source("sr", "judged", "sr_quads.csv", "quads.csv"),
    ),
    "more": (
        Source("raid", "drawn", "raid/quads.csv", "quads.csv"),
        Source("tid_resynth", "human", "mos.csv", "mos.csv"),
    ),
}


def lay_out(shared: Path, out: Path) -> bool:
    """Write OUT, whole or not at all; return whether it had to be written.

    Raises:
        FileNotFoundError: SHARED lacks a file.
        FileExistsError: OUT is there, but not one that this program made.
        subprocess.CalledProcessError: the images cannot be drawn.
    """
    origin = origin_of(shared)
    if out.exists() and any(out.iterdir()):
        mark = out / MADE_FROM
        if not mark.is_file():
            raise FileExistsError(f"{out}: is there, and was not made by this program: name another folder")
        if mark.read_text() == origin:
            return False
    out.parent.mkdir(parents=True, exist_ok=True)
    # beside OUT: a folder is renamed within one file system only
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        drawn, whole = Path(work, "drawn"), Path(work, "whole")
        subprocess.run([sys.executable, shared / "judged" / "draw.py", drawn], check=True, stdout=sys.stderr)
        roots = {"drawn": drawn, "judged": shared / "judged", "human": shared / "human"}
        for folder, sources in LAYOUT.items():
            write(whole / folder, sources, roots)
        (whole / MADE_FROM).write_text(origin)
        if out.exists():
            out.rename(Path(work, "before"))
        whole.rename(out)
    return True


def origin_of(shared: Path) -> str:
    """Return a text of what OUT is made from: the digests of all tables, programs and photographs, and of this file."""
    files = [Path(__file__).resolve()]
    for folder in ("judged", "human"):
        if not (shared / folder).is_dir():
            raise FileNotFoundError(f"{shared / folder}: no such folder, expected that of judged sets")
        files += sorted(path for path in (shared / folder).rglob("*") if path.is_file() and path.suffix != ".md")
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def write(folder: Path, sources: Iterable[Source], roots: dict[str, Path]) -> None:
    """Write the tables of a folder, and the images that they name."""
    tables: dict[str, list[dict[str, str]]] = {}
    for name, root, source, table in sources:
        path = roots[root] / source
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["set"] == name]
        if not rows:
            raise ValueError(f"{path}: no rows of the set {name!r}")
        # drawn tables name images relative to their own folder
        above = path.parent if root == "drawn" else roots[root]
        for row in rows:
            for column in set(IMAGES) & row.keys():
                image = f"{name}/{row[column].removeprefix(f'{name}/')}"
                put(above / row[column], folder / image)
                row[column] = image
        tables.setdefault(table, []).extend(rows)
    for table, rows in tables.items():
        with (folder / table).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, TABLES[table], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def put(image: Path, place: Path) -> None:
    """Put an image in its place: a hard link where that can be, since `agree` takes no links out of a folder."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image, place)
    except OSError:  # another file system, or one that has no links
        shutil.copyfile(image, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, metavar="SHARED")
    parser.add_argument("out", type=Path, metavar="OUT")
    options = parser.parse_args()
    try:
        written = lay_out(options.shared, options.out)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.out}: {'written' if written else 'there already'}", file=sys.stderr)


if __name__ == "__main__":
    main()
