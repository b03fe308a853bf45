"""Shards: some processes write them, any others go on with them; a lock keeps a file to one process."""

import errno
import fcntl
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damlpips import DAMLPIPS
from damlpips.scoring import shards
from damlpips.scoring.images import ScoringError
from damlpips.scoring.journal import InUseError, lock_of, locked
from damlpips.scoring.pairs import Pair, find_pairs
from damlpips.scoring.rows import Table
from damlpips.scoring.scorer import Score, score_pairs
from damlpips.scoring.shards import Piece, Span
from tests.support.pictures import image_file

TABLE = Table({"metric": "m", "backbone": "b", "weights": "w", "options": "o=1"}, 2)


def scores(count: int) -> list[Score]:
    """Return scores of files that do not exist."""
    pairs = [Pair(Path("r.png"), Path(f"{k}.png"), str(k)) for k in range(count)]
    return [Score(pair, k / 3, (k / 3, 0.0), (4, 5)) for k, pair in enumerate(pairs)]


def write(file: Path, every: list[Score], start: int, stop: int) -> None:
    assert sum(1 for _ in shards.write(file, TABLE, start, every[start:stop])) == stop - start


@pytest.mark.parametrize("batch_size", [2, 3])
def test_a_stretch_of_pairs_scores_as_in_the_whole(tmp_path: Path, batch_size: int) -> None:
    sizes = [(40, 48), (36, 50), (36, 50), (40, 48), (40, 48), (40, 48), (36, 50)]
    for k, size in enumerate(sizes):
        image_file(tmp_path / f"r/{k // 3}.png", k // 3, (40, 48))
        image_file(tmp_path / f"d/{k}.png", k + 9, size)
    # some references are shared across the ends of batches
    pairs = [Pair(tmp_path / f"r/{k // 3}.png", tmp_path / f"d/{k}.png", str(k)) for k in range(7)]
    model = DAMLPIPS(resize="reference")
    whole = list(score_pairs(model, pairs, batch_size=batch_size))
    bounds = range(0, 7, batch_size)
    assert len(bounds) > 2
    cut = (score_pairs(model, pairs, batch_size=batch_size, start=k, stop=k + batch_size) for k in bounds)
    assert [score for part in cut for score in part] == whole
    with pytest.raises(ValueError, match=rf"stop: expected a multiple of batch_size {batch_size} from 0 on, got 5"):
        score_pairs(model, pairs, batch_size=batch_size, stop=5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5), st.integers(1, 7), st.integers(1, 5))
def test_shares_are_all_that_is_missing_in_whole_batches(
    gaps: list[tuple[int, int]], world: int, batch_size: int
) -> None:
    place, pieces = 0, []
    for before, length in gaps:
        start = place + before * batch_size
        place = start + length * batch_size
        if length:
            pieces.append(Piece(Span(start, place), start))
    total = place + batch_size + 1
    spans = shards.missing(pieces, start=0, total=total)
    shares = shards.shares(spans, world, batch_size)
    covered = [*(piece.span for piece in pieces), *(span for share in shares for span in share)]
    numbers = [k for span in covered for k in range(*span)]
    assert sorted(numbers) == list(range(total))
    for span in covered:
        assert span.start % batch_size == 0
        assert span.stop % batch_size == 0 or span.stop == total
    counts = [sum(-(-(span.stop - span.start) // batch_size) for span in share) for share in shares]
    assert len(counts) == world
    assert max(counts) - min(counts) <= 1
    firsts = [span.start for share in shares for span in share]
    assert firsts == sorted(firsts)


def test_shards_of_other_batches_are_used(tmp_path: Path) -> None:
    file, every = tmp_path / "s.csv", scores(23)
    pairs = [score.pair for score in every]
    for start, stop in ((0, 6), (8, 19), (12, 17), (20, 23)):
        write(file, every, start, stop)
    found = shards.found(file, TABLE, pairs, start=0, batch_size=5)
    # of the shard from 8 on only whole batches; the one from 12 on adds nothing to it
    assert found == [Piece(Span(0, 5), 0), Piece(Span(10, 15), 8), Piece(Span(20, 23), 20)]
    missing = shards.missing(found, start=0, total=23)
    assert missing == [Span(5, 10), Span(15, 20)]
    for span in missing:
        write(file, every, *span)
    new = [Piece(span, span.start) for span in missing]
    assert [scored.row for scored in shards.joined(file, TABLE, pairs, [*found, *new])] == [
        TABLE.scored(score).row for score in every
    ]
    shards.remove(file)
    assert os.listdir(tmp_path) == []


def test_a_shard_that_lacks_rows(tmp_path: Path) -> None:
    file, every = tmp_path / "s.csv", scores(4)
    pairs = [score.pair for score in every]
    write(file, every, 0, 3)
    with pytest.raises(ScoringError, match=r"part0+\.rows\.jsonl: expected 4 rows, there are only 3"):
        list(shards.joined(file, TABLE, pairs, [Piece(Span(0, 4), 0)]))
    with pytest.raises(ScoringError, match=r"part000000000004\.rows\.jsonl: No such file"):
        list(shards.joined(file, TABLE, pairs, [Piece(Span(4, 5), 4)]))
    with pytest.raises(ScoringError, match=r"holds 3 rows, this run has 2 pairs from there; --overwrite"):
        shards.found(file, TABLE, pairs[:2], start=0, batch_size=1)


def test_shards_of_changed_images_are_refused(tmp_path: Path) -> None:
    for k in range(2):
        image_file(tmp_path / f"d/{k}.png", k)
    pairs = find_pairs(image_file(tmp_path / "r.png", 5), tmp_path / "d")
    file = tmp_path / "s.csv"
    table = Table(TABLE.settings, len(next(iter(score_pairs(DAMLPIPS(), pairs))).layers))
    assert sum(1 for _ in shards.write(file, table, 0, score_pairs(DAMLPIPS(), pairs))) == 2
    assert shards.found(file, table, pairs, start=0, batch_size=8) == [Piece(Span(0, 2), 0)]
    image_file(tmp_path / "d/1.png", 7)
    with pytest.raises(ScoringError, match=r"part0+\.rows\.jsonl: row 2 was scored with another .*1\.png"):
        shards.found(file, table, pairs, start=0, batch_size=8)


class TestLocks:
    def test_one_at_a_time_by_whatever_name(self, tmp_path: Path) -> None:
        file = tmp_path / "a b[.csv"
        (tmp_path / "link").symlink_to(file)
        with locked(file):
            assert os.listdir(tmp_path) != []
            told = rf"link: is being written by another run \(process {os.getpid()} on"
            with pytest.raises(InUseError, match=told), locked(tmp_path / "link"):
                raise AssertionError("locked twice")
            with locked(tmp_path / "other.csv"):
                pass
            assert lock_of(file).exists()
        assert not lock_of(file).exists()
        with locked(file):
            pass

    def test_an_error_releases_the_lock(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), locked(tmp_path / "s"):
            raise KeyError
        assert os.listdir(tmp_path) == []

    def test_a_lock_that_is_removed_while_it_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last holder ends between opening and locking, where two processes might lock two files of one name."""
        real, seen = fcntl.flock, []

        def flock(descriptor: int, operation: int) -> None:
            if not seen:
                lock_of(tmp_path / "s").unlink()
            seen.append(descriptor)
            real(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", flock)
        with locked(tmp_path / "s"):
            assert len(seen) > 1
            monkeypatch.undo()
            with pytest.raises(InUseError), locked(tmp_path / "s"):
                raise AssertionError("locked twice")

    def test_without_locks_nothing_is_locked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
        with locked(tmp_path / "s"), locked(tmp_path / "s"):
            pass
        with locked(tmp_path / "no such folder" / "s"):
            pass
        assert os.listdir(tmp_path) == []
