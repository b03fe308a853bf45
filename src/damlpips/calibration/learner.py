"""What is learned, step by step, as Lightning's Trainer wants it."""

from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from damlpips.calibration.differences import channels, dropped
from damlpips.calibration.images import Images
from damlpips.calibration.ranking import KINDS
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


class Learner(lightning.LightningModule):
    """Heads of all layers one behind the other, and what makes a share of votes of two distances.

    A batch is (what the distances are made of, share, votes, rows): see `distances`.
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
        return list(self.heads.detach().cpu().split(self.sizes))

    def network_state(self) -> dict[str, Tensor] | None:
        """Return the weights of the network as its files have them, on the CPU; None where it is not learned."""
        return None

    def distances(self, of: Any) -> tuple[Tensor, Tensor]:
        """Return the distances of the first and of the second pair of each choice of a batch, (n,) each."""
        raise NotImplementedError

    def on_train_epoch_start(self) -> None:
        (seed,) = np.random.SeedSequence([self.recipe.seed, self.current_epoch]).generate_state(1)
        self.generator = torch.Generator(self.device).manual_seed(int(seed))

    def training_step(self, batch: tuple[Any, ...] | ScoringError, number: int) -> Tensor:
        if isinstance(batch, ScoringError):  # of a process that reads
            raise batch
        of, share, votes, rows = batch
        d0, d1 = self.distances(of)
        if self.recipe.swap:
            d0, d1, share = self._swapped(d0, d1, share)
        loss = self.votes.loss(self.votes(d0, d1), share, votes)
        if not bool(loss.isfinite()):
            named = ", ".join(map(str, rows[:MOST_ROWS].tolist())) + (", ..." if len(rows) > MOST_ROWS else "")
            raise FitError(
                f"epoch {self.current_epoch + 1}, batch {number + 1}: the loss is {loss.item()} (choices {named}): try"
                f" a lower learning rate than {self.recipe.learning_rate:g}"
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def _swapped(self, d0: Tensor, d1: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances and shares with half of the choices the other way round."""
        other = torch.rand(len(share), generator=self.generator, device=share.device) < 0.5
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

    def distances(self, of: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        d0, d1 = (dropped(x[:, 0], x[:, 1], self.recipe.dropout, self.generator) @ self.heads for x in of)
        return d0, d1


class NetworkLearner(Learner):
    """Heads and a copy of the network: distances are made of images, as the metric makes them, but for dropout."""

    def __init__(self, metric: LPIPS, recipe: Recipe, fingerprint: str) -> None:
        super().__init__(channels(metric), recipe, fingerprint)
        self.network = metric.backbone.learnable()
        self.settings = metric.settings
        # its images go the same way as the metric's
        given = metric.encoder
        self.encoder = Encoder(
            Source(self.network), metric.settings, scaling=given.scaling, device=given.device, dtype=given.dtype
        )

    def network_state(self) -> dict[str, Tensor]:
        return self.network.table_state()

    def distances(self, of: Sequence[Images]) -> tuple[Tensor, Tensor]:
        found = torch.cat([self._of_size(images) for images in of])
        d0, d1 = found[torch.cat([images.places for images in of]).argsort()].chunk(2)
        return d0, d1

    def _of_size(self, images: Images) -> Tensor:
        """Return the distance of each pair: sum_lc w_lc mean_p m_lcp (a^_lcp - b^_lcp)^2, m = 1 without dropout."""
        pixels, size = inputs.alone(images.pixels, self.settings, self.encoder)
        layers = zip(self.encoder(pixels, size).features, self.heads.split(self.sizes), strict=True)
        return torch.stack([self._of_layer(distance.unit(m), images, w) for m, w in layers]).sum(0)

    def _of_layer(self, units: Tensor, images: Images, head: Tensor) -> Tensor:
        squared = (units[images.one] - units[images.other]).square()
        if share := self.recipe.dropout:
            kept = torch.empty_like(squared).bernoulli_(1 - share, generator=self.generator)
            squared = squared * kept.div_(1 - share)
        return squared.mean((2, 3)) @ head
