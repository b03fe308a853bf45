"""Whatever a file holds, reading it as a video gives frames or the one documented error."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damlpips.scoring.images import ScoringError
from damlpips.scoring.videos import MOST_PIXELS, read_frames
from tests.support.mutations import memory_within, mutated
from tests.support.videos import CONTAINERS, moving, video_file

# the largest frame in FFmpeg's own format, as RGB, and as a tensor, and the few that wait in a decoder
MOST_MEMORY = 1300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def read_or_refuse(file: Path) -> str:
    """Return the error of a video file; empty if all of its frames can be read."""
    try:
        for pixels, *_ in read_frames(file):
            assert pixels.dtype in (torch.uint8, torch.float32)
            assert pixels.shape[0] == 3
            assert 0 < pixels[0].numel() <= MOST_PIXELS
    except ScoringError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CONTAINERS)
def test_frames_or_an_error(name: str, folder: Path) -> None:
    whole = video_file(folder / name, moving(1, 3, (32, 32)), *CONTAINERS[name]).read_bytes()
    assert read_or_refuse(folder / name) == ""
    file = folder / f"damaged_{name}"
    errors: set[str] = set()

    @given(st.data())
    def check(data: st.DataObject) -> None:
        file.write_bytes(data.draw(mutated(whole)))
        error = read_or_refuse(file)
        assert error == "" or error.startswith(f"{file}: ")
        errors.add(error)

    with memory_within(MOST_MEMORY):
        check()
    assert len(errors) > 2  # the mutations do damage
