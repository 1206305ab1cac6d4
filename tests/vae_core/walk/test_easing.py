"""Easing curves against their formulas and the properties that a sequence relies on."""

import math

import pytest

from vae_core.walk.easing import EASINGS, ease

SHARES = [i / 512 for i in range(513)]
FORMULAS = {
    "linear": lambda t: t,
    "smoothstep": lambda t: 3 * t**2 - 2 * t**3,
    "sine in": lambda t: 1 - math.cos(math.pi * t / 2),
    "sine out": lambda t: math.sin(math.pi * t / 2),
    "sine in-out": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "cubic in": lambda t: t**3,
    "cubic out": lambda t: 1 - (1 - t) ** 3,
    "cubic in-out": lambda t: 4 * t**3 if t < 0.5 else 1 - (2 - 2 * t) ** 3 / 2,
}


def test_every_curve_has_a_formula_here() -> None:
    assert list(FORMULAS) == list(EASINGS)


@pytest.mark.parametrize("name", EASINGS)
class TestCurves:
    def test_follows_its_published_formula(self, name: str) -> None:
        for t in SHARES:
            assert ease(t, name) == pytest.approx(FORMULAS[name](t), abs=1e-15)

    def test_starts_at_exactly_0_and_ends_at_exactly_1(self, name: str) -> None:
        assert (ease(0.0, name), ease(1.0, name)) == (0, 1)

    def test_rises_all_the_way(self, name: str) -> None:
        eased = [ease(t, name) for t in SHARES]
        assert all(earlier < later for earlier, later in zip(eased, eased[1:], strict=False))


@pytest.mark.parametrize("name", ["linear", "smoothstep", "sine in-out", "cubic in-out"])
def test_a_curve_that_eases_both_ends_is_its_own_mirror_image(name: str) -> None:
    for t in SHARES:
        assert ease(t, name) + ease(1 - t, name) == pytest.approx(1, abs=1e-15)


def test_an_unknown_curve_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="out of linear, .*got 'bounce'"):
        ease(0.5, "bounce")
