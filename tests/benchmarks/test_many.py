"""The memory of `damlpips score` does not grow with the number of pairs, but for their names."""

from pathlib import Path

import pytest

from benchmarks import many


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is Linux's to tell")
def test_more_pairs_take_their_names_more(tmp_path: Path) -> None:
    many.make_images(tmp_path, 32, 40)
    few, lots = (many.peak_of(tmp_path, pairs, "--batch-size", "64", count=40) for pairs in (300, 4000))
    # less than the two images of a pair, which have feature maps many times as large; two names have some hundred
    # bytes, and the allocator's arenas differ by some MiB from run to run
    assert lots - few < 3700 * (2 * 3 * 32 * 32)
    assert few > 1 << 26  # torch alone: a figure that is no figure would pass, too
