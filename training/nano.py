"""Train the backbone `nano` to find pictures as far apart as the teachers' networks do, without human judgements.

    make train-nano          the whole recipe: makes the pairs, trains, writes build/nano/trained.safetensors
    make train-nano-smoke    a minute of it

Both go on where they were stopped.
"""

import argparse
import hashlib
import json
import math
import operator
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from damlpips.models.version2 import NETWORK_TEXTURE
from damlpips.nets.nano import STEM_CHANNELS, Nano
from damlpips.nets.table import IMAGENET
from training import pairs

# Errors are relative, below this distance absolute: two pictures so close can hardly be told apart.
VISIBLE = 0.025
# The shards that are not learned from.
HELD_OUT = range(1)


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its pairs."""

    steps: int = 4800
    batch: int = 16
    rate: float = 3e-3
    warm_up: int = 100
    decay: float = 1e-4
    average: float = 0.998
    places_weight: float = 0.5
    order_weight: float = 1.0
    seed: int = 0


class LowPassed(nn.Module):
    """Average kernels of 4 x 4 over 2 x 2: a convolution with the result and a stride samples what was low-passed."""

    def forward(self, kernels: Tensor) -> Tensor:
        return F.avg_pool2d(kernels, 2, stride=1, padding=1)

    def right_inverse(self, kernels: Tensor) -> Tensor:
        return kernels[:, :, 1:, 1:].clone()


def student(seed: int) -> Nano:
    """Return the network to train, initialised as He et al. do; its first kernels are averaged once, not twice."""
    torch.manual_seed(seed)
    network = Nano()
    network.stem, network.margin = nn.Conv2d(3, STEM_CHANNELS, 5, stride=2), (2, 2, 2, 2)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    parametrize.register_parametrization(network.stem, "weight", LowPassed(), unsafe=True)
    return network.to(memory_format=torch.channels_last)


def errors(network: nn.Module, batch: dict[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """Return the parts of the loss: relative errors of distances and of their maps, and rungs in the wrong order."""
    x = batch["images"].flatten(0, 1).float() / 255
    x = (x - x.new_tensor(IMAGENET.mean)[:, None, None]) / x.new_tensor(IMAGENET.std)[:, None, None]
    # on a CPU the backward pass of so small a network takes longer in bfloat16
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
        features = network(x.contiguous(memory_format=torch.channels_last))
    found = pairs.network_terms(features)
    parts = {key: _relative(found[key], batch[key]) for key in ("structure", "texture", "places")}
    parts["places"] = settings.places_weight * parts["places"]
    parts["order"] = settings.order_weight * _disorder(mixed(found), mixed(batch))
    return parts


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    return ((found - wanted).abs() / (wanted + VISIBLE)).mean()


def mixed(terms: dict[str, Tensor]) -> Tensor:
    """Return the network's part of the distances, of structure and texture."""
    return (1 - NETWORK_TEXTURE) * terms["structure"] + NETWORK_TEXTURE * terms["texture"]


def _disorder(found: Tensor, wanted: Tensor) -> Tensor:
    """Return how far the steps of the ladders fall short of half of the teachers' steps, in logarithms."""
    log_found, log_wanted = ((d[:, pairs.RUNGS_OF] + VISIBLE).log() for d in (found, wanted))
    return (log_wanted.diff(dim=2) / 2 - log_found.diff(dim=2)).clamp(min=0).mean()


def batches(data: dict[str, Tensor], settings: Settings, start: int) -> Iterator[dict[str, Tensor]]:
    """Return the batches from step `start` on, reshuffled in each pass."""
    count = len(data["images"])
    a_pass = count // settings.batch
    if a_pass == 0:
        raise SystemExit(f"{count} items are fewer than a batch of {settings.batch}")
    for step in range(start, settings.steps):
        number, k = divmod(step, a_pass)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed + number))
        chosen = order[k * settings.batch : (k + 1) * settings.batch]
        batch = {key: values[chosen] for key, values in data.items()}
        if number % 2:  # mirrored in every second pass
            batch = {**batch, "images": batch["images"].flip(-1), "places": batch["places"].flip(-1)}
        yield batch


def rate_at(step: int, settings: Settings) -> float:
    """Return the learning rate: a linear rise, then a cosine decay."""
    done = step / settings.steps
    return settings.rate * min(1.0, (step + 1) / settings.warm_up) * 0.5 * (1 + math.cos(math.pi * done))


def fit(
    data: dict[str, Tensor],
    held_out: dict[str, Tensor],
    settings: Settings,
    folder: Path,
    *,
    device: torch.device,
    save_every: float = 60,
) -> Nano:
    """Train, or continue training, and return the average of the weights over the last steps.

    Args:
        folder: of `state.pt`, from which it goes on, and `log.jsonl`.
        save_every: seconds between two saved states.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_file, log_file = folder / "state.pt", folder / "log.jsonl"
    network = student(settings.seed).to(device)
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.average)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.decay)
    step = 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["settings"] != asdict(settings):
            raise SystemExit(f"{state_file}: was begun with other settings: finish it with those, or delete {folder}")
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]

    def save() -> None:
        state = {"network": network.state_dict(), "averaged": averaged.state_dict(), "step": step}
        torch.save(
            {**state, "optimizer": optimizer.state_dict(), "settings": asdict(settings)}, f"{state_file}.partial"
        )
        Path(f"{state_file}.partial").rename(state_file)

    saved = time.monotonic()
    every = max(1, settings.steps // 200)
    with Progress(console=Console(stderr=True)) as progress, log_file.open("a") as log:
        task = progress.add_task("training", total=settings.steps, completed=step)
        for batch in batches(data, settings, step):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, settings)
            parts = errors(network, {key: v.to(device) for key, v in batch.items()}, settings)
            loss = torch.stack(list(parts.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            averaged.update_parameters(network)
            step += 1
            if step % every == 0 or step == settings.steps:
                shown = {"step": step, **{key: float(v.detach()) for key, v in {"loss": loss, **parts}.items()}}
                if step % (20 * every) == 0 or step == settings.steps:
                    shown["held_out"] = held_out_error(averaged.module, held_out, settings, device)
                log.write(json.dumps(shown) + "\n")
                log.flush()
                progress.update(task, completed=step, description=f"training, loss {shown['loss']:.3f}")
            if time.monotonic() - saved >= save_every or step == settings.steps:
                save()
                saved = time.monotonic()
    return averaged.module


@torch.inference_mode()
def held_out_error(network: nn.Module, data: dict[str, Tensor], settings: Settings, device: torch.device) -> float:
    """Return the loss on the items held out."""
    found = []
    for k in range(0, len(data["images"]), settings.batch):
        batch = {key: values[k : k + settings.batch].to(device) for key, values in data.items()}
        found.append(float(sum(errors(network, batch, settings).values())))
    return math.fsum(found) / len(found)


def weights_of(network: Nano) -> dict[str, Tensor]:
    """Return what the package stores, in half precision: the stem's kernels averaged over 2 x 2 for the second time.

    What it then sees of the frequencies that sampling folds is less than it was trained with; shifts by an odd number
    of pixels look more like those by an even number.
    """
    plain = Nano()
    for name, parameter in plain.named_parameters():
        parameter.data = operator.attrgetter(name)(network).detach().cpu()
    plain.stem.weight.data = LowPassed()(plain.stem.weight)
    return {name: value.contiguous().half() for name, value in plain.state_dict().items()}


def load(recipe: pairs.Recipe, shards: range) -> dict[str, Tensor]:
    """Return the items of some shards."""
    loaded = [torch.load(recipe.file(shard), weights_only=True, mmap=True) for shard in shards]
    return {key: torch.cat([shard[key] for shard in loaded]) for key in loaded[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/nano/trained.safetensors"))
    parser.add_argument("--work", type=Path, default=Path("build/nano"), help="pairs, state and log go here")
    parser.add_argument("--shards", type=int, default=24, help="to learn from; one more is held out")
    parser.add_argument("--items", type=int, default=pairs.ITEMS, help="of a shard")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--batch", type=int, default=Settings.batch, help="items")
    parser.add_argument("--teachers", nargs="+", default=list(pairs.TEACHERS), help="backbones to learn from")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=60, help="seconds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    settings = Settings(steps=options.steps, batch=options.batch, seed=options.seed)
    photographs = pairs.photographs_in(options.photographs)
    recipe = pairs.Recipe(photographs, options.work, options.seed, options.items, tuple(options.teachers))
    pairs.make(recipe, range(options.shards + 1), processes=options.processes)
    network = fit(
        load(recipe, range(1, options.shards + 1)),
        load(recipe, HELD_OUT),
        settings,
        options.work,
        device=torch.device(options.device),
        save_every=options.save_every,
    )
    save_file(weights_of(network), options.out)
    options.out.chmod(0o644)  # safetensors makes it readable by its owner only
    print(f"DAMLPIPS(weights={str(options.out)!r}), SHA-256 {hashlib.sha256(options.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
