"""The cache of distances: kept, shared between processes, never wrong."""

import multiprocessing
import os
import re
import sqlite3
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damlpips.evaluation import cache as cache_module
from damlpips.evaluation.cache import CacheError, DistanceCache, default_path, key
from damlpips.scoring.images import ScoringError

K = key("metric", "view", "a", "b")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "distances.sqlite"


def aged(path: Path, content: bytes) -> Path:
    """Write a file that has long not been changed, as far as its times can say so."""
    path.write_bytes(content)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


@pytest.mark.parametrize("value", [0.1, 0.0, -0.0, 1e-320, 1.7976931348623157e308, float("inf"), -float("inf")])
def test_a_distance_comes_back_as_it_was(file: Path, value: float) -> None:
    with DistanceCache(file) as cache:
        assert cache.get(K) is None
        cache.put(K, value)
        assert repr(cache.get(K)) == repr(value + 0.0)  # a zero has no sign
    with DistanceCache(file) as cache:
        assert repr(cache.get(K)) == repr(value + 0.0)
        assert cache.get(key("metric", "view", "b", "a")) is None


@given(parts=st.lists(st.tuples(st.text(), st.text(), st.text(), st.text()), min_size=2, max_size=2, unique=True))
def test_keys_differ_where_any_part_does(parts: list[tuple[str, str, str, str]]) -> None:
    one, other = parts
    assert key(*one) != key(*other)
    assert key(*one) == key(*one)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(values=st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False), max_size=8))
def test_what_was_put_is_there_in_the_next_run(tmp_path: Path, values: dict[str, float]) -> None:
    with DistanceCache(tmp_path / "distances.sqlite") as cache:
        for name, value in values.items():
            cache.put(key(name, "", "", ""), value)
    with DistanceCache(tmp_path / "distances.sqlite") as cache:
        assert {name: cache.get(key(name, "", "", "")) for name in values} == values


def test_nan_is_no_distance(file: Path) -> None:
    with DistanceCache(file) as cache, pytest.raises(ValueError, match="expected a distance, got NaN"):
        cache.put(K, float("nan"))


def test_later_values_replace_earlier_ones(file: Path) -> None:
    for value in (1.0, 2.0):
        with DistanceCache(file) as cache:
            cache.put(K, value)
    with DistanceCache(file) as cache:
        assert cache.get(K) == 2.0


def test_rows_wait_for_one_another_and_no_longer(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(cache_module.time, "monotonic", lambda: now[0])
    with DistanceCache(file) as cache, DistanceCache(file) as other:
        cache.put(K, 1.0)
        assert other.get(K) is None
        now[0] = cache_module.FLUSH_S
        cache.put(key("another", "", "", ""), 2.0)
        assert other.get(K) == 1.0


class TestWhere:
    def test_in_the_folder_of_xdg(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_path() == tmp_path / "damlpips" / "distances.sqlite"
        with DistanceCache() as cache:
            assert cache.path == default_path()
        assert default_path().is_file()

    @pytest.mark.parametrize("value", ["", "relative/folder"])
    def test_else_in_the_home(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_path() == tmp_path / ".cache" / "damlpips" / "distances.sqlite"

    def test_no_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", nobody)
        with pytest.raises(CacheError, match="set XDG_CACHE_HOME or name a file"):
            default_path()

    def test_a_file_is_in_the_way_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "folder").write_text("")
        with pytest.raises(CacheError, match=re.escape(str(tmp_path / "folder"))):
            DistanceCache(tmp_path / "folder" / "distances.sqlite")

    def test_a_folder_is_in_the_way_of_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(CacheError, match=f"{re.escape(str(tmp_path))}: .*name another cache, or use none"):
            DistanceCache(tmp_path)


class TestDamage:
    def test_not_a_database(self, file: Path) -> None:
        file.parent.mkdir()
        file.write_bytes(b"\x89PNG\r\n\x1a\n" * 500)
        with pytest.raises(CacheError, match=f"{re.escape(str(file))}: a damaged cache.*delete or move it"):
            DistanceCache(file)
        assert file.read_bytes() == b"\x89PNG\r\n\x1a\n" * 500

    def test_somebody_elses_database(self, file: Path) -> None:
        file.parent.mkdir()
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE letters (text TEXT)")
        before = file.read_bytes()
        with pytest.raises(CacheError, match="a database, but not a cache of distances: name another file"):
            DistanceCache(file)
        assert file.read_bytes() == before

    def test_another_layout(self, file: Path) -> None:
        DistanceCache(file).close()
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version = 7")
        with pytest.raises(CacheError, match=r"a cache in layout 7, expected 1.*delete it, or name another file"):
            DistanceCache(file)

    @pytest.mark.parametrize("value", [2.5, "two", None])
    def test_a_changed_value_is_not_believed(self, file: Path, value: object) -> None:
        with DistanceCache(file) as cache:
            cache.put(K, 1.5)
        with sqlite3.connect(file) as database:
            database.execute("UPDATE distances SET value = ?", (value,))
        with DistanceCache(file) as cache, pytest.raises(CacheError, match="a distance is not what was written"):
            cache.get(K)

    def test_a_changed_content_is_not_believed(self, file: Path, tmp_path: Path, no_step: None) -> None:
        image = aged(tmp_path / "image", b"pixels")
        with DistanceCache(file) as cache:
            cache.content(image)
        with sqlite3.connect(file) as database:
            database.execute("UPDATE contents SET sha256 = 'abc'")
        with DistanceCache(file) as cache, pytest.raises(CacheError, match="content is not what was written"):
            cache.content(image)

    def test_any_broken_part_is_an_error_or_harmless(self, file: Path) -> None:
        values = {key(str(k), "", "", ""): k / 7 for k in range(300)}
        with DistanceCache(file) as cache:
            for k, value in values.items():
                cache.put(k, value)
        whole = file.read_bytes()
        errors = []
        for start in range(0, len(whole), 1531):
            file.write_bytes(whole[:start] + bytes(b ^ 0x55 for b in whole[start : start + 40]) + whole[start + 40 :])
            try:
                with DistanceCache(file) as cache:
                    found = {k: cache.get(k) for k in values}
            except CacheError as error:
                errors.append(str(error))
            else:
                assert all(value in (None, values[k]) for k, value in found.items())
        assert errors
        assert all(str(file) in error for error in errors)

    def test_cut_short(self, file: Path) -> None:
        with DistanceCache(file) as cache:
            for k in range(300):
                cache.put(key(str(k), "", "", ""), k)
        file.write_bytes(file.read_bytes()[:9000])
        with pytest.raises(CacheError, match=re.escape(str(file))):
            _ = [DistanceCache(file).get(key(str(k), "", "", "")) for k in range(300)]

    def test_locked_for_too_long(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_module, "PATIENCE_S", 0.01)
        DistanceCache(file).close()
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            with pytest.raises(CacheError, match="locked: name another cache, or use none"):
                DistanceCache(file)
        finally:
            other.close()


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe in times that were written a moment ago: a test cannot set back the time of a change of status."""
    monkeypatch.setattr(cache_module, "STEP_NS", -1)


class TestContents:
    def test_of_a_file(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "abc").write_bytes(b"abc")
        with DistanceCache(file) as cache:
            # FIPS 180-2, appendix B.1
            expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            assert cache.content(tmp_path / "abc") == expected

    def test_a_file_is_read_once(
        self, file: Path, tmp_path: Path, no_step: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = aged(tmp_path / "image", b"pixels")
        with DistanceCache(file) as cache:
            first = cache.content(image)
            monkeypatch.setattr(cache_module, "digest", None)
            assert cache.content(image) == first
        with DistanceCache(file) as cache:
            assert cache.content(image) == first

    def test_a_changed_file_is_read_again(self, file: Path, tmp_path: Path, no_step: None) -> None:
        image = aged(tmp_path / "image", b"pixels")
        with DistanceCache(file) as cache:
            first = cache.content(image)
            assert cache.content(aged(image, b"pixelz")) != first  # as long, and as old

    def test_a_file_of_this_moment_is_not_remembered(self, file: Path, tmp_path: Path) -> None:
        image = tmp_path / "image"
        image.write_bytes(b"pixels")
        with DistanceCache(file) as cache:
            cache.content(image)
        with sqlite3.connect(file) as database:
            assert database.execute("SELECT count(*) FROM contents").fetchone() == (0,)

    def test_one_content_under_two_names(self, file: Path, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / name).write_bytes(b"pixels")
        with DistanceCache(file) as cache:
            assert cache.content(tmp_path / "a") == cache.content(tmp_path / "b")

    @pytest.mark.parametrize("name", ["missing.png", "nul\0.png", "."])
    def test_not_a_file(self, file: Path, tmp_path: Path, name: str) -> None:
        with DistanceCache(file) as cache, pytest.raises(ScoringError, match=re.escape(str(tmp_path / name))):
            cache.content(tmp_path / name)


# forked: a process of its own would take seconds to import torch
FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
needs_fork = pytest.mark.skipif(FORK is None, reason="this system does not fork")


def write_rows(file: Path, name: str, rows: int, done: Connection) -> None:
    with DistanceCache(file) as cache:
        for k in range(rows):
            cache.put(key(str(k), "", "", ""), k / 3)
            cache.put(key(name, str(k), "", ""), k / 7)
            cache.flush()
            done.send(k)


def start_writer(file: Path, name: str, rows: int) -> tuple[BaseProcess, Connection]:
    assert FORK is not None
    receiver, sender = FORK.Pipe(duplex=False)
    writer = FORK.Process(target=write_rows, args=(file, name, rows, sender))
    writer.start()
    sender.close()
    return writer, receiver


@needs_fork
def test_two_processes_at_once(file: Path) -> None:
    writers = [start_writer(file, name, 60) for name in ("one", "other")]
    for writer, _ in writers:
        writer.join(120)
    assert [writer.exitcode for writer, _ in writers] == [0, 0]
    with DistanceCache(file) as cache:
        for k in range(60):
            assert cache.get(key(str(k), "", "", "")) == k / 3
            assert [cache.get(key(name, str(k), "", "")) for name in ("one", "other")] == [k / 7] * 2


@needs_fork
def test_a_killed_run_leaves_what_it_computed(file: Path) -> None:
    writer, receiver = start_writer(file, "one", 1_000_000)
    while (done := receiver.recv()) < 20:
        pass
    writer.kill()
    writer.join(120)
    assert writer.exitcode != 0
    with DistanceCache(file) as cache:
        assert [cache.get(key(str(k), "", "", "")) for k in range(done + 1)] == [k / 3 for k in range(done + 1)]
        cache.put(K, 1.0)


def test_an_interrupted_run_does_not_lose_rows(file: Path) -> None:
    def run() -> None:
        with DistanceCache(file) as cache:
            cache.put(K, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    with DistanceCache(file) as cache:
        assert cache.get(K) == 1.0
