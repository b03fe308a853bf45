"""Sums of scores without any rounding, so that they do not depend on the order, the batches or the processes.

A sum is a whole multiple of 2^-149, float32's smallest number, written in `LIMBS` digits of `BITS` bits. Each digit is
an int64 with room to grow, so that digits are added separately, without carrying, and integers give the same sum in any
order. A float32 score is represented exactly; a float64 score is rounded to a multiple of 2^-149, which changes only
scores below 2^-96.
"""

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

BITS = 24
LIMBS = 12

# A digit of one score is below 2^24 (the last, below 2^13, also carries the sign): 2^39 of them fit an int64.
MOST_SCORES = 2 ** (63 - BITS)

_SMALLEST = -149
# Beyond the range of float32; the last digit of anything smaller has room to spare.
LIMIT = 2.0**128


@lru_cache(maxsize=64)
def _scales(device: torch.device) -> Tensor:
    """Return 2^(-24 k) for every digit k, (LIMBS, 1); cached, since a copy to a device would wait for the device."""
    return torch.tensor([[2.0 ** (-BITS * k)] for k in range(LIMBS)], dtype=torch.float64, device=device)


def zero() -> Tensor:
    """Return an empty sum, int64 (LIMBS,)."""
    return torch.zeros(LIMBS, dtype=torch.int64, device="cpu")


def exact_sum(scores: Tensor) -> Tensor:
    """Return the sum of scores (N,) as digits, int64 (LIMBS,), on their device, without waiting for it.

    sum = 2^-149 * sum_k digit_k * 2^(24 k)

    Sums are added with `+`, exactly and in any order, up to `MOST_SCORES` scores in all.

    Args:
        scores: finite floats of magnitude below `LIMIT`.

    Reference:
        Kulisch, "Computer Arithmetic and Validity", 2013, ch. 8 (sums in fixed point over a format's whole range).
    """
    # Scaling by powers of two, floor and the difference of the two floors are exact in float64.
    units = torch.round(scores.double() * 2.0**-_SMALLEST)
    above = torch.floor(units * _scales(scores.device))
    digits = torch.cat([above[:-1] - above[1:] * 2.0**BITS, above[-1:]])
    return digits.to(torch.int64).sum(1)


def value(total: Tensor) -> Fraction:
    """Return the number that the digits of a sum represent. Waits for the device."""
    units = sum(digit << (BITS * k) for k, digit in enumerate(total.tolist()))
    return Fraction(units, 2**-_SMALLEST)


def rounded(number: Fraction) -> float:
    """Return the nearest float64, infinite beyond its range."""
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")
