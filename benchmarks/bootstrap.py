"""How sure a mean over photos is, in tables: the report's own paired bootstrap.

An interval is the middle 95 % of 10,000 resamples. A pair is a photo measured twice: the lists'
orders must agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainer.judge.bootstrap import RESAMPLES, SEED, resampled_means

TAILS = (2.5, 97.5)  # percent


class Estimate(NamedTuple):
    """A figure over all photos, and the interval that it lies in; JSON has it as a list.

    One photo tells nothing of others: it has no interval.
    """

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean(values: Sequence[float]) -> Estimate:
    """Estimate a mean."""
    return _estimate(np.asarray(values, float).mean(), _resampled(values), len(values))


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Estimate by how much the second's mean is above the first's, photo by photo."""
    return mean(np.subtract(second, first))


def change(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Estimate the second's mean as a change of the first's, in percent: -20 is a fifth less."""
    whole, resampled = np.mean(second) / np.mean(first), _resampled(second) / _resampled(first)
    return _estimate(100 * (whole - 1), 100 * (resampled - 1), len(first))


def _resampled(values: Sequence[float]) -> np.ndarray:
    """Return the means of resamples; those of two lists of one length are of the same photos."""
    return resampled_means(np.asarray([values], float), RESAMPLES, SEED)[0]


def _estimate(value: float, resampled: np.ndarray, photos: int) -> Estimate:
    if photos == 1:
        return Estimate(float(value), None, None)
    return Estimate(float(value), *map(float, np.percentile(resampled, TAILS)))
