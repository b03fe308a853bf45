"""What is learned, step by step, as Lightning's Trainer wants it."""

from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from damlpips.calibration.differences import dropped
from damlpips.calibration.ranking import KINDS
from damlpips.calibration.recipe import BETAS, Recipe

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
        self.heads = nn.Parameter(torch.cat(drawn))

    def distances(self, of: Any) -> tuple[Tensor, Tensor]:
        """Return the distances of the first and of the second pair of each choice of a batch, (n,) each."""
        raise NotImplementedError

    def on_train_epoch_start(self) -> None:
        (seed,) = np.random.SeedSequence([self.recipe.seed, self.current_epoch]).generate_state(1)
        self.generator = torch.Generator(self.device).manual_seed(int(seed))

    def training_step(self, batch: tuple[Any, ...], number: int) -> Tensor:
        of, share, votes, rows = batch
        loss = self.votes.loss(self.votes(*self.distances(of)), share, votes)
        if not bool(loss.isfinite()):
            named = ", ".join(map(str, rows[:MOST_ROWS].tolist())) + (", ..." if len(rows) > MOST_ROWS else "")
            raise FitError(
                f"epoch {self.current_epoch + 1}, batch {number + 1}: the loss is {loss.item()} (choices {named}): try"
                f" a lower learning rate than {self.recipe.learning_rate:g}"
            )
        self.log("loss", loss, prog_bar=True)
        return loss

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
