"""Small judged sets, written in the layouts in which they are published."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

Draw = Callable[[Path], object]

LIVE_FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
CSIQ_COLUMNS = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
CSIQ_FILES = {
    "noise": ("awgn", "AWGN"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
    "fnoise": ("fnoise", "fnoise"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
}


def put(folder: Path, names: Iterable[str], draw: Draw = Path.touch) -> None:
    """Write images, empty ones unless `draw` makes others."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        draw(folder / name)


def bapps_2afc(leaf: Path, shares: Sequence[float] = (0.0, 0.4, 1.0), draw: Draw = Path.touch) -> Path:
    for folder in ("ref", "p0", "p1"):
        put(leaf / folder, (f"{k:06d}.png" for k in range(len(shares))), draw)
    return arrays(leaf / "judge", shares, leaf)


def bapps_jnd(leaf: Path, shares: Sequence[float] = (0.0, 2 / 3), draw: Draw = Path.touch) -> Path:
    for folder in ("p0", "p1"):
        put(leaf / folder, (f"{k:06d}.png" for k in range(len(shares))), draw)
    return arrays(leaf / "same", shares, leaf)


def arrays(folder: Path, shares: Sequence[float], leaf: Path) -> Path:
    folder.mkdir()
    for k, share in enumerate(shares):
        np.save(folder / f"{k:06d}.npy", np.array([share], np.float32))
    return leaf


def tid(root: Path, kinds: int, levels: int, contents: int = 2, draw: Draw = Path.touch) -> Path:
    """TID2008 has 17 kinds at 4 levels, TID2013 24 at 5; the case of names differs as it does in TID2013."""
    put(root / "reference_images", (f"I{c:02d}.BMP" for c in range(1, contents + 1)), draw)
    lines = []
    for c in range(1, contents + 1):
        for kind in range(1, kinds + 1):
            for level in range(1, levels + 1):
                put(root / "distorted_images", [f"i{c:02d}_{kind:02d}_{level}.bmp"], draw)
                lines.append(f"{c + kind / 100 - level / 10:.5f} I{c:02d}_{kind:02d}_{level}.bmp\r\n")
    (root / "mos_with_names.txt").write_text("".join(lines), newline="")
    (root / "mos.txt").write_text("".join(f"{line.split()[0]}\r\n" for line in lines), newline="")
    return root


def kadid10k(root: Path, contents: int = 2, draw: Draw = Path.touch) -> Path:
    put(root / "images", (f"I{c:02d}.png" for c in range(1, contents + 1)), draw)
    lines = ["dist_img,ref_img,dmos,var"]
    for c in range(1, contents + 1):
        for kind in range(1, 26):
            for level in range(1, 6):
                name = f"I{c:02d}_{kind:02d}_{level:02d}.png"
                put(root / "images", [name], draw)
                lines.append(f"{name},I{c:02d}.png,{5 - 0.8 * (level - 1):.2f},0.496")
    (root / "dmos.csv").write_text("\n".join(lines) + "\n")
    return root


def csiq_rows(contents: Sequence[str] = ("1600", "aerial_city")) -> list[tuple[str, int, str, int, float, float]]:
    """The sheet's rows below its header."""
    return [
        (content, k, kind, level, 0.05, round(0.17 * level + 0.01 * k, 3))
        for content in contents
        for k, kind in enumerate(CSIQ_FILES, start=1)
        for level in range(1, 6)
    ]


def csiq(root: Path, scores: str = "csiq.DMOS.xlsx", flat: bool = False, draw: Draw = Path.touch) -> Path:
    rows = csiq_rows()
    put(root / "src_imgs", sorted({f"{row[0]}.png" for row in rows}), draw)
    for content, _, kind, level, *_ in rows:
        folder, token = CSIQ_FILES[kind]
        put(root / ("dst_imgs_all" if flat else f"dst_imgs/{folder}"), [f"{content}.{token}.{level}.png"], draw)
    CSIQ_SCORES[scores](root / scores, rows)
    return root


def _workbook(path: Path, rows: Sequence[Sequence[object]]) -> None:
    # the title, the header in row 4 from column D on, and another table beside it whose formulas lost their sources
    beside = ["#REF!" for _ in rows]
    cells = [["CSIQ"], [], [], ["", "", "", *CSIQ_COLUMNS, "", "dmos"]]
    cells += [["", "", "", *row, "", error] for row, error in zip(rows, beside, strict=True)]
    workbook(path, {"all_by_distortion": [["other"]], "all_by_image": cells})


def _sheet_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    path.write_text("\n".join(",".join(map(str, row)) for row in [CSIQ_COLUMNS, *rows]) + "\n")


def _sheet_text(path: Path, rows: Sequence[Sequence[object]]) -> None:
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def _labels(path: Path, rows: Sequence[Sequence[object]]) -> None:
    path.write_text("".join(f"{row[0]}.{CSIQ_FILES[str(row[2])][1]}.{row[3]}.png {row[5]}\n" for row in rows))


CSIQ_SCORES: dict[str, Callable[[Path, Sequence[Sequence[object]]], None]] = {
    "csiq.DMOS.xlsx": _workbook,
    "csiq.DMOS.csv": _sheet_csv,
    "csiq_dmos.csv": _sheet_csv,
    "csiq_dmos.txt": _sheet_text,
    "csiq_label.txt": _labels,
}


def live(root: Path, scores: str = "dmos_realigned.mat", draw: Draw = Path.touch) -> Path:
    """All 982 images, as the scores are told by their places; every fifth is an original."""
    from scipy.io import savemat

    count = sum(LIVE_FOLDERS.values())
    references = ("bikes.bmp", "studentsculpture.bmp")
    put(root / "refimgs", references, draw)
    for folder, n in LIVE_FOLDERS.items():
        put(root / folder, (f"img{k}.bmp" for k in range(1, n + 1)), draw)
        (root / folder / "info.txt").write_text("bikes.bmp img1.bmp 0.5\n")
    originals = (np.arange(count) % 5 == 4).astype(np.uint8)
    values = np.where(originals, 0.0, 20 + np.arange(count) / 20)
    variables = {
        "dmos_realigned.mat": {"dmos_new": values[None], "dmos_std": values[None]},
        "dmos.mat": {"dmos": values[None]},
    }
    savemat(root / scores, {**variables[scores], "orgs": originals[None]})
    names = np.array([references[k % 2] for k in range(count)], object)
    savemat(root / "refnames_all.mat", {"refnames_all": names[None]})
    return root


def pipal(root: Path, part: str = "Train", spread: bool = True, draw: Draw = Path.touch) -> Path:
    put(root / f"{part}_Ref", ["A0001.bmp", "A0002.bmp"], draw)
    (root / f"{part}_Label").mkdir()
    for c in (1, 2):
        folder = f"Distortion_{c}" if spread else f"{part}_Dist"
        names = [f"A{c:04d}_{kind:02d}_{k:02d}.bmp" for kind in range(3) for k in range(2)]
        put(root / folder, names, draw)
        lines = [f"{name},{1400 + 10 * c + k}.0648\n" for k, name in enumerate(names)]
        (root / f"{part}_Label" / f"A{c:04d}.txt").write_text("".join(lines))
    return root


def plain(root: Path, draw: Draw = Path.touch) -> Path:
    """Ratings of two sets, choices without a set, and comparisons of two pairs, in three files."""
    put(root / "x", ["r.png", "d1.png", "d2.png", "d3.png"], draw)
    (root / "mos.csv").write_text(
        "set,ref,dist,score,content\none,x/r.png,x/d1.png,0.5,c1\ntwo,x/r.png,x/d1.png,-1e-3,\none,x/r.png,x/d2.png,2,c2\n"
    )
    (root / "pairs.csv").write_text("ref,a,b,votes_a,votes_b,kind\nx/r.png,x/d1.png,x/d2.png,1,30,blur\n")
    (root / "quads.csv").write_text(
        "set,p1,p2,q1,q2,votes_p,votes_q,group\n"
        "four,x/r.png,x/d1.png,x/d2.png,x/d3.png,7,1,blur\nfour,x/d1.png,x/r.png,x/r.png,x/d2.png,0.25,0,noise\n"
    )
    return root


# columns, and rows of one content each; "r", "x" and "y" stand for images
SHARDED: dict[str, tuple[dict[str, object], ...]] = {
    "votes": (
        {"ref": "r", "a": "x", "b": "y", "votes_a": 1, "votes_b": 4, "votes": 5, "kind": "blur"},
        {"ref": "r", "a": "y", "b": "x", "votes_a": 2.5, "votes_b": 0, "votes": None, "kind": "noise"},
    ),
    "judge": (
        {"ref": "r", "p0": "x", "p1": "y", "judge": 0.4, "content": "c"},
        {"ref": "x", "p0": "y", "p1": "r", "judge": 1.0, "content": ""},
    ),
    "ratings": ({"ref": "r", "dist": "x", "score": -1.5}, {"ref": "r", "dist": "y", "score": 3}),
    "quads": ({"p1": "r", "p2": "x", "q1": "x", "q2": "y", "votes_p": 3, "votes_q": 1},),
}
IMAGES = ("r", "x", "y")


def image_bytes(draw: Draw = Path.touch) -> dict[str, bytes]:
    """Return what the files hold that stand for images."""
    with TemporaryDirectory() as folder:
        put(Path(folder), (f"{name}.png" for name in IMAGES), draw)
        return {name: (Path(folder) / f"{name}.png").read_bytes() for name in IMAGES}


def parquet(root: Path, form: str = "votes", draw: Draw = Path.touch, *, structs: bool = False, group: int = 1) -> Path:
    """Shards of one row group a row; the images are bytes, or structs as those of Hugging Face's datasets."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = image_bytes(draw)

    def value(name: object) -> object:
        if name not in IMAGES:
            return name
        return {"bytes": images[str(name)], "path": f"{name}.png"} if structs else images[str(name)]

    root.mkdir(parents=True, exist_ok=True)
    for k in range(2):
        rows = [{column: value(v) for column, v in row.items()} for row in SHARDED[form]]
        pq.write_table(pa.Table.from_pylist(rows), root / f"train-{k}.parquet", row_group_size=group)
    return root


def webdataset(root: Path, form: str = "votes", draw: Draw = Path.touch, *, array: bool = False) -> Path:
    """Tars of samples; what observers thought is in JSON, or in an array as in BAPPS."""
    images = image_bytes(draw)
    root.mkdir(parents=True, exist_ok=True)
    for k in range(2):
        with tarfile.open(root / f"train-{k}.tar", "w") as tar:
            for number, row in enumerate(SHARDED[form]):
                key = f"./some.folder/{number:06d}"
                for column, name in row.items():
                    if name in IMAGES:
                        add(tar, f"{key}.{column}.png", images[str(name)])
                labels = {column: value for column, value in row.items() if value not in IMAGES}
                if array:
                    buffer = io.BytesIO()
                    np.save(buffer, np.array([labels.pop("judge")], np.float32))
                    add(tar, f"{key}.judge.npy", buffer.getvalue())
                if labels:
                    add(tar, f"{key}.json", json.dumps(labels).encode())
    return root


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def workbook(path: Path, sheets: dict[str, Sequence[Sequence[object]]]) -> None:
    """Write an Excel workbook; empty cells are left out."""
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            # Excel makes a number of the image 1600
            sheet.append([int(v) if str(v).isdecimal() else None if v == "" else v for v in row])
    book.save(path)


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, parts: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@dataclass(frozen=True)
class Example:
    """A small set in a layout.

    Attributes:
        write: draws it into a folder.
        tables: its text files with scores, by their paths in it; of two images or more.
        binaries: its other files with scores.
    """

    write: Callable[[Path], Path]
    tables: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()


# every layout that the package knows has an example: tests fail without
EXAMPLES = {
    "bapps-2afc": Example(bapps_2afc, binaries=("judge/000001.npy",)),
    "bapps-jnd": Example(bapps_jnd, binaries=("same/000001.npy",)),
    "tid2008": Example(lambda root: tid(root, 17, 4, contents=1), ("mos_with_names.txt",)),
    "tid2013": Example(lambda root: tid(root, 24, 5, contents=1), ("mos_with_names.txt",)),
    "kadid10k": Example(lambda root: kadid10k(root, contents=1), ("dmos.csv",)),
    "csiq": Example(csiq, binaries=("csiq.DMOS.xlsx",)),
    "live": Example(live, binaries=("dmos_realigned.mat", "refnames_all.mat")),
    "pipal": Example(pipal, ("Train_Label/A0001.txt",)),
    "csv": Example(plain, ("mos.csv", "pairs.csv", "quads.csv")),
    "parquet": Example(parquet, binaries=("train-1.parquet",)),
    "webdataset": Example(webdataset, binaries=("train-1.tar",)),
}
