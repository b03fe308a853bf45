"""What nano learns from: distortions that grow, images made on the fly, pairs that come out the same again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from damlpips import DAMLPIPS
from damlpips.scoring.images import read_image
from training import pairs
from training.distortions import DISTORTIONS, distort
from training.procedural import PROCEDURAL

DEMO = Path(__file__).parents[2] / "docs" / "demo"


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    return read_image(DEMO / "landscape.png")[:, :96, :96].float() / 255


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> pairs.Recipe:
    folder = tmp_path_factory.mktemp("pairs")
    return pairs.Recipe(pairs.photographs_in(DEMO), folder, seed=3, items=2, teachers=("nano",))


@pytest.mark.parametrize("name", DISTORTIONS)
class TestDistortion:
    def test_grows_with_its_strength(self, name: str, photograph: torch.Tensor) -> None:
        images = torch.stack([distort(name, photograph, strength, 7) for strength in (0.0, 0.35, 0.7, 1.0)])
        error = (images - photograph).square().mean((1, 2, 3))
        assert images.shape[1:] == photograph.shape
        assert (images >= 0).all()
        assert (images <= 1).all()
        # blocks may be moved back over one another: not strictly at every step
        assert error[0] < error[1] < error[3]
        assert error[0] < error[2]

    def test_is_drawn_from_its_seed_alone(self, name: str, photograph: torch.Tensor) -> None:
        once = distort(name, photograph, 0.5, 1)
        torch.rand(3)
        assert torch.equal(once, distort(name, photograph, 0.5, 1))


@pytest.mark.parametrize("make", PROCEDURAL)
def test_procedural_images_differ_and_can_be_made_again(make) -> None:
    first, second = (make(48, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert first.shape == (3, 48, 48)
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.std() > 0.01
    assert not torch.equal(first, second)
    assert torch.equal(first, make(48, torch.Generator().manual_seed(0)))


def test_shards_come_out_the_same_and_are_made_once(recipe: pairs.Recipe, tmp_path: Path) -> None:
    pairs.make(recipe, range(2), processes=2)
    written = [recipe.file(shard).stat().st_mtime_ns for shard in range(2)]
    again = replace(recipe, folder=tmp_path)
    pairs.make(again, [1], processes=1)
    here, there = (torch.load(r.file(1), weights_only=True) for r in (recipe, again))
    assert here.keys() == there.keys() == {"images", "structure", "texture", "places"}
    assert all(torch.equal(here[key], there[key]) for key in here)
    pairs.make(recipe, range(2), processes=1)
    assert [recipe.file(shard).stat().st_mtime_ns for shard in range(2)] == written
    assert not list(recipe.folder.glob("*.partial"))


def test_shards_of_other_recipes_have_other_names(recipe: pairs.Recipe) -> None:
    changes = {"seed": 4, "items": 5, "teachers": ("alex",), "photographs": recipe.photographs[:1]}
    others = [replace(recipe, **{name: value}) for name, value in changes.items()]
    assert len({r.file(0) for r in [recipe, *others]}) == 5


def test_targets_are_what_damlpips_adds_for_its_network() -> None:
    """Structure and texture, mixed and weighted, are the network's share of the score."""
    metric = DAMLPIPS(viewing_side=None, align=False)
    images = torch.rand(pairs.IMAGES, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[1:] = (0.7 * images[:1] + 0.3 * images[1:]).clamp(0, 1)
    found = pairs.targets([metric], images)
    network = metric.per_layer(images[pairs.FIRST], images[pairs.SECOND])[:, 1:-1].sum(1)
    torch.testing.assert_close(
        0.55 * (0.9 * found["structure"] + 0.1 * found["texture"]), network, rtol=1e-5, atol=1e-7
    )
    assert found["places"].shape == (pairs.PAIRS, pairs.GRID, pairs.GRID)


def test_an_item_has_pairs_in_place_and_a_motion_that_is_aligned(recipe: pairs.Recipe) -> None:
    images = pairs.pictures(recipe, torch.Generator().manual_seed(2))
    assert images.shape == (pairs.IMAGES, 3, pairs.SIDE, pairs.SIDE)
    assert sorted({*pairs.FIRST, *pairs.SECOND}) == list(range(pairs.IMAGES))
    assert len(pairs.FIRST) == len(pairs.SECOND) == pairs.PAIRS
    assert pairs.FIRST[: pairs.IN_PLACE] == [0] * pairs.IN_PLACE
    moved = slice(pairs.IN_PLACE, None)
    assert all(b == a + 1 for a, b in zip(pairs.FIRST[moved], pairs.SECOND[moved], strict=True))
    # the rungs of the motion are nearer to each other than their images are to where they came from
    apart = (images[pairs.SECOND[moved]] - images[pairs.FIRST[moved]]).square().mean((1, 2, 3))
    away = (images[pairs.SECOND[moved]] - images[0]).square().mean((1, 2, 3))
    assert (apart <= away + 1e-6).all()


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no images"):
        pairs.photographs_in(tmp_path)
