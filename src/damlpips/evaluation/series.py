"""Columns of numbers that belong together row by row."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def series(**columns: ArrayLike) -> list[Floats]:
    """Return the columns as float64, each (n,); their names are for the errors.

    Raises:
        ValueError: a column that is not (n,), columns of unequal length, or a number that is NaN or infinite.
    """
    arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise ValueError(f"{name}: expected one number for each judgement, (n,), got {array.shape}")
        if not np.isfinite(array).all():
            row = int(np.argmin(np.isfinite(array)))
            bad = int((~np.isfinite(array)).sum())
            raise ValueError(f"{name}: expected finite numbers, got {array[row]} in row {row} ({bad} of {len(array)})")
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{len(array)} of {name}" for name, array in arrays.items())
        raise ValueError(f"expected as many numbers in each column, got {lengths}")
    return list(arrays.values())
