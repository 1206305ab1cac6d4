"""Scaling by family, by hand and by mark; what gives a scaled latent away."""

import json

import pytest
import torch

from vae_core import scaling
from vae_core.families import FAMILIES
from vae_core.scaling import NONE, Scaling, apply_scaling, scaling_of, undo_scaling

KNOWN = [family for family in FAMILIES.values() if family.scale is not None]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", KNOWN, ids=lambda family: family.name)
def test_scaling_round_trip(family) -> None:
    raw = 5 * draw(2, family.latent_channels, 3, 4)
    model = apply_scaling(raw, scaling_of(family.name))
    assert not torch.allclose(model, raw)
    torch.testing.assert_close(undo_scaling(model, scaling_of(family.name)), raw)


def test_scaling_formulas_by_hand() -> None:
    raw = torch.tensor([1.0, 2.0, -3.0, 0.5]).view(1, 4, 1, 1)
    assert apply_scaling(raw, scaling_of("sd1")).flatten()[1].item() == pytest.approx(0.3643)
    flux = apply_scaling(raw.repeat(1, 4, 1, 1), scaling_of("flux")).flatten()
    assert flux[0].item() == pytest.approx((1 - 0.1159) * 0.3611)
    playground = apply_scaling(raw, scaling_of("playground25")).flatten()
    assert playground[0].item() == pytest.approx((1 + 1.6574) * 0.5 / 8.4927)
    assert playground[3].item() == pytest.approx((0.5 - 2.5155) * 0.5 / 5.2299)


@pytest.mark.parametrize("shape", [(1, 4, 2, 2), (1, 4, 3, 2, 2), (2, 4, 1, 1)])
def test_per_channel_constants_follow_the_channel_at_any_rank(shape: tuple[int, ...]) -> None:
    family = FAMILIES["playground25"]
    model = apply_scaling(torch.zeros(shape), scaling_of("playground25"))
    for channel, (mean, std) in enumerate(zip(family.mean, family.std, strict=True)):
        expected = torch.full_like(model[:, channel], -mean / std * family.scale)
        torch.testing.assert_close(model[:, channel], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scaling_keeps_dtype_and_input(dtype: torch.dtype) -> None:
    raw = draw(1, 4, 2, 2).to(dtype)
    before = raw.clone()
    assert apply_scaling(raw, scaling_of("sdxl")).dtype == dtype
    assert undo_scaling(raw, scaling_of("sdxl")).dtype == dtype
    assert torch.equal(raw, before)


def test_no_scaling_changes_no_bit() -> None:
    raw = draw(1, 4, 2, 2).half()
    assert apply_scaling(raw, NONE) is raw and undo_scaling(raw, NONE) is raw


def test_a_spread_is_scaled_without_the_shift() -> None:
    std = torch.full((1, 16, 1, 1), 2.0)
    flux = scaling_of("flux")
    torch.testing.assert_close(scaling.apply_spread(std, flux), std * 0.3611)
    torch.testing.assert_close(scaling.undo_spread(std * 0.3611, flux), std)


def test_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="'unknown'"):
        scaling_of("unknown")


def test_wrong_channel_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 channels.*\[1, 16, 2, 2\]"):
        undo_scaling(torch.zeros(1, 16, 2, 2), scaling_of("playground25"))


@pytest.mark.parametrize("name", [family.name for family in KNOWN])
def test_a_mark_survives_json(name: str) -> None:
    mark = json.loads(json.dumps(scaling.to_mark(scaling_of(name))))
    assert scaling.from_mark(mark) == scaling_of(name)


@pytest.mark.parametrize(
    "mark", [None, "x", {}, {"scale": 1}, {"scale": "a", "shift": 0}, {"scale": [], "shift": {}}]
)
def test_a_damaged_mark_is_refused(mark) -> None:
    with pytest.raises(ValueError, match="Expected"):
        scaling.from_mark(mark)


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(0.0, 0.0), (float("nan"), 0.0), (1.0, float("inf")), ((1.0, 0.0), 0.0), ((), 0.0)],
)
def test_a_scaling_that_cannot_be_undone_is_refused(scale, shift) -> None:
    with pytest.raises(ValueError, match="finite scale other than 0"):
        scaling.checked(scale, shift)


def test_a_scaling_is_named_after_its_family() -> None:
    assert scaling.describe(scaling_of("flux")) == "scale 0.3611, shift 0.1159 (FLUX.1)"
    assert scaling.describe(Scaling(2.0, 0.5)) == "scale 2, shift 0.5"


def test_scalings_of_other_length_are_not_the_same() -> None:
    assert scaling.same(scaling_of("sd1"), Scaling(0.18215, 0.0))
    assert not scaling.same(scaling_of("playground25"), scaling_of("sd1"))


def test_a_latent_that_looks_scaled_is_told_by_its_spread() -> None:
    raw = 5 * draw(1, 4, 16, 16)
    model = apply_scaling(raw, scaling_of("sd1"))
    assert scaling.suspicion(raw, is_marked=False) is None
    assert "0.9" in scaling.suspicion(model, is_marked=False)
    assert scaling.suspicion(model, is_marked=True) is None
    assert scaling.suspicion(draw(1, 16, 16, 16), is_marked=False) is None
    assert scaling.suspicion(torch.zeros(1, 4, 1, 1), is_marked=False) is None
    assert scaling.suspicion(raw * float("nan"), is_marked=False) is None
