"""A loss inside a model that is wrapped for several processes: nothing of it is broadcast, averaged or sharded."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric
from tests.support.processes import images, run

WORLD = 2


class Restorer(nn.Module):
    """A network with its loss, as people write it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Conv2d(3, 3, 3, padding=1)
        self.damlpips = DAMLPIPS(reduction="mean")
        self.lpips = LPIPS("nano", heads="uniform", reduction="mean")
        self.metric = DAMLPIPSMetric()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        restored = self.network(x).sigmoid()
        self.metric.update(restored.detach(), y)
        return self.damlpips(restored, y) + self.lpips(restored, y)


def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(x, y)
    loss.backward()
    optimizer.step()
    return loss.item()


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def train(model: nn.Module, rank: int) -> dict[str, Any]:
    x, y = images(4)
    mine = slice(2 * rank, 2 * rank + 2)
    step(model, x[mine], y[mine])
    module = model.module if isinstance(model, DistributedDataParallel) else model
    return {
        "parameters": {name.removeprefix("module."): plain(p).detach() for name, p in model.named_parameters()},
        "buffers": list(dict(model.named_buffers())),
        "metric": module.metric.compute(),
    }


def wrapped(rank: int, world: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (world,))
    return {
        "ddp": train(DistributedDataParallel(Restorer()), rank),
        "fsdp": train(fully_shard(Restorer(), mesh=mesh), rank),
    }


@pytest.fixture(scope="module")
def outcome() -> list[dict[str, Any]]:
    return run(WORLD, wrapped)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_wrapped_model_trains_as_in_one_process(outcome: list[dict[str, Any]], how: str) -> None:
    alone = Restorer()
    x, y = images(4)
    step(alone, x, y)
    for results in outcome:
        assert results[how]["parameters"].keys() == {"network.weight", "network.bias"}
        assert results[how]["buffers"] == []
        for name, parameter in alone.named_parameters():
            # the mean of two means is rounded otherwise than the mean of four
            torch.testing.assert_close(results[how]["parameters"][name], parameter.detach(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(results[how]["metric"], alone.metric.compute(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [DAMLPIPS, lambda: LPIPS("nano", heads="uniform"), DAMLPIPSMetric])
def test_nothing_is_registered(make: Any) -> None:
    module = make()
    assert list(module.parameters()) == []
    assert list(module.buffers()) == []
    assert module.state_dict() == {}
