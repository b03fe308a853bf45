"""What a fit is asked for; the defaults are those of arXiv 1801.03924 and of the code released with it."""

import math
from dataclasses import dataclass

VARIANTS = ("lin", "tune", "scratch")
LOSSES = ("ranking", "likelihood")
# Lightning's, but for those of one vendor and 16-true, in which Adam divides by 0
PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed", "bf16-true")
DEFAULT_PRECISION = PRECISIONS[0]

# Adam, betas (0.5, 0.999), and one rate that falls linearly in the second half of ten epochs
LEARNING_RATE = 1e-4
BETAS = (0.5, 0.999)
EPOCHS, DECAY_EPOCHS = 5, 5
BATCH = 50
DROPOUT = 0.5
# of the contents; the paper holds whole sets out
HELD_OUT = 0.2
# a hundred images are in ten choices each
RATED_PAIRS = 500


@dataclass(frozen=True)
class Recipe:
    """What is learned, and how.

    Attributes:
        variant: `"lin"`: heads, on a network that stays as it is. `"tune"`: the network as well, from the weights that
            it has. `"scratch"`: the network as well, from weights at random: those that it is built with.
        loss: `"ranking"`, the published one: a small network, learned along with the heads, says from the two distances
            which share of observers chooses the second. `"likelihood"`: the binomial likelihood of the votes, without a
            network; a choice with more votes counts more.
        learning_rate: of Adam.
        epochs, decay_epochs: at the full rate, and with one that falls.
        batch: choices in a step.
        dropout: the share of a map's squared differences that is left out in training, 0 to 1, 1 excluded.
        held_out: the share of contents that nothing is learned from, between 0 and 1; of each set.
        rated_pairs: of ratings, the most choices that are made between the images of a content.
        swap: whether the two pairs of a choice change places half of the time, by chance: each is the first as often as
            the second, whatever the data say. The released code does not.
        seed: of the first heads and a network at random, the order of the choices, what is dropped and swapped, the
            contents held out, and the choices between rated images.

    Raises:
        ValueError: a value out of range.

    Reference:
        Zhang, Isola, Efros, Shechtman, Wang, arXiv 1801.03924 (ranking). Hepburn, Santos-Rodriguez, Portilla, arXiv
        2403.10390 (votes as binomial); Bradley, Terry, Biometrika 39, 1952 (their odds).
    """

    variant: str = "lin"
    loss: str = "ranking"
    learning_rate: float = LEARNING_RATE
    epochs: int = EPOCHS
    decay_epochs: int = DECAY_EPOCHS
    batch: int = BATCH
    dropout: float = DROPOUT
    held_out: float = HELD_OUT
    rated_pairs: int = RATED_PAIRS
    swap: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        expected = {
            "variant": (self.variant in VARIANTS, f"one of {', '.join(map(repr, VARIANTS))}"),
            "loss": (self.loss in LOSSES, f"one of {', '.join(map(repr, LOSSES))}"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
            "epochs": (self.epochs >= 0, "0 or more"),
            "decay_epochs": (self.decay_epochs >= 0 and self.epochs + self.decay_epochs > 0, "an epoch at least"),
            "batch": (self.batch >= 1, "1 or more"),
            "dropout": (0 <= self.dropout < 1, "a share from 0 to 1, 1 excluded"),
            "held_out": (0 < self.held_out < 1, "a share between 0 and 1"),
            "rated_pairs": (self.rated_pairs >= 1, "1 or more"),
            "swap": (isinstance(self.swap, bool), "True or False"),
            "seed": (0 <= self.seed < 1 << 32, "0 to 2^32 - 1"),
        }
        for name, (right, what) in expected.items():
            if not right:
                raise ValueError(f"{name}: expected {what}, got {getattr(self, name)!r}")

    @property
    def all_epochs(self) -> int:
        """The epochs at the full rate and those after them."""
        return self.epochs + self.decay_epochs

    def rate(self, epoch: int) -> float:
        """Return the share of the learning rate in an epoch, counted from 0.

        As in the released code the rate falls after each epoch of decay, so that the first of them has the full rate:
        1 - max(0, epoch - epochs) / decay_epochs.
        """
        return 1 - max(0, epoch - self.epochs) / self.decay_epochs if self.decay_epochs else 1.0
