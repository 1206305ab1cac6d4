"""Paired bootstrap intervals of what a second model changes (Efron and Tibshirani, 1993).

Photos are drawn with replacement, each with the figures that both models have of it, so that what
makes a photo hard for either does not widen the interval. Percentile intervals; the same photos
are drawn for every figure that as many photos have.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
FEWEST = 8  # photos; of fewer an interval would say more than is known
AT_ONCE = 4_000_000  # draws held at a time, 32 MB
SETTINGS = {
    "resamples": RESAMPLES, "level": LEVEL, "seed": SEED, "over": "photos", "fewest": FEWEST,
}  # fmt: skip

Interval = tuple[float, float]


class Intervals(NamedTuple):
    """Where the mean difference second - first lies, and the same as a share of the first's mean.

    None under 8 photos; `relative` is None too where the first's mean may be 0.
    """

    difference: Interval | None
    relative: Interval | None


def paired_intervals(
    first: Sequence[float], second: Sequence[float], resamples: int = RESAMPLES, seed: int = SEED
) -> Intervals:
    """Return 95 % intervals of the change from `first` to `second`, one finite number a photo."""
    if len(first) != len(second):
        raise ValueError(f"Expected as many figures of both, got {len(first)} and {len(second)}.")
    if len(first) < FEWEST:
        return Intervals(None, None)
    means = resampled_means(np.array([first, second], np.float64), resamples, seed)
    differences = means[1] - means[0]
    nonzero = (means[0] > 0).all() or (means[0] < 0).all()
    return Intervals(_middle(differences), _middle(differences / means[0]) if nonzero else None)


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draw columns with replacement and average them: [K, n] -> [K, resamples].

    All rows get the same draws.
    """
    generator = torch.Generator().manual_seed(seed)
    count = values.shape[1]
    few = max(1, AT_ONCE // count)
    parts = []
    for start in range(0, resamples, few):
        size = min(few, resamples - start), count
        drawn = torch.randint(count, size, generator=generator).numpy()
        parts.append(np.stack([row[drawn].mean(axis=1) for row in values]))
    return np.concatenate(parts, axis=1)


def _middle(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
