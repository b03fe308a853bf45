"""Pairs of files are read and scored in batches."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
import torch

from damlpips import DAMLPIPS, LPIPS, Backbone
from damlpips.models.encoder import Encoder
from damlpips.scoring import scorer
from damlpips.scoring.images import ScoringError, read_still
from damlpips.scoring.pairs import Pair, find_pairs
from damlpips.scoring.scorer import score_pairs
from tests.support.pictures import image_file, image_folders, score_of


@pytest.fixture(scope="module")
def model() -> DAMLPIPS:
    return DAMLPIPS()


class TestScorePairs:
    SIZES = (*[(40, 48)] * 3, *[(36, 50)] * 2, (40, 48), (64, 33))

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
    def test_folders_score_as_their_pairs_do(self, tmp_path: Path, model: DAMLPIPS, batch_size: int) -> None:
        pairs = find_pairs(*image_folders(tmp_path, self.SIZES))
        scores = list(score_pairs(model, pairs, batch_size=batch_size))
        assert [s.pair for s in scores] == pairs
        expected = [score_of(model, p.reference, p.distorted) for p in pairs]
        assert min(expected) > 0.1
        assert [s.score for s in scores] == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("batch_size", [1, 2, 100])
    def test_one_reference_scores_as_its_pairs_do(self, tmp_path: Path, model: DAMLPIPS, batch_size: int) -> None:
        reference = image_file(tmp_path / "r.png", 0)
        for k in range(5):
            image_file(tmp_path / f"d/{k}.png", k)
        pairs = find_pairs(reference, tmp_path / "d")
        scores = [s.score for s in score_pairs(model, pairs, batch_size=batch_size)]
        assert scores == pytest.approx([score_of(model, reference, p.distorted) for p in pairs], rel=1e-5, abs=1e-6)
        assert scores[0] == pytest.approx(0, abs=1e-6)
        assert min(scores[1:]) > 0.1

    def test_mixed_runs_keep_their_order(self, tmp_path: Path, model: DAMLPIPS) -> None:
        a, b, c = (image_file(tmp_path / f"{k}.png", k) for k in range(3))
        pairs = [Pair(r, d, "") for r, d in [(a, b), (b, a), (b, c), (c, a), (a, c), (a, a)]]
        scores = list(score_pairs(model, pairs, batch_size=4))
        assert [s.pair for s in scores] == pairs
        expected = [score_of(model, p.reference, p.distorted) for p in pairs]
        assert [s.score for s in scores] == pytest.approx(expected, rel=1e-5, abs=1e-6)

    def test_a_shared_reference_is_read_and_encoded_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        encode = create_autospec(Encoder.of_seen, side_effect=Encoder.of_seen)
        read = Mock(wraps=read_still)
        monkeypatch.setattr(Encoder, "of_seen", encode)
        monkeypatch.setattr(scorer, "read_still", read)
        reference = image_file(tmp_path / "r.png", 0)
        for k in range(5):
            image_file(tmp_path / f"d/{k}.png", k)
        assert len(list(score_pairs(DAMLPIPS(), find_pairs(reference, tmp_path / "d"), batch_size=2))) == 5
        assert [call.args[0] for call in read.call_args_list].count(reference) == 1
        assert read.call_count == 6
        # the reference; batches of 2, 2 and 1 distorted images
        assert sorted(len(call.args[1]) for call in encode.call_args_list) == [1, 1, 2, 2]

    def test_scores_come_before_later_images_are_read(self, tmp_path: Path, model: DAMLPIPS) -> None:
        r, d = image_folders(tmp_path, [(40, 48)] * 4)
        (d / "3.png").write_bytes(b"")
        stream = score_pairs(model, find_pairs(r, d), batch_size=2)
        assert [next(stream).pair.name for _ in range(3)] == ["0.png", "1.png", "2.png"]
        with pytest.raises(ScoringError, match=r"3\.png: the file is empty"):
            next(stream)

    @pytest.mark.parametrize("several", [False, True])
    def test_different_sizes_name_the_file(self, tmp_path: Path, model: DAMLPIPS, several: bool) -> None:
        reference = image_file(tmp_path / "r.png", 0)
        image_file(tmp_path / "d/a.png", 1, (20, 48))
        if several:
            image_file(tmp_path / "d/b.png", 1)
        with pytest.raises(ScoringError, match=r"a\.png: the two images must have one size, got 20 x 48 and 40 x 48"):
            list(score_pairs(model, find_pairs(reference, tmp_path / "d")))

    def test_resize_to_a_shared_reference(self, tmp_path: Path) -> None:
        model = DAMLPIPS(resize="reference")
        reference = image_file(tmp_path / "r.png", 0)
        for k, size in enumerate([(40, 48), (20, 48), (80, 96)]):
            image_file(tmp_path / f"d/{k}.png", k + 1, size)
        pairs = find_pairs(reference, tmp_path / "d")
        scores = [s.score for s in score_pairs(model, pairs)]
        assert scores == pytest.approx([score_of(model, reference, p.distorted) for p in pairs], rel=1e-5)

    def test_images_too_small_for_the_backbone(self, tmp_path: Path) -> None:
        model = DAMLPIPS(Backbone(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), taps=["0"], min_size=60))
        pairs = find_pairs(*image_folders(tmp_path, [(40, 48)]))
        with pytest.raises(ScoringError, match=r"d/0\.png: .*needs at least 60 x 60 pixels, got 40 x 48"):
            list(score_pairs(model, pairs))

    def test_lpips_scores_too(self, tmp_path: Path) -> None:
        model = LPIPS("nano", heads="uniform")
        pairs = find_pairs(*image_folders(tmp_path, [(40, 48)] * 2))
        scores = [s.score for s in score_pairs(model, pairs)]
        assert scores == pytest.approx([score_of(model, p.reference, p.distorted) for p in pairs], rel=1e-5)

    def test_gradients_stay_possible_for_the_consumer(self, tmp_path: Path) -> None:
        for _ in score_pairs(DAMLPIPS(), find_pairs(*image_folders(tmp_path, [(40, 48)]))):
            assert torch.is_grad_enabled()

    def test_a_score_that_is_not_finite_is_an_error(self, tmp_path: Path) -> None:
        class Broken(DAMLPIPS):
            def per_layer(self, x, y):  # type: ignore[no-untyped-def]
                return super().per_layer(x, y) * float("nan")

        with pytest.raises(ScoringError, match=r"0\.png: its score is nan"):
            list(score_pairs(Broken(), find_pairs(*image_folders(tmp_path, [(40, 48)]))))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
            ({"workers": -1}, "workers: expected at least 0, got -1"),
            ({"alpha": "grey"}, "alpha: expected one of error, white, black, got 'grey'"),
            ({"errors": "skip"}, "errors: expected 'raise' or 'keep', got 'skip'"),
            ({"start": 3, "batch_size": 2}, "start: expected a multiple of batch_size 2, got 3"),
            ({"model": DAMLPIPS(reduction="mean")}, "expected reduction='none', a score a pair, got 'mean'"),
        ],
    )
    def test_options_are_checked_at_once(self, model: DAMLPIPS, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            score_pairs(**{"model": model, "pairs": [], **options})

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_on_cuda(self, tmp_path: Path, model: DAMLPIPS) -> None:
        pairs = find_pairs(*image_folders(tmp_path, [(40, 48)] * 3))
        scores = [s.score for s in score_pairs(DAMLPIPS().to("cuda"), pairs, device="cuda")]
        assert scores == pytest.approx([score_of(model, p.reference, p.distorted) for p in pairs], rel=1e-3)
