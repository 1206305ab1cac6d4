"""The widget that chooses a scaling, and what its labels mean."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ...vae_core.families import FAMILIES
from ...vae_core.scaling import NONE, Scaling, checked, scaling_of
from .latent_dict import checked_number
from .schema import socket

NO_SCALING = "none (ComfyUI standard)"
CUSTOM = "custom"
FROM_MODEL = "from model"
OF_FAMILY = {family.label: name for name, family in FAMILIES.items() if family.scale is not None}

MOST_CHANNELS = 4096


def scaling_sockets(what: str) -> list[io.Input]:
    """Describe the widgets of a scaling: the choice itself and the two numbers of a custom one."""
    return [
        socket(
            io.Combo,
            "scaling",
            options=[NO_SCALING, *OF_FAMILY, CUSTOM, FROM_MODEL],
            default=NO_SCALING,
            tooltip=f"{what} Model latent = (raw - shift) x scale. ComfyUI's own nodes pass raw "
            "latents, so leave this at none unless a node asks for scaled ones.",
        ),
        socket(
            io.Float,
            "custom_scale",
            default=1.0,
            min=-1e6,
            max=1e6,
            step=0.00001,
            round=False,
            advanced=True,
            tooltip="Scale of the choice custom; any number but 0, without unit.",
        ),
        socket(
            io.Float,
            "custom_shift",
            default=0.0,
            min=-1e6,
            max=1e6,
            step=0.00001,
            round=False,
            advanced=True,
            tooltip="Shift of the choice custom, in units of the raw latent.",
        ),
    ]


def model_socket() -> io.Input:
    """Describe the optional diffusion model whose scaling is taken by the choice `from model`."""
    return socket(
        io.Model,
        "model",
        optional=True,
        tooltip="Diffusion model whose scaling is used by the choice 'from model'.",
    )


def chosen_scaling(label: str, scale: float, shift: float, model: Any | None) -> Scaling:
    """Turn the widgets into numbers; ValueError where they say nothing usable."""
    if label == NO_SCALING:
        return NONE
    if label in OF_FAMILY:
        return scaling_of(OF_FAMILY[label])
    if label == CUSTOM:
        numbers = (checked_number(scale, "custom_scale", -1e6, 1e6), shift)
        return checked(numbers[0], checked_number(numbers[1], "custom_shift", -1e6, 1e6))
    if label == FROM_MODEL and model is not None:
        return scaling_of_model(model)
    if label == FROM_MODEL:
        raise ValueError("scaling 'from model' expects a MODEL to be connected, got none.")
    raise ValueError(f"expected a scaling of the list, got {label!r}.")


def scaling_of_model(model: Any) -> Scaling:
    """Read a diffusion model's scaling off its latent format: per channel where it differs.

    The format is asked what it makes of 0, 1 and 2, so that every format that is a scale and a
    shift is understood, whatever its fields are called.
    """
    latent_format = model.get_model_object("latent_format")
    channels, rank = latent_format.latent_channels, 2 + latent_format.latent_dimensions
    shape = (1, min(channels, MOST_CHANNELS), *[1] * (rank - 2))
    zero, one, two = (
        latent_format.process_in(torch.full(shape, number, dtype=torch.float64))
        for number in (0.0, 1.0, 2.0)
    )
    scale = one - zero
    if zero.shape != shape or not torch.allclose(two - one, scale, rtol=1e-5):
        raise ValueError(
            f"expected a model whose latents are raw ones scaled and shifted, got "
            f"{type(latent_format).__name__}, which does more: choose none."
        )
    return checked(_collapsed(scale), _collapsed(-zero / scale))


def _collapsed(values: torch.Tensor) -> float | tuple[float, ...]:
    """Give one number where all channels agree; digits beyond float64's noise are dropped."""
    numbers = tuple(float(f"{number:.9g}") + 0.0 for number in values.flatten().tolist())
    return numbers[0] if len(set(numbers)) == 1 else numbers
