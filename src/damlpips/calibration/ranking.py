"""From the distances of two pairs to the share of observers that is expected to choose the second."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# keeps quotients of distances finite
EPS = 0.1
HIDDEN = 32
SLOPE = 0.2
# the least distance that the likelihood tells from none
FLOOR = 1e-6


class Ranking(nn.Module):
    """The published network: two hidden layers on (d0, d1, d0 - d1, d0 / (d1 + 0.1), d1 / (d0 + 0.1)).

    Its loss is the cross-entropy of the share of votes. It is not symmetric by construction: that swapping the images
    gives one minus the share is learned, as far as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(5, HIDDEN), nn.LeakyReLU(SLOPE)),
            *(nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(SLOPE)),
            nn.Linear(HIDDEN, 1),
        )

    def forward(self, d0: Float[Tensor, " n"], d1: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the logit of the share that chooses the second."""
        return self.layers(torch.stack([d0, d1, d0 - d1, d0 / (d1 + EPS), d1 / (d0 + EPS)], 1))[:, 0]

    def weight(self, votes: Tensor) -> Tensor:
        """Return how much each choice counts: all the same."""
        return torch.ones_like(votes)


class Likelihood(nn.Module):
    """Votes as binomial, with the odds of Bradley and Terry: p / (1 - p) = (d0 / d1)^k, and k is learned.

    Swapping the images gives 1 - p, and the scale of the distances does not matter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_exponent = nn.Parameter(torch.zeros(()))

    def forward(self, d0: Float[Tensor, " n"], d1: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the logit of the share that chooses the second."""
        return self.log_exponent.exp() * ((d0 + FLOOR).log() - (d1 + FLOOR).log())

    def weight(self, votes: Tensor) -> Tensor:
        """Return how much each choice counts: its votes, which makes the loss the negative log-likelihood a vote."""
        return votes


KINDS: dict[str, type[Ranking] | type[Likelihood]] = {"ranking": Ranking, "likelihood": Likelihood}


def loss(logit: Tensor, share: Tensor, weight: Tensor) -> Tensor:
    """Return the cross-entropy of each choice's share and its logit, times the weight, (n,)."""
    return F.binary_cross_entropy_with_logits(logit, share, weight=weight, reduction="none")
