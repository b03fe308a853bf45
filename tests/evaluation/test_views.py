"""What metrics see of an image file: its pixels, read once, at the viewing scale."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from damlpips.evaluation import views as module
from damlpips.evaluation.views import AS_IS, KeptImages, View, read_without_alpha, scaled_down
from damlpips.scoring.images import ScoringError, read_image
from tests.support.pictures import image_file

SIZE = 3 * 40 * 48


class Counting:
    """A reader that keeps what it was asked for."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def read(self, path: Path) -> Tensor:
        self.paths.append(path)
        return read_image(path)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [image_file(tmp_path / f"{k}.png", k, (40, 48)) for k in range(4)]


class TestKeptImages:
    def test_reads_once(self, files: list[Path]) -> None:
        counting = Counting()
        read = KeptImages(counting.read)
        for _ in range(3):
            for file in files:
                assert torch.equal(read(file), read_image(file))
        assert counting.paths == files

    @settings(max_examples=25)
    @given(order=st.lists(st.integers(0, 3), max_size=20), room=st.integers(0, 4))
    def test_forgets_what_was_used_longest_ago(
        self, tmp_path_factory: pytest.TempPathFactory, order: list[int], room: int
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "kept"
        folder.mkdir(exist_ok=True)
        files = [folder / f"{k}.png" for k in range(4)]
        for k, file in enumerate(files):
            if not file.exists():
                image_file(file, k, (40, 48))
        counting = Counting()
        read = KeptImages(counting.read, most=room * SIZE + SIZE - 1)
        kept: list[int] = []
        expected = []
        for k in order:
            assert torch.equal(read(files[k]), read_image(files[k]))
            if k in kept:
                kept.remove(k)
            else:
                expected.append(files[k])
            kept = [*kept, k][-room:] if room else []
        assert counting.paths == expected

    def test_a_file_that_changed_is_read_again(self, files: list[Path]) -> None:
        read = KeptImages(read_image)
        before = read(files[0])
        files[0].write_bytes(files[1].read_bytes())
        os.utime(files[0], ns=(1, 1))  # within one step of the clock it would look unchanged
        assert not torch.equal(read(files[0]), before)
        assert torch.equal(read(files[0]), read_image(files[1]))

    @pytest.mark.parametrize("name", ["gone.png", "folder.png", "bad.png", "a\0b.png"])
    def test_errors_are_the_readers(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "bad.png").write_bytes(b"no image")
        errors = []
        for read in (read_image, KeptImages(read_image)):
            with pytest.raises(ScoringError) as error:
                read(tmp_path / name)
            errors.append(str(error.value))
        assert errors[0] == errors[1]


class TestScale:
    def test_only_what_is_larger_is_scaled(self) -> None:
        x = torch.rand(2, 3, 40, 60)
        assert scaled_down(x, None) is x
        assert scaled_down(x, 40) is x
        assert scaled_down(x, 41) is x
        assert scaled_down(x, 20).shape == (2, 3, 20, 30)
        assert scaled_down(x.transpose(2, 3), 20).shape == (2, 3, 30, 20)

    def test_halving_averages_with_a_triangle(self) -> None:
        x = torch.zeros(1, 3, 1, 16)
        x[..., 7] = 1
        # a triangle of two pixels to each side; pixel 7 is 0.5 from the middle of new pixel 3, 1.5 from that of 4
        found = scaled_down(x.expand(-1, -1, 16, -1), 8)[0, 0, 4]
        assert found.tolist() == pytest.approx([0, 0, 0, 0.375, 0.125, 0, 0, 0])

    @given(seed=st.integers(0, 999), height=st.integers(1, 40), width=st.integers(1, 40), side=st.integers(1, 40))
    def test_the_range_is_kept(self, seed: int, height: int, width: int, side: int) -> None:
        x = torch.randint(0, 2, (1, 3, height, width), generator=torch.Generator().manual_seed(seed)).float()
        y = scaled_down(x, side)
        assert y.min() >= 0
        assert y.max() <= 1
        assert min(y.shape[2:]) == min(side, height, width)


class TestDescribed:
    def test_readers_and_scales_are_told_apart(self) -> None:
        views = [View(read, side) for read in (read_image, read_without_alpha) for side in (None, 18, 20)]
        assert len({view.described() for view in views}) == len(views)
        assert [view.keeping_images().described() for view in views] == [view.described() for view in views]

    def test_versions_of_pillow_and_of_scores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = [AS_IS.described()]
        monkeypatch.setattr(module, "version", lambda name: "0.1")
        said.append(AS_IS.described())
        assert json.loads(said[-1])["pillow"] == "0.1"
        monkeypatch.setattr(module, "SCORES", module.SCORES + 1)
        assert len({*said, AS_IS.described()}) == 3


def test_the_alpha_channel_is_passed_over(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    assert read_without_alpha(tmp_path / "a.png").permute(1, 2, 0).tolist() == pixels[..., :3].tolist()
    with pytest.raises(ScoringError, match="transparen"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, read_without_alpha])
def test_a_truncated_file_is_an_error_also_where_pillow_may_fill_it_up(
    read: Callable[[Path], Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image, ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScoringError, match=r"a\.png"):
        read(tmp_path / "a.png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES
