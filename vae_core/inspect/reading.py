"""How a latent is read: what it is raw, and what a diffusion model would see of it.

A latent that carries a mark is undone first, so that it is never scaled twice; the family that was
chosen is applied to the raw one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from ..families import FAMILIES
from ..scaling import Scaling, apply_scaling, describe, same, scaling_of, suspicion, undo_scaling
from .inspection import looks_off, summary

GIVEN, RAW, MODEL = "as given", "raw latent", "model latent"
SPACES = (GIVEN, RAW, MODEL)


class Reading(NamedTuple):
    """A latent [B, C, ...] in its spaces, in float32; `model` is None where it is not known."""

    given: Tensor
    raw: Tensor
    model: Tensor | None
    mark: Scaling | None
    scaling: Scaling | None  # from raw to model

    @property
    def family(self) -> str:
        """The family whose constants are used, "unknown" if they are no family's."""
        if self.scaling is None:
            return "unknown"
        known = (family.name for family in FAMILIES.values() if family.scale is not None)
        return next((name for name in known if same(scaling_of(name), self.scaling)), "unknown")


def read(latent: Tensor, mark: Scaling | None, chosen: Scaling | None) -> Reading:
    """Read a latent by its mark and by the scaling that was chosen; None for either: not known."""
    given = latent.detach().float()
    raw = given if mark is None else undo_scaling(given, mark)
    scaling = mark if chosen is None else chosen
    if scaling is None:
        return Reading(given, raw, None, mark, None)
    is_there = mark is not None and same(mark, scaling)
    return Reading(given, raw, given if is_there else apply_scaling(raw, scaling), mark, scaling)


def in_space(reading: Reading, space: str) -> tuple[Tensor, str]:
    """Give the latent in one of SPACES and words for it; as given where that is not known."""
    if space not in SPACES:
        raise ValueError(f"expected a space among {', '.join(SPACES)}, got {str(space)[:80]!r}.")
    if space == RAW:
        return reading.raw, "raw latent"
    if space == MODEL and reading.model is not None and reading.scaling is not None:
        return reading.model, f"model latent, {describe(reading.scaling)}"
    if reading.mark is None:
        return reading.given, "as given: without a mark, so raw by ComfyUI's standard"
    return reading.given, f"as given: marked, {describe(reading.mark)}"


def doubts(reading: Reading, space: str) -> list[str]:
    """Say what does not fit together, one sentence each."""
    found = []
    if space == MODEL and reading.model is None:
        found.append("the model latent is not known: choose the scaling of its family")
    family, channels = FAMILIES[reading.family], reading.raw.shape[1]
    if family.latent_channels not in (None, channels):
        found.append(
            f"{family.label} latents have {family.latent_channels} channels, this one {channels}"
        )
    return found + [words for words in [_looks(reading)] if words]


def _looks(reading: Reading) -> str | None:
    """Judge the spread of values: by the scaling where it is known, else by the channels."""
    if reading.model is None or reading.scaling is None:
        finite = reading.raw.where(reading.raw.isfinite(), 0.0)
        return suspicion(finite, is_marked=False)
    scales = reading.scaling.scale
    numbers = scales if isinstance(scales, tuple) else (scales,)
    middle = math.exp(sum(math.log(abs(number)) for number in numbers) / len(numbers))
    return looks_off(summary(reading.model).std, middle, reading.mark is not None)
