"""Colours for Latent Inspect: ComfyUI's own factors where they fit, principal components else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import comfy.latent_formats
import torch
from torch import Tensor

from ...vae_core.drawn.latent_pictures import (
    Factors,
    enlarged,
    frame_at,
    rgb_factor,
    rgb_from_components,
    rgb_from_factors,
)
from ...vae_core.inspect.reading import Reading
from ...vae_core.scaling import Scaling
from ..shared.scaling_choice import FROM_MODEL, OF_FAMILY, chosen_scaling

FORMATS = {  # classes of comfy.latent_formats
    "sd1": "SD15",
    "sdxl": "SDXL",
    "sd3": "SD3",
    "flux": "Flux",
    "playground25": "SDXL_Playground_2_5",
}


class Painter(NamedTuple):
    """What colours a latent item by item, and a sentence on how."""

    latent: Tensor  # [B, C, h, w]
    colour: Callable[[Tensor], Tensor]  # [C, h, w] -> [h, w, 3]
    factor: int  # pixels of a cell's side
    words: str

    def paint(self, index: int) -> Tensor:
        """Colour one item: [H, W, 3] in [0, 1]."""
        return enlarged(self.colour(self.latent[index]), self.factor)


class HostFactors(NamedTuple):
    """A latent format's way to colours, as ComfyUI's own previews use it."""

    name: str
    factors: Factors
    reshape: Callable[[Tensor], Tensor] | None


def scaling_and_factors(
    label: str | None, model: Any | None
) -> tuple[Scaling | None, HostFactors | None]:
    """Turn the choice into a scaling and colour factors; None where the latent's mark decides."""
    if label is None:
        return None, None
    if label not in (*OF_FAMILY, FROM_MODEL):
        raise ValueError(f"expected a scaling of the list, got {str(label)[:80]!r}.")
    chosen = chosen_scaling(label, 1.0, 0.0, model)
    if label in OF_FAMILY:
        return chosen, factors_of_family(OF_FAMILY[label])
    return chosen, factors_of(model.get_model_object("latent_format"))


def factors_of_family(family: str) -> HostFactors | None:
    """Look up a family's factors in ComfyUI's own table; None if it has none."""
    kind = getattr(comfy.latent_formats, FORMATS.get(family, ""), None)
    return None if kind is None else factors_of(kind())


def factors_of(latent_format: Any) -> HostFactors | None:
    """Read the factors of a latent format; None if it has none."""
    weights = getattr(latent_format, "latent_rgb_factors", None)
    if weights is None:
        return None
    bias = getattr(latent_format, "latent_rgb_factors_bias", None)
    return HostFactors(
        type(latent_format).__name__,
        Factors(torch.tensor(weights), None if bias is None else torch.tensor(bias)),
        getattr(latent_format, "latent_rgb_factors_reshape", None),
    )


def painter_of(
    reading: Reading,
    flat: Tensor,
    host: HostFactors | None,
    frame: int,
    ratio: int | None,
    count: int,
) -> Painter:
    """Choose how items are coloured: by ComfyUI's factors where they fit, else by components.

    Args:
        reading: the latent in its spaces.
        flat: the values [B, C, h, w] that are shown otherwise, for colours by components.
        host: the factors of the chosen format; None: those of the marked family.
        frame: the frame of a video.
        ratio: pixels of a cell's side, from the VAE; None: not known.
        count: pictures that are held at once.
    """
    host = host or factors_of_family(reading.family)
    latent = _for_factors(reading, host, frame)
    if host is None or latent is None:
        words = f"three principal components, not true colours ({_why(reading, host)})"
        latent, colour = flat, rgb_from_components
    else:
        words = f"ComfyUI's colour factors of {host.name}, on the model latent"
        colour = functools.partial(rgb_from_factors, factors=host.factors)
        if latent.shape[2:] != flat.shape[2:]:
            ratio = None  # the format lays its cells out otherwise
    factor = rgb_factor(*latent.shape[2:], ratio, count)
    size = f"{factor} x {factor} pixels a cell{'' if ratio == factor else ', not the decoded size'}"
    return Painter(latent, colour, factor, f"rgb: {words}; {size}.")


def _for_factors(reading: Reading, host: HostFactors | None, frame: int) -> Tensor | None:
    """Give the model latent [B, C, h, w] that the factors take; None if they do not fit."""
    if host is None or reading.model is None:
        return None
    latent = reading.model
    if host.reshape is not None:
        latent = host.reshape(latent)
    if latent.ndim not in (4, 5) or latent.shape[1] != len(host.factors.weights):
        return None
    return frame_at(latent, frame)[0]


def _why(reading: Reading, host: HostFactors | None) -> str:
    if reading.scaling is None:
        return "the family is not known: choose a scaling"
    if host is None:
        return "no colour factors are known for this scaling"
    channels = reading.raw.shape[1]
    return f"the factors of {host.name} are for other latents than of {channels} channels"
