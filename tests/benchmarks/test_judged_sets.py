"""The judged sets that `make agree` reads: each set once, images and all, written whole or not at all."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import judged_sets
from benchmarks.judged_sets import MADE_FROM, lay_out
from damlpips.evaluation.datasets import load

# stands in for the program that draws: it notes each run, and draws empty images
DRAW = """
import pathlib, sys
here, out = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1])
with (here.parent.parent / "runs").open("a") as runs:
    runs.write("drawn ")
for name in ("raid", "tid2013_redrawn"):
    (out / name / "images").mkdir(parents=True)
    for image in "rabc":
        (out / name / "images" / f"{image}.png").write_text(name + image)
    rows = "".join(f"{name},images/r.png,images/{image}.png,{k},rot\\n" for k, image in enumerate("abc"))
    (out / name / "mos.csv").write_text("set,ref,dist,score,group\\n" + rows)
(out / "raid" / "quads.csv").write_text(
    "set,p1,p2,q1,q2,votes_p,votes_q,group\\n"
    "raid,images/r.png,images/a.png,images/b.png,images/c.png,1,2,rot\\n"
)
if (here / "fails").exists():
    sys.exit("no space left")
"""
TABLES = {
    "judged/motif_mos.csv": "set,ref,dist,score,group\nmotif,motif/r.png,motif/d.png,1,r\n",
    "judged/sr_quads.csv": "set,p1,p2,q1,q2,votes_p,votes_q,group\n"
    "sr,sr/a.png,sr/b.png,sr/a.png,sr/c.png,3,1,cartoon\n",
    "human/mos.csv": "set,ref,dist,score,group\nrecolour,recolour/r.png,recolour/d.png,1,r\n"
    "jpeg10,jpeg10/r.png,jpeg10/c10/d.png,2,r\ntid_resynth,tid_resynth/r.png,tid_resynth/d.png,3,type01\n",
    "human/pairs.csv": "set,ref,a,b,votes_a,votes_b\n"
    "gan_restoration,gan_restoration/O/r.png,gan_restoration/a.png,gan_restoration/b.png,1,30\n",
}
SEVEN = {"raid", "motif", "tid2013_redrawn", "recolour", "jpeg10", "gan_restoration", "sr"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, table in TABLES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(table)
        for image in (field for field in table.replace("\n", ",").split(",") if field.endswith(".png")):
            (path.parent / image).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / image).write_text(image)
    (folder / "judged" / "draw.py").write_text(DRAW)
    return folder


def runs(data: Path) -> int:
    file = data.parent / "runs"
    return file.read_text().count("drawn") if file.exists() else 0


def test_the_seven_once_each_and_more_beside_them(data: Path, tmp_path: Path) -> None:
    assert lay_out(data, tmp_path / "out")
    seven, more = (load(tmp_path / "out" / name) for name in ("seven", "more"))
    assert sorted(judged.name for judged in seven) == sorted(SEVEN)
    assert {judged.name: judged.what for judged in more} == {"raid": "choices", "tid_resynth": "ratings"}
    by_name = {judged.name: judged for judged in seven}
    assert {name for name, judged in by_name.items() if judged.what == "choices"} == {"sr", "gan_restoration"}
    (choice,) = by_name["gan_restoration"].judgements
    assert (choice.votes_a, choice.votes_b) == (1, 30)
    (comparison,) = by_name["sr"].judgements
    assert (comparison.votes_a, comparison.votes_b) == (1, 3)  # three of four found a and b less alike
    assert [rating.score for rating in by_name["raid"].judgements] == [0, 1, 2]


def test_images_are_those_that_the_tables_mean(data: Path, tmp_path: Path) -> None:
    lay_out(data, tmp_path / "out")
    for folder in ("seven", "more"):
        for judged in load(tmp_path / "out" / folder):
            for file in {file for judgement in judged.judgements for pair in judgement.pairs for file in pair}:
                name = file.relative_to(tmp_path / "out" / folder)
                drawn = judged.name in ("raid", "tid2013_redrawn")
                assert file.read_text() == (judged.name + file.stem if drawn else name.as_posix())
                assert not file.is_symlink()


def test_not_again_as_long_as_nothing_changes(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert [lay_out(data, out), lay_out(data, out)] == [True, False]
    assert runs(data) == 1
    table = data / "human" / "mos.csv"
    table.write_text(table.read_text().replace("r.png,recolour/d.png,1", "r.png,recolour/d.png,9"))
    assert lay_out(data, out)
    assert runs(data) == 2
    (recolour,) = [judged for judged in load(out / "seven") if judged.name == "recolour"]
    assert [rating.score for rating in recolour.judgements] == [9]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("before", [False, True])
def test_whole_or_not_at_all(before: bool, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "build" / "out"
    if before:
        lay_out(data, out)
    (data / "judged" / "fails").touch()
    with pytest.raises(subprocess.CalledProcessError):
        lay_out(data, out)
    assert out.exists() == before
    assert [path.name for path in out.parent.iterdir()] == (["out"] if before else [])
    (data / "judged" / "fails").unlink()
    assert lay_out(data, out) != before


def test_an_image_that_is_missing(data: Path, tmp_path: Path) -> None:
    (data / "judged" / "motif" / "d.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"motif/d\.png"):
        lay_out(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_that_is_missing(data: Path, tmp_path: Path) -> None:
    table = data / "human" / "mos.csv"
    table.write_text(table.read_text().replace("tid_resynth,", "other,"))
    with pytest.raises(ValueError, match=r"mos\.csv: no rows of the set 'tid_resynth'"):
        lay_out(data, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="out: is there, and was not made by this program"):
        lay_out(data, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    assert runs(data) == 0


def test_no_judged_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["judged_sets.py", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"error: .*judged: no such folder, expected that of judged sets"):
        judged_sets.main()
    assert not (tmp_path / "out" / MADE_FROM).exists()
