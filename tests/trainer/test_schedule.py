"""The learning rate follows steps or minutes, whichever runs out first."""

import math

import pytest

from trainer.options.config import TrainConfig
from trainer.training.schedule import learning_rate, progress, seconds_left


def config(**options) -> TrainConfig:
    given = {"vae": "x", "data": "x", "output": "x", "max_steps": 100, "learning_rate": 1.0}
    return TrainConfig(**given | {"warmup_steps": 0} | options)


def test_cosine_against_its_formula():
    for step in range(101):
        expected = (1 + math.cos(math.pi * step / 100)) / 2
        assert learning_rate(config(), step, 0.0) == pytest.approx(expected)


def test_warm_up_reaches_the_full_rate_and_begins_above_zero():
    rates = [
        learning_rate(config(lr_schedule="constant", warmup_steps=10), s, 0) for s in range(12)
    ]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10:] == [1.0, 1.0]


def test_minutes_drive_the_schedule_when_they_run_out_first():
    timed = config(max_train_minutes=2, lr_schedule="linear")
    assert learning_rate(timed, 1, 60.0) == pytest.approx(0.5)
    assert progress(timed, 1, 60.0) == 0.5
    assert progress(timed, 80, 60.0) == 0.8
    assert progress(timed, 1, 500.0) == 1.0


def test_time_left_goes_by_the_pace_since_the_start_or_resume():
    assert seconds_left(config(), (10, 100.0), 20, 120.0) == pytest.approx(160.0)
    assert seconds_left(config(max_train_minutes=3), (10, 100.0), 20, 120.0) == pytest.approx(60.0)
