"""The bootstrap over photos: against closed forms, and in pairs."""

import numpy as np
import pytest

from benchmarks import bootstrap


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    value, low, high = bootstrap.mean(values)
    margin = 1.96 * values.std() / 400**0.5
    assert value == values.mean()
    assert low == pytest.approx(value - margin, abs=0.1 * margin)
    assert high == pytest.approx(value + margin, abs=0.1 * margin)


def test_a_pair_is_resampled_together():
    first = np.random.default_rng(2).uniform(1, 9, 50)
    gain = bootstrap.difference(first, first + 0.5)
    assert gain == pytest.approx((0.5, 0.5, 0.5))
    less = bootstrap.change(first, first * 0.8)  # apart, the photos' spread would show
    assert less == pytest.approx((-20, -20, -20))


def test_it_says_the_same_again_and_nothing_of_one_photo():
    values = np.random.default_rng(3).normal(size=40)
    assert bootstrap.mean(values) == bootstrap.mean(values)
    assert bootstrap.mean([2.5]) == (2.5, None, None)
    assert str(bootstrap.mean([2.5])) == "2.5" and str(bootstrap.mean([1, 1])) == "1 [1, 1]"
