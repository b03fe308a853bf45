"""Files are written whole or not at all; names are spelled in one way."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damlpips.files import spelled, unspelled, write_whole


def test_replaces_what_was_there_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("old and longer")
    write_whole(tmp_path / "t.csv", "new\n")
    assert (tmp_path / "t.csv").read_bytes() == b"new\n"
    assert os.listdir(tmp_path) == ["t.csv"]


def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "t.csv", "new")
    assert (tmp_path / "t.csv").read_text() == "old"
    assert os.listdir(tmp_path) == ["t.csv"]


def test_the_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_whole(tmp_path / "t.csv", "x")
    assert (tmp_path / "t.csv").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="links and devices")
def test_links_are_followed_and_devices_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    write_whole(Path(os.devnull), "x")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain \xc3\xbc.png", "plain ü.png"),
        (b"\xff.png", r"\xff.png"),
        (rb"\xff.png", r"\x5cxff.png"),
        (rb"\xFF.png", r"\x5cxFF.png"),
        (rb"\x5cxff", r"\x5cx5cxff"),
        (rb"a\b \x \xg", r"a\b \x \xg"),
        (b"\\\xff", r"\\xff"),
        (b"\xc3\xc2\x85", r"\xc3\xc2\x85"),
        (b"\x1b[31m\n\x7f", r"\x1b[31m\x0a\x7f"),
        ("\u202egnp.\u2028".encode(), r"\xe2\x80\xaegnp.\xe2\x80\xa8"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
    ],
    ids=["text", "byte", "looks like a byte", "in capitals", "looks spelled", "other backslashes", "both", "cut off",
         "controls", "marks", "half a character"],
)  # fmt: skip
@pytest.mark.skipif(sys.platform == "win32", reason="file names are text there")
def test_a_name_is_spelled_in_one_way_and_read_back(name: bytes, text: str) -> None:
    assert spelled(os.fsdecode(name)) == text
    assert os.fsencode(unspelled(text)) == name
    assert spelled(unspelled(text)) == text


@given(st.lists(st.sampled_from([b"\\", b"x", b"f", b"F", b"5", b"c", b"\xff", b"\xc3", b"\xa9", b"\x85", b"\n"])))
@pytest.mark.skipif(sys.platform == "win32", reason="file names are text there")
def test_no_two_names_are_spelled_alike(parts: list[bytes]) -> None:
    name = os.fsdecode(b"".join(parts))
    assert unspelled(spelled(name)) == name
    spelled(name).encode()
