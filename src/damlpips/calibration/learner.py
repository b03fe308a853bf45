"""What is learned, step by step, as Lightning's Trainer wants it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from damlpips.calibration.differences import channels, dropped
from damlpips.calibration.images import Images
from damlpips.calibration.ranking import KINDS, loss
from damlpips.calibration.recipe import BETAS, Recipe
from damlpips.models import inputs
from damlpips.models.encoder import Encoder
from damlpips.models.lpips import LPIPS
from damlpips.nets.shared import Source
from damlpips.ops import distance
from damlpips.scoring.images import ScoringError

# rows that an error names
MOST_ROWS = 8


class FitError(ValueError):
    """A fit that cannot go on; the message names the batch, or the file."""


class Part(NamedTuple):
    """A process's part of a batch: the rows of the whole, which of them are its own, and how many parts it has."""

    rows: Any
    own: slice
    parts: int

    @classmethod
    def of(cls, rows: Any, rank: int, world: int) -> "Part":
        """Return every `world`-th row from `rank` on; of fewer rows than processes, each has all."""
        return cls(rows, slice(rank, None, world), world) if len(rows) >= world else cls(rows, slice(None), 1)


class Learner(lightning.LightningModule):
    """Heads of all layers one behind the other, and what makes a share of votes of two distances.

    A batch is (what the distances are made of, share, votes, part): see `distances`. Shares and votes are of all
    choices of the batch, the distances of the process's own.
    """

    heads: Tensor

    def __init__(self, sizes: Sequence[int], recipe: Recipe, fingerprint: str) -> None:
        super().__init__()
        self.recipe, self.fingerprint = recipe, fingerprint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            # as those of a 1 x 1 convolution, and never below 0
            drawn = [torch.empty(c).uniform_(-(c**-0.5), c**-0.5).clamp_(min=0) for c in sizes]
            self.votes = KINDS[recipe.loss]()
        self.heads, self.sizes = nn.Parameter(torch.cat(drawn)), list(sizes)

    def each_head(self) -> list[Tensor]:
        """Return the heads of each layer on the CPU, (C_l,)."""
        return list(self.heads.detach().cpu().float().split(self.sizes))

    def network_state(self) -> dict[str, Tensor] | None:
        """Return the weights of the network as its files have them, on the CPU; None where it is not learned."""
        return None

    def distances(self, of: Any, part: Part) -> tuple[Tensor, Tensor]:
        """Return the distances of the first and of the second pair of each own choice of a batch, (n,) each."""
        raise NotImplementedError

    def on_train_epoch_start(self) -> None:
        self.generator = self._drawn_by()

    def _drawn_by(self, *of: int) -> torch.Generator:
        (seed,) = np.random.SeedSequence([self.recipe.seed, self.current_epoch, *of]).generate_state(1)
        return torch.Generator(self.device).manual_seed(int(seed))

    def training_step(self, batch: tuple[Any, ...] | ScoringError, number: int) -> Tensor:
        if isinstance(batch, ScoringError):  # of a process that reads
            raise batch
        of, share, votes, part = batch
        weight = self.votes.weight(votes)
        d0, d1 = self.distances(of, part)
        share = share[part.own]
        if self.recipe.swap:
            d0, d1, share = self._swapped(d0, d1, share, part)
        each = loss(self.votes(d0, d1), share, weight[part.own])
        # gradients are the mean over the processes: that of the mean over the whole batch, however it is divided
        of_part = each.sum() / weight.sum() * part.parts
        whole = self.trainer.strategy.reduce(of_part.detach(), reduce_op="mean")
        if not bool(whole.isfinite()):
            rows = part.rows.tolist()
            named = ", ".join(map(str, rows[:MOST_ROWS])) + (", ..." if len(rows) > MOST_ROWS else "")
            raise FitError(
                f"epoch {self.current_epoch + 1}, batch {number + 1}: the loss is {whole.item()} (choices {named}): try"
                f" a lower learning rate than {self.recipe.learning_rate:g}"
            )
        self.log("loss", whole, prog_bar=True)
        return of_part

    def _swapped(self, d0: Tensor, d1: Tensor, share: Tensor, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances and shares with half of the choices the other way round."""
        other = torch.rand(len(part.rows), generator=self.generator, device=share.device)[part.own] < 0.5
        return torch.where(other, d1, d0), torch.where(other, d0, d1), torch.where(other, 1 - share, share)

    def on_train_batch_end(self, *_: Any) -> None:
        # a head below 0 would reward differences
        with torch.no_grad():
            self.heads.clamp_(min=0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.recipe.learning_rate, betas=BETAS)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, self.recipe.rate)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fingerprint"] = self.fingerprint


class HeadLearner(Learner):
    """Heads alone: distances are made of the means of both pairs' squared differences and their noise, (n, 2, c)."""

    def distances(self, of: tuple[Tensor, Tensor], part: Part) -> tuple[Tensor, Tensor]:
        d0, d1 = (self._dropped(x, part) @ self.heads for x in of)
        return d0, d1

    def _dropped(self, x: Tensor, part: Part) -> Tensor:
        if not self.recipe.dropout:
            return x[:, 0]
        # drawn for the whole batch, whatever the precision: the numbers of a choice are the same in any process
        shape = (len(part.rows), x.shape[2])
        normal = torch.randn(shape, generator=self.generator, device=x.device, dtype=torch.float32)
        return dropped(x[:, 0], x[:, 1], self.recipe.dropout, normal[part.own].to(x.dtype))


class NetworkLearner(Learner):
    """Heads and a copy of the network: distances are made of images, as the metric makes them, but for dropout."""

    def __init__(self, metric: LPIPS, recipe: Recipe, fingerprint: str) -> None:
        super().__init__(channels(metric), recipe, fingerprint)
        self.network = metric.backbone.learnable()
        self.settings, self.scaling = metric.settings, metric.encoder.scaling

    @property
    def encoder(self) -> Encoder:
        """The metric's way from images to maps, through the network that is learned, wherever Lightning has put it."""
        network = self.network
        return Encoder(Source(network), self.settings, scaling=self.scaling, device=network.device, dtype=network.dtype)

    def network_state(self) -> dict[str, Tensor]:
        return self.network.table_state()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        # what is dropped differs between processes: the maps of a whole batch are too many numbers to draw in each
        self.masks = self._drawn_by(1 + self.global_rank)

    def distances(self, of: Sequence[Images], _part: Part) -> tuple[Tensor, Tensor]:
        found = torch.cat([self._of_size(images) for images in of])
        d0, d1 = found[torch.cat([images.places for images in of]).argsort()].chunk(2)
        return d0, d1

    def _of_size(self, images: Images) -> Tensor:
        """Return the distance of each pair: sum_lc w_lc mean_p m_lcp (a^_lcp - b^_lcp)^2, m = 1 without dropout."""
        encoder = self.encoder
        pixels, size = inputs.alone(images.pixels, self.settings, encoder)
        layers = zip(encoder(pixels, size).features, self.heads.split(self.sizes), strict=True)
        return torch.stack([self._of_layer(distance.unit(m), images, w) for m, w in layers]).sum(0)

    def _of_layer(self, units: Tensor, images: Images, head: Tensor) -> Tensor:
        squared = (units[images.one] - units[images.other]).square()
        if share := self.recipe.dropout:
            kept = torch.empty_like(squared).bernoulli_(1 - share, generator=self.masks)
            squared = squared * kept.div_(1 - share)
        return squared.mean((2, 3)) @ head
