"""Whatever a manifest says, its pairs are files in the two folders, or it is the one documented error."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damlpips.scoring.images import ScoringError
from damlpips.scoring.pairs import Pair, find_pairs
from tests.support.mutations import mutated, or_message

VALID = (
    b"\xef\xbb\xbfnote,reference,distorted\r\n"
    b'"a ""quoted"", note",a.png,deep/b.png\r\n'
    b",deep/b.png,a.png\r\n"
    b"\r\n"
    b'x,"c, d.png",link.png\r\n'
)
NAMES = ["a.png", "deep/b.png", "c, d.png", "link.png", "out.png", "out", "out/secret.png", "loop", "pipe", "nowhere"]
NASTY = [
    *(*NAMES, "", ".", "..", "../secret.png", "deep/../../secret.png", "/etc/hosts", "C:\\x", "\\\\h\\x"),
    *("a.png/", "~", "a\0b"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    top = tmp_path_factory.mktemp("fuzz")
    (top / "secret.png").touch()
    for side in ("r", "d"):
        (top / side / "deep").mkdir(parents=True)
        for name in NAMES[:3]:
            (top / side / name).touch()
        (top / side / "link.png").symlink_to("deep/b.png")
        (top / side / "out.png").symlink_to(top / "secret.png")
        (top / side / "out").symlink_to(top)
        (top / side / "loop").symlink_to("loop")
        (top / side / "nowhere").symlink_to("nothing")
        os.mkfifo(top / side / "pipe")
    return top / "r", top / "d"


def check(folders: tuple[Path, Path], content: bytes) -> list[Pair]:
    manifest = folders[0].parent / "pairs.csv"
    manifest.write_bytes(content)
    found = or_message(ScoringError, find_pairs, *folders, manifest)
    if isinstance(found, str):
        assert found.startswith(f"{manifest}, line ")
        assert len(found) < 2000
        return []
    assert found
    for pair in found:
        for folder, file in zip(folders, (pair.reference, pair.distorted), strict=True):
            assert file.resolve().is_file()
            assert file.resolve().is_relative_to(folder.resolve())
        assert pair.distorted == folders[1] / pair.name
    return found


def test_the_manifest_is_valid(folders: tuple[Path, Path]) -> None:
    assert [pair.name for pair in check(folders, VALID)] == ["deep/b.png", "a.png", "link.png"]


@given(data=st.data())
def test_damaged_manifests(folders: tuple[Path, Path], data: st.DataObject) -> None:
    check(folders, data.draw(mutated(VALID)))


@given(content=st.text())
def test_any_text(folders: tuple[Path, Path], content: str) -> None:
    check(folders, content.encode("utf-8", "surrogatepass"))


CELLS = st.one_of(st.sampled_from(NASTY), st.text(max_size=8))
ROWS = st.lists(st.lists(CELLS, max_size=4), max_size=4)


@given(header=st.permutations(["reference", "distorted", "note"]), rows=ROWS, quoted=st.booleans())
def test_any_cells(folders: tuple[Path, Path], header: list[str], rows: list[list[str]], quoted: bool) -> None:
    def line(cells: list[str]) -> str:
        return ",".join('"{}"'.format(cell.replace('"', '""')) if quoted else cell for cell in cells)

    text = "\n".join([line(header), *(line(["note", *row][:3]) for row in rows)])
    check(folders, text.encode("utf-8", "surrogatepass"))


@given(pairs=st.lists(st.tuples(st.sampled_from(NASTY), st.sampled_from(NASTY)), min_size=1, max_size=2))
def test_nasty_paths(folders: tuple[Path, Path], pairs: list[tuple[str, str]]) -> None:
    rows = [f'"{one}","{other}"' for one, other in pairs]
    found = check(folders, "\n".join(["reference,distorted", *rows]).encode())
    plain = all(name in ("a.png", "deep/b.png", "c, d.png", "link.png", "a.png/") for pair in pairs for name in pair)
    assert bool(found) == plain
