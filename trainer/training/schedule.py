"""How far a run has come, and the learning rate that follows from it."""

import math

from trainer.options.config import TrainConfig


def progress(config: TrainConfig, step: int, elapsed: float) -> float:
    """Return the share of the run that lies behind, in [0, 1]: by steps or by minutes, the larger.

    `elapsed` is in seconds since the first step, scheduled evaluation included.
    """
    by_steps = step / config.max_steps
    by_time = elapsed / (60 * config.max_train_minutes) if config.max_train_minutes else 0.0
    return min(1.0, max(by_steps, by_time))


def learning_rate(config: TrainConfig, step: int, elapsed: float) -> float:
    """Return the learning rate of step `step` (counted from 0): warm-up times schedule."""
    warm_up = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * warm_up * _decay(config, progress(config, step, elapsed))


def _decay(config: TrainConfig, done: float) -> float:
    if config.lr_schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - done if config.lr_schedule == "linear" else 1.0


def seconds_left(config: TrainConfig, first: tuple[int, float], step: int, elapsed: float) -> float:
    """Estimate the seconds to the end from the pace since `first`, a (step, elapsed) pair."""
    pace = (elapsed - first[1]) / max(1, step - first[0])
    by_steps = (config.max_steps - step) * pace
    if not config.max_train_minutes:
        return by_steps
    return max(0.0, min(by_steps, 60 * config.max_train_minutes - elapsed))
