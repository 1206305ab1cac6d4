"""What Latent Noise reads from its widgets and sockets: numbers in a text, seeds, masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...vae_core.families import FAMILIES
from ...vae_core.scaling import Scaling
from ...vae_core.schedule import noise_amplitudes
from ..shared.latent_dict import Latent, checked_number
from ..shared.scaling_choice import FROM_MODEL, OF_FAMILY, chosen_scaling

KINDS = {"gaussian": "gaussian", "uniform": "uniform", "low-frequency (pyramid)": "pyramid"}
ADD_STD, ADD_UNITS = "add, in standard deviations", "add, in the latent's units"
PRESERVE, TIMESTEP = "variance-preserving", "at a timestep of SD's schedule"
LIMITS = {ADD_STD: (0, 1000), ADD_UNITS: (0, 1000), PRESERVE: (0, 1), TIMESTEP: (-1, 999)}
NO_FAMILY = "none (model latents already)"
MOST_NUMBERS = 1024


def read_strengths(text: str, mode: str) -> list[float]:
    """Read the list of strengths; each in the range of its mode."""
    if mode not in LIMITS:
        raise ValueError(f"expected a mode of the list, got {str(mode)[:80]!r}.")
    numbers = read_numbers(text, "strengths", *LIMITS[mode])
    if not numbers:
        raise ValueError("expected strengths as a list of numbers such as 0, 0.5, 1, got none.")
    return numbers


def levels_of(numbers: Sequence[float], mode: str) -> Tensor:
    """Turn strengths into the noise's amplitudes: [S], float64."""
    if mode == TIMESTEP:
        return noise_amplitudes(numbers)
    levels = torch.tensor(numbers, dtype=torch.float64)
    return levels.sqrt() if mode == PRESERVE else levels


def read_weights(text: str, channels: int, mode: str) -> Tensor | None:
    """Read a factor for each channel; None where all are 1."""
    most = 1000 if mode in (ADD_STD, ADD_UNITS) else 1
    weights = read_numbers(text, "channel_weights", -most, most)
    if weights and len(weights) != channels:
        raise ValueError(
            f"expected channel_weights as {channels} numbers, one for each channel, got "
            f"{len(weights)}."
        )
    return torch.tensor(weights, dtype=torch.float64) if weights else None


def read_numbers(text: str, name: str, low: float, high: float) -> list[float]:
    """Read numbers that stand between commas, semicolons or blanks."""
    words = [word for word in re.split(r"[\s,;，；、]+", str(text)) if word]
    if len(words) > MOST_NUMBERS:
        raise ValueError(f"expected {name} of at most {MOST_NUMBERS} numbers, got {len(words)}.")
    return [checked_number(_number(word, name), name, low, high) for word in words]


def _number(word: str, name: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(
            f"expected {name} as numbers such as 0, 0.5, 1, got {word[:40]!r}."
        ) from None


def scaling_for(label: str, channels: int, model: Any | None) -> Scaling:
    """Give the scaling of a family, or of the connected model, for latents with C channels."""
    expected = channels_of(label, model)
    if expected not in (None, channels):
        whose = "the connected model" if label == FROM_MODEL else label
        raise ValueError(
            f"expected latents with {expected} channels for {whose}, got {channels}: choose the "
            "family that the latent belongs to."
        )
    return chosen_scaling(label, 1.0, 0.0, model)


def channels_of(label: str, model: Any | None) -> int | None:
    """Give the number of channels that a choice of scaling stands for, where it stands for one."""
    if label in OF_FAMILY:
        return FAMILIES[OF_FAMILY[label]].latent_channels
    if label == FROM_MODEL and model is not None:
        return model.get_model_object("latent_format").latent_channels
    return None


def mask_of(latent: Latent, mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """Lay the masks over the latent as ComfyUI's samplers do: [B, 1, ...] in 0..1, their product.

    For video a mask's items are its frames.
    """
    area = None
    for one in (latent.get("noise_mask"), mask):
        if one is not None:
            laid = _laid(one, shape)
            area = laid if area is None else area * laid
    return area


def _laid(mask: Tensor, shape: Sequence[int]) -> Tensor:
    if not isinstance(mask, Tensor) or mask.ndim < 2 or not mask.numel():
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"expected a mask [B, H, W], got {got}.")
    if not mask.isfinite().all():
        raise ValueError("expected a mask in 0..1, got one with values that are no numbers.")
    return comfy.utils.reshape_mask(mask.float().cpu(), (shape[0], 1, *shape[2:])).clamp(0, 1)
