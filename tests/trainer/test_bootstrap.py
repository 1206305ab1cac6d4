"""Intervals of a paired difference: against closed forms and SciPy's own bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats

from trainer.judge import bootstrap
from trainer.judge.bootstrap import FEWEST, RESAMPLES, paired_intervals, resampled_means


@pytest.fixture
def figures() -> tuple[np.ndarray, np.ndarray]:
    """PSNR of 200 photos: hard and easy ones, each gaining about 1 dB."""
    draw = np.random.default_rng(7)
    first = draw.normal(28, 4, 200)
    return first, first + draw.normal(1, 0.5, 200)


def test_the_mean_of_normals_has_the_interval_of_the_textbook(
    figures: tuple[np.ndarray, np.ndarray],
) -> None:
    gains = figures[1] - figures[0]
    half = 1.96 * gains.std() / math.sqrt(len(gains))  # not of the photos' own spread, 4 dB
    low, high = paired_intervals(*figures).difference
    assert low == pytest.approx(gains.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(gains.mean() + half, abs=0.05 * half)


@pytest.mark.parametrize(
    ("name", "statistic"),
    [
        ("difference", lambda a, b, axis: b.mean(axis) - a.mean(axis)),
        ("relative", lambda a, b, axis: b.mean(axis) / a.mean(axis) - 1),
    ],
)
def test_intervals_agree_with_scipy(
    figures: tuple[np.ndarray, np.ndarray], name: str, statistic: object
) -> None:
    expected = stats.bootstrap(
        figures, statistic, paired=True, vectorized=True, method="percentile",
        n_resamples=RESAMPLES, confidence_level=0.95, rng=np.random.default_rng(1), axis=0,
        batch=1000,
    ).confidence_interval  # fmt: skip
    found = getattr(paired_intervals(*figures), name)
    width = expected.high - expected.low
    assert found == pytest.approx([expected.low, expected.high], abs=0.03 * width)


def test_a_constant_change_is_certain() -> None:
    first = np.arange(8.0, 20.0)
    assert paired_intervals(first, first + 0.5).difference == pytest.approx((0.5, 0.5))
    assert paired_intervals(first, first * 0.8).relative == pytest.approx((-0.2, -0.2))


def test_of_few_photos_nothing_is_said() -> None:
    figures = [0.1 * i for i in range(1, FEWEST)]
    assert paired_intervals(figures, figures) == (None, None)
    assert paired_intervals([*figures, 1.0], [*figures, 1.0]).difference == (0.0, 0.0)


def test_there_is_no_share_of_nothing() -> None:
    found = paired_intervals([0.0] * 7 + [1.0], [1.0] * 8)
    assert found.relative is None and found.difference is not None


def test_the_same_photos_are_drawn_every_time_and_by_another_seed_others() -> None:
    draw = np.random.default_rng(0).normal(size=(2, 20))
    assert paired_intervals(*draw) == paired_intervals(*draw)
    assert paired_intervals(*draw) != paired_intervals(*draw, seed=1)


def test_draws_in_parts_are_the_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(2, 10))
    whole = resampled_means(values, 100, 0)
    monkeypatch.setattr(bootstrap, "AT_ONCE", 64)
    assert np.array_equal(resampled_means(values, 100, 0), whole)
    assert whole.shape == (2, 100)


def test_figures_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="as many figures of both, got 2 and 1"):
        paired_intervals([1.0, 2.0], [1.0])
