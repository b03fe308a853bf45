"""A real Lightning Trainer, on one process and with DDP on two."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")

from tests.distributed.lightning_validation import N, Restorer, images, validate

SCRIPT = Path(__file__).with_name("lightning_validation.py")


def expected(metric: str) -> torch.Tensor:
    """The value of each image once, without Lightning."""
    x, y = images(N)
    model = Restorer()
    alone = getattr(model, metric)
    alone.update(model.network(x).sigmoid(), y)
    return alone.compute()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they got."""
    folder = tmp_path_factory.mktemp("lightning")
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "2", str(folder)], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def outcome(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_one_process_logs_the_value(tmp_path: Path) -> None:
    logged = validate(1, Restorer())
    for name in ("plain", "indexed"):
        assert torch.equal(logged[name], expected(name))
    assert torch.equal(logged["stepped_epoch"], expected("stepped"))


def test_ddp_logs_the_value_of_one_process(outcome: list[dict[str, Any]]) -> None:
    for results in outcome:
        for run in ("without", "with"):
            assert torch.equal(results[run]["indexed"], expected("indexed"))
            assert torch.equal(results[run]["stepped_epoch"], expected("stepped"))
            # nine images on two processes: Lightning's sampler repeats one
            assert results[run]["plain"] != expected("plain")
            assert torch.equal(results[run]["plain"], outcome[0]["with"]["plain"])


def test_ddp_resumes_from_a_checkpoint_taken_in_mid_validation(outcome: list[dict[str, Any]]) -> None:
    for results in outcome:
        assert torch.equal(results["resumed"]["indexed"], expected("indexed"))
        assert torch.equal(results["resumed"]["stepped_epoch"], expected("stepped"))


def test_one_process_goes_on_with_what_two_have_saved(outcome: list[dict[str, Any]], folder: Path) -> None:
    assert torch.equal(validate(1, Restorer(), folder / "with.ckpt")["indexed"], expected("indexed"))
    # without indices: the images that were missing, and no other
    model = Restorer()
    model.load_state_dict(torch.load(folder / "with.ckpt")["state_dict"])
    assert sorted(model.indexed.store.kept()[1].tolist()) == list(range(N - 1))
    x, y = images(N)
    model.plain.update(model.network(x[N - 1 :]).sigmoid(), y[N - 1 :])
    assert torch.equal(model.plain.compute(), expected("plain"))


def test_a_checkpoint_holds_no_byte_of_the_metrics_without_persistent(folder: Path, outcome: Any) -> None:
    without, with_states = (torch.load(folder / f"{name}.ckpt") for name in ("without", "with"))
    assert without["state_dict"].keys() == {"network.weight", "network.bias"}
    assert b"damlpips" not in (folder / "without.ckpt").read_bytes()
    extra = with_states["state_dict"].keys() - without["state_dict"].keys()
    assert {name.split(".")[0] for name in extra} == {"plain", "indexed", "stepped"}
    # the states alone, and no backbone
    assert (folder / "with.ckpt").stat().st_size - (folder / "without.ckpt").stat().st_size < 20_000
