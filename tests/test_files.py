"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from damlpips.files import write_whole


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
