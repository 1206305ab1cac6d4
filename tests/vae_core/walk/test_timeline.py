"""Timelines: which keys are met, and that loops repeat no frame."""

import pytest

from vae_core.walk.easing import EASINGS
from vae_core.walk.timeline import PATHS, SPANS, Step, timeline


def places(steps: list[Step]) -> list[float]:
    """Positions along the keys, 0 for the first."""
    return [step.start + step.share for step in steps]


def test_two_keys_and_five_frames() -> None:
    assert places(timeline(2, 5)) == [0, 0.25, 0.5, 0.75, 1]


def test_both_ends_are_included_whatever_the_number_of_frames() -> None:
    for frames in range(2, 40):
        steps = timeline(4, frames)
        assert (steps[0], steps[-1], len(steps)) == (Step(0, 1, 0), Step(3, 3, 0), frames)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("easing", ["linear", "smoothstep", "sine in-out", "cubic in-out"])
@pytest.mark.parametrize("keys", [3, 5, 7])
def test_keys_in_between_are_met_exactly(keys: int, easing: str, span: str) -> None:
    """Of the curves over the whole path only the middle key is sure to be met."""
    steps = timeline(keys, 12 * (keys - 1) + 1, "once", easing, span)
    met = [step.start for step in steps if step.share == 0]
    assert met == list(range(keys)) if span == "each step" else (keys // 2) in met


def test_a_loop_comes_back_without_repeating_the_first_key() -> None:
    assert places(timeline(3, 6, "loop")) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert timeline(3, 6, "loop")[-1] == Step(2, 0, 0.5)


def test_ping_pong_repeats_neither_end() -> None:
    assert places(timeline(3, 5, "ping-pong")) == [0, 0.5, 1, 1.5, 2, 1.5, 1, 0.5]
    assert places(timeline(2, 2, "ping-pong")) == [0, 1]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("easing", EASINGS)
def test_every_step_is_sound(easing: str, span: str, path: str) -> None:
    for keys in (2, 3, 8):
        for frames in (2, 3, 7, 100):
            steps = timeline(keys, frames, path, easing, span)
            assert len(steps) == (2 * frames - 2 if path == "ping-pong" else frames)
            assert steps[0] == Step(0, 1, 0)
            for start, end, share in steps:
                assert 0 <= start < keys and 0 <= end < keys and 0 <= share < 1
            there = places(steps[:frames])
            assert all(one < other for one, other in zip(there, there[1:], strict=False))


def test_an_easing_acts_between_keys_or_over_the_whole_path() -> None:
    """smoothstep(1/4) = 5/32."""
    assert timeline(3, 9, "once", "smoothstep")[1] == Step(0, 1, 5 / 32)
    assert timeline(3, 5, "once", "smoothstep", "whole path")[1] == Step(0, 1, 5 / 16)


def test_a_slow_end_is_not_mistaken_for_the_key() -> None:
    assert [s.share == 0 for s in timeline(2, 4096, "once", "cubic out")].count(True) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1, 8), "at least 2 keys and 2 frames, got 1 and 8"),
        ((2, 1), "at least 2 keys and 2 frames, got 2 and 1"),
        ((2, 8, "there"), "a path out of once, loop, ping-pong, got 'there'"),
        ((2, 8, "once", "linear", "all"), "a span out of each step, whole path, got 'all'"),
        ((2, 8, "once", "bounce"), "an easing out of"),
    ],
)
def test_what_makes_no_timeline_is_refused(arguments: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        timeline(*arguments)
