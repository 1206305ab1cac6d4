"""Scaling of latents: between what VAE.encode returns and what a diffusion model sees.

B batch, C latent channels. A raw latent is what VAE.encode returns and what ComfyUI passes between
nodes; a model latent is (raw - shift) * scale. A latent that was scaled carries a mark, so that
it can be undone without asking and is never scaled twice.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .families import FAMILIES

Constant = float | tuple[float, ...]


class Scaling(NamedTuple):
    """model = (raw - shift) * scale, each one number or one per channel."""

    scale: Constant
    shift: Constant


NONE = Scaling(1.0, 0.0)


def scaling_of(family: str) -> Scaling:
    """Give the constants of a family of FAMILIES; ValueError for one whose scale is not known."""
    known = FAMILIES.get(family)
    if known is None or known.scale is None:
        names = ", ".join(name for name, entry in FAMILIES.items() if entry.scale is not None)
        raise ValueError(f"Expected a family whose scale is known ({names}), got {family!r}.")
    if known.mean is None or known.std is None:
        return Scaling(known.scale, known.shift)
    return Scaling(tuple(known.scale / std for std in known.std), known.mean)


def checked(scale: Constant, shift: Constant) -> Scaling:
    """Make a Scaling of numbers that can be undone: finite, and no scale of 0."""
    numbers = (*_as_tuple(scale), *_as_tuple(shift))
    usable = all(map(math.isfinite, numbers)) and 0.0 not in _as_tuple(scale)
    if not usable or () in (scale, shift):
        raise ValueError(
            f"Expected a finite scale other than 0 and a finite shift, got scale {scale} and "
            f"shift {shift}."
        )
    return Scaling(scale, shift)


def apply_scaling(raw: Tensor, scaling: Scaling) -> Tensor:
    """Scale raw latents for a diffusion model: [B, C, ...] -> the same shape and dtype.

    Computed in float32, or float64 for such latents. Raises ValueError where constants per channel
    do not fit the latent.
    """
    if scaling == NONE:
        return raw
    scale, shift = _constants(raw, scaling)
    return ((_wide(raw) - shift) * scale).to(raw.dtype)


def undo_scaling(model: Tensor, scaling: Scaling) -> Tensor:
    """Undo apply_scaling: [B, C, ...] as a diffusion model sees it -> the raw latent."""
    if scaling == NONE:
        return model
    scale, shift = _constants(model, scaling)
    return (_wide(model) / scale + shift).to(model.dtype)


def undo_spread(std: Tensor, scaling: Scaling) -> Tensor:
    """Turn standard deviations of model latents into those of raw ones: the shift has no part."""
    return undo_scaling(std, Scaling(scaling.scale, 0.0)).abs()


def apply_spread(std: Tensor, scaling: Scaling) -> Tensor:
    """Turn standard deviations of raw latents into those of model latents."""
    return apply_scaling(std, Scaling(scaling.scale, 0.0)).abs()


# The mark


def to_mark(scaling: Scaling) -> dict[str, float | list[float]]:
    """Write a scaling as the mark that a latent carries: plain numbers and lists."""
    return {name: _plain(value) for name, value in scaling._asdict().items()}


def from_mark(mark: Any) -> Scaling:
    """Read a mark; ValueError for anything but numbers that can be undone."""
    try:
        scale, shift = _constant(mark["scale"]), _constant(mark["shift"])
    except (TypeError, KeyError, ValueError):
        raise ValueError(
            f"Expected a scaling mark {{'scale': ..., 'shift': ...}}, got {str(mark)[:80]}: "
            "encode the picture again."
        ) from None
    return checked(scale, shift)


def describe(scaling: Scaling) -> str:
    """Put a scaling into words: "scale 0.18215, shift 0 (SD1 / SD2)"."""
    words = f"scale {_words(scaling.scale)}, shift {_words(scaling.shift)}"
    for family in FAMILIES.values():
        if family.scale is not None and same(scaling, scaling_of(family.name)):
            return f"{words} ({family.label})"
    return words


def same(a: Scaling, b: Scaling) -> bool:
    """Tell whether two scalings are one, up to the rounding of written numbers."""
    pairs = ((_as_tuple(x), _as_tuple(y)) for x, y in zip(a, b, strict=True))
    return all(
        len(x) == len(y)
        and all(math.isclose(p, q, rel_tol=1e-6, abs_tol=1e-9) for p, q in zip(x, y, strict=True))
        for x, y in pairs
    )


def suspicion(latent: Tensor, is_marked: bool) -> str | None:
    """Say why an unmarked latent [B, 4, ...] looks as if it had been scaled, or None.

    Raw latents of SD1 and SDXL have a standard deviation around 5 to 8 on photos, model latents
    around 1. Families of 16 channels lie too near each other for a judgement.
    """
    if is_marked or latent.shape[1] != 4 or latent.numel() < 2:
        return None
    std = float(_wide(latent).std())
    if not 0 < std < 2.2:  # NaN, or nothing to see
        return None
    return (
        f"its standard deviation is {std:.2f}, where raw latents of photos have about 5 (SD1) "
        "to 8 (SDXL) and scaled ones about 1: it looks already scaled, and carries no mark"
    )


def _constants(latent: Tensor, scaling: Scaling) -> list[Tensor | float]:
    return [_along_channels(latent, value) for value in scaling]


def _along_channels(latent: Tensor, value: Constant) -> Tensor | float:
    """Lay constants along the channels of a latent of any rank: [1, C, 1, ...]."""
    if not isinstance(value, tuple):
        return value
    if latent.shape[1] != len(value):
        raise ValueError(
            f"Expected latents with {len(value)} channels for this scaling, got shape "
            f"{list(latent.shape)}: choose the family that the latent belongs to."
        )
    column = torch.tensor(value, dtype=_wide(latent).dtype, device=latent.device)
    return column.view(1, -1, *[1] * (latent.ndim - 2))


def _wide(latent: Tensor) -> Tensor:
    return latent if latent.dtype == torch.float64 else latent.float()


def _as_tuple(value: Constant) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _constant(value: Any) -> Constant:
    if isinstance(value, (list, tuple)):
        return tuple(float(number) for number in value)
    return float(value)


def _plain(value: Constant) -> float | list[float]:
    return list(value) if isinstance(value, tuple) else value


def _words(value: Constant) -> str:
    return ", ".join(f"{number:.6g}" for number in _as_tuple(value))
