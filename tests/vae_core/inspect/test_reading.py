"""How a latent is read: by its mark, by the scaling that was chosen, and never twice."""

import pytest
import torch

from vae_core.inspect.reading import GIVEN, MODEL, RAW, doubts, in_space, read
from vae_core.scaling import Scaling, scaling_of

SD1, SDXL = scaling_of("sd1"), scaling_of("sdxl")


def raw(std: float = 5.0, channels: int = 4) -> torch.Tensor:
    return torch.randn(2, channels, 6, 6, generator=torch.Generator().manual_seed(1)) * std


def test_a_raw_latent_is_scaled_once() -> None:
    got = read(raw(), None, SD1)
    assert torch.equal(got.raw, raw())
    torch.testing.assert_close(got.model, raw() * 0.18215)
    assert got.family == "sd1"


def test_a_marked_latent_is_not_scaled_twice() -> None:
    scaled = raw() * 0.18215
    got = read(scaled, SD1, SD1)
    assert torch.equal(got.model, scaled)
    torch.testing.assert_close(got.raw, raw())
    assert torch.equal(read(scaled, SD1, None).model, scaled)


def test_a_mark_is_undone_before_another_family_is_applied() -> None:
    got = read(raw() * 0.18215, SD1, SDXL)
    torch.testing.assert_close(got.model, raw() * 0.13025)


def test_without_mark_or_choice_the_model_latent_is_not_known() -> None:
    got = read(raw(), None, None)
    assert got.model is None and got.family == "unknown"
    values, words = in_space(got, MODEL)
    assert torch.equal(values, raw()) and "as given" in words
    assert any("not known" in words for words in doubts(got, MODEL))
    assert doubts(got, GIVEN) == []


def test_spaces() -> None:
    got = read(raw() * 0.18215, SD1, None)
    assert torch.equal(in_space(got, RAW)[0], got.raw)
    assert torch.equal(in_space(got, MODEL)[0], got.model)
    assert "marked, scale 0.18215" in in_space(got, GIVEN)[1]
    with pytest.raises(ValueError, match="expected a space among as given"):
        in_space(got, "<b>other</b>")


@pytest.mark.parametrize(
    ("latent", "mark", "chosen", "words"),
    [
        (raw(), None, SD1, None),
        (raw(0.9), None, SD1, "looks already scaled: std 0.9"),
        (raw(0.9), None, None, "looks already scaled"),
        (raw(), SD1, None, "looks raw, although it is marked"),
        (raw(1.2, 16), None, scaling_of("flux"), None),
        (raw(1, 16), None, scaling_of("sd3"), None),
        (raw(2.8, 4), None, scaling_of("flux"), "FLUX.1 latents have 16 channels, this one 4"),
        (raw(), None, Scaling(0.2, 0.0), None),
    ],
)
def test_what_does_not_fit_is_said(latent, mark, chosen, words) -> None:
    found = doubts(read(latent, mark, chosen), GIVEN)
    assert bool(found) == (words is not None)
    assert words is None or any(words in sentence for sentence in found)


def test_a_latent_of_nan_only_raises_no_doubt() -> None:
    assert doubts(read(raw() * float("nan"), None, SD1), GIVEN) == []


def test_half_precision_is_read_in_float32() -> None:
    got = read(raw().half(), None, SD1)
    assert got.given.dtype == got.raw.dtype == got.model.dtype == torch.float32
    assert torch.equal(got.given, raw().half().float())
