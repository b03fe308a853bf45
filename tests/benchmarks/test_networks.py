"""The comparison of networks: those that have learned nothing, and the table of all on a tiny set."""

from pathlib import Path

import pytest
import torch

from benchmarks import networks, random_networks
from damlpips.evaluation.named import UnavailableMetricError, build
from tests.support.pictures import image_file

BACKBONE = """
import torch
from damlpips import Backbone
def ours():
    return Backbone(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), taps=["1"], min_size=3)
"""


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Choices about two contents, for which 2AFC is defined."""
    for k in range(6):
        image_file(tmp_path / f"{k}.png", k, (64, 64))
    (tmp_path / "pairs.csv").write_text("ref,a,b,votes_a,votes_b\n0.png,1.png,2.png,3,1\n3.png,4.png,5.png,0,4\n")
    return tmp_path / "pairs.csv"


def test_the_same_draw_each_time_and_the_callers_generator_is_left_alone() -> None:
    x, y = torch.rand(2, 1, 3, 64, 64)
    state = torch.get_rng_state()
    first, again, other = (random_networks.on_random("squeeze", variance=2.0, seed=s)(x, y) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["alex", "squeeze"])
def test_without_biases_the_variance_does_not_matter(name: str) -> None:
    x, y = torch.rand(2, 1, 3, 64, 64)
    # not by a power of 4, which would round nothing anew: float32 rounds the maps at each scale
    small, large = (random_networks.on_random(name, variance=v)(x, y) for v in (2.0, 6.0))
    assert torch.allclose(small, large, rtol=1e-4)
    assert not torch.allclose(small, random_networks.on_random(name)(x, y), rtol=1e-4)


def test_the_variance_is_the_one_stated() -> None:
    network = random_networks.on_random("alex", variance=2.0).backbone.network
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 5
    for m in convolutions:
        # of at least 23,000 numbers: a standard error below 1 %
        assert float(m.weight.var()) * m.weight[0].numel() == pytest.approx(2.0, rel=0.05)
        assert not m.bias.any()


def test_every_row_can_be_built_or_says_what_is_missing() -> None:
    assert len({row.label for row in networks.ROWS}) == len(networks.ROWS)
    for row in networks.ROWS:
        if row.kind.startswith("supervised"):
            with pytest.raises(UnavailableMetricError, match=f"lpips-{row.network}"):
                build(row.name)
        else:
            assert build(row.name).name == row.name


def test_the_table(judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(BACKBONE)
    name = f"{tmp_path / 'own.py'}:ours"
    csv = tmp_path / "figures.csv"
    options = ["--without", "vgg", "--network", name, "--samples", "5", "--csv", csv, "--cache", tmp_path / "cache"]
    assert networks.main([str(option) for option in (judged, *options)]) == networks.INCOMPLETE
    out, err = capsys.readouterr()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert lines[0] == ["learned from", "metric", "pairs (2AFC)"]
    of_random = [row for row in networks.ROWS if row.kind == "random" and row.network != "vgg"]
    shown = [row for row in networks.ROWS if row.kind in ("low-level", "taught by metrics")] + of_random
    assert {tuple(line[:2]) for line in lines[2:]} == {
        *((row.kind, row.label) for row in shown),
        ("given", name),
        ("people", "one observer"),
        ("people", "most observers"),
    }
    # no weights in a test: the rows that need them are named, not dropped
    missing = [line for line in err.splitlines() if line.startswith("left out: lpips-")]
    assert len(missing) == 4
    assert len(csv.read_text().splitlines()) == 1 + len(shown) + 1


def test_what_is_no_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        networks.main([str(tmp_path / "nothing"), "--without", "vgg", "--without", "alex", "--without", "squeeze"])
    assert stopped.value.code == 2
    assert "nothing" in capsys.readouterr().err
