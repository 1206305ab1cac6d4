"""The share of a run that goes by in waiting for photos: counted, logged, and said at the end."""

import json
import time
from collections.abc import Iterator
from itertools import chain, islice

import pytest

from trainer.photos.photo_set import PhotoSet
from trainer.training.waiting import TimedBatches, advice, share_of_run

LONG = 0.05  # seconds: so much longer than a call takes that a busy machine changes nothing


def every(seconds: float) -> Iterator[int]:
    while True:
        time.sleep(seconds)
        yield 0


def share(batches: TimedBatches, steps: int, work: float) -> float:
    for _ in range(steps):
        with batches.step():
            next(batches)
            time.sleep(work)
    return batches.share()


def test_waiting_is_what_next_takes() -> None:
    assert share(TimedBatches(every(LONG)), 4, 0.0) > 0.8
    assert share(TimedBatches(every(0.0)), 4, LONG) < 0.2
    half = share(TimedBatches(every(LONG)), 5, LONG)
    assert 0.25 < half < 0.65  # 4 waits of 9 parts


def test_the_first_batch_is_not_counted() -> None:
    def slow_start() -> Iterator[int]:
        time.sleep(4 * LONG)
        yield from every(0.0)

    assert share(TimedBatches(slow_start()), 3, LONG) < 0.2


def test_each_share_is_of_the_time_since_the_last() -> None:
    batches = TimedBatches(chain(islice(every(LONG), 3), every(0.0)))
    share(batches, 3, 0.0)
    assert share(batches, 3, LONG) < 0.2
    assert batches.share() == 0.0  # no step since


def test_the_share_of_a_run_weighs_its_lines_by_steps() -> None:
    records = [
        {"step": 10, "wait": 0.5},
        {"step": 10, "eval": {}},
        {"step": 12, "wait": 0.0},
    ]
    assert share_of_run(records) == pytest.approx(5 / 12)
    assert share_of_run([]) == 0.0


def test_advice_is_given_from_a_tenth_on() -> None:
    assert advice(0.1) is None
    assert advice(0.314) == "input held the step up 31% of the time: raise --workers"


def test_a_run_logs_the_share_and_says_it(train, tmp_path, capsys, monkeypatch):
    real = PhotoSet.read

    def slow(photos: PhotoSet, index: int) -> bytes:
        time.sleep(4 * LONG)
        return real(photos, index)

    monkeypatch.setattr(PhotoSet, "read", slow)
    assert train(tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    shares = [line["wait"] for line in lines if "loss" in line]
    assert len(shares) == 4 and shares[0] == 0.0 and all(0.1 < one <= 1 for one in shares[1:])
    assert "of the time: raise --workers" in capsys.readouterr().out
