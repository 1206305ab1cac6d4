"""Latent Noise: seeded noise into a latent, at one strength or along a path from clean to noise."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..vae_core.noise import amplitudes
from ..vae_core.scaling import NONE, Scaling, describe, suspicion
from ..vae_core.schedule import noise_amplitudes
from .parts.noise_inputs import (
    ADD_STD,
    ADD_UNITS,
    KINDS,
    NO_FAMILY,
    PRESERVE,
    TIMESTEP,
    levels_of,
    mask_of,
    read_strengths,
    read_weights,
)
from .parts.noising import assembled, bare, drawn, noised, space_of
from .shared.latent_dict import (
    Latent,
    bounded,
    checked_number,
    checked_seed,
    read_mark,
    read_samples,
)
from .shared.scaling_choice import FROM_MODEL, OF_FAMILY, model_socket
from .shared.schema import node_body, node_schema, result, seed_socket, socket

NAME = "Latent Noise"


class VAELabLatentNoise(io.ComfyNode):
    """The node: for each latent of the batch one latent per strength, all with the same noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabLatentNoise",
            display_name=NAME,
            description="Adds seeded noise to a latent: in its own standard deviations, "
            "variance-preserving, or as at a timestep of Stable Diffusion. A list of strengths "
            "gives a batch from clean to noise.",
            search_aliases=[
                "inject noise",
                "add noise",
                "noisy latent",
                "pyramid noise",
                "add_noise",
            ],
            inputs=[*_noise_sockets(), *_place_sockets()],
            outputs=[
                result(
                    io.Latent,
                    "latent",
                    "The noisy latents: item 0 at each strength, then item 1. Raw where the input "
                    "is raw.",
                ),
                result(
                    io.Latent,
                    "noise",
                    "The noise alone, mean 0 and variance 1, one for each noisy latent; before "
                    "strength, weights and mask.",
                ),
                result(io.String, "info", "Which noise went in, in which space, and how much."),
            ],
        )

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        samples: Latent,
        kind: str,
        mode: str,
        strengths: str,
        seed: int,
        scaling: str,
        channel_weights: str,
        octave_gain: float,
        use_noise_mask: bool,
        mask: Tensor | None = None,
        model: Any | None = None,
    ) -> io.NodeOutput:
        latent, numbers = read_samples(samples), read_strengths(strengths, mode)
        bounded((len(numbers), *latent.shape), "noisy latents")
        weights = read_weights(channel_weights, latent.shape[1], mode)
        area = mask_of(samples if use_noise_mask else {}, mask, latent.shape)
        factor = amplitudes(levels_of(numbers, mode), latent.shape, weights, area)
        gain = checked_number(octave_gain, "octave_gain", 0, 4)
        noise = drawn(kind, latent, checked_seed(seed), samples.get("batch_index"), gain)
        space = space_of(samples, mode, scaling, latent.shape[1], model)
        source = [item for item in range(len(latent)) for _ in numbers]
        noisy = assembled(samples, noised(latent, noise, factor, mode, space, source), source)
        alone = assembled(bare(samples), noise[source], source)
        told = _told(latent, kind, mode, numbers, read_mark(samples), space)
        return io.NodeOutput(noisy, alone, "\n".join(told))


def _noise_sockets() -> list[io.Input]:
    """Describe what noise, and how much."""
    return [
        socket(io.Latent, "samples", tooltip="The latents, raw or marked, of pictures or video."),
        socket(
            io.Combo,
            "kind",
            options=list(KINDS),
            default="gaussian",
            tooltip="All have mean 0 and variance 1. gaussian: as ComfyUI's samplers draw it for "
            "this seed. uniform: evenly from -1.73 to 1.73. low-frequency: a sum of octaves, ever "
            "coarser: blotches.",
        ),
        socket(
            io.Combo,
            "mode",
            options=[ADD_STD, ADD_UNITS, PRESERVE, TIMESTEP],
            default=ADD_STD,
            tooltip="z latent, n noise, s strength. Add: z + s x std x n, std over all values of "
            "each latent, or z + s x n. Variance-preserving: √(1 - s) z + √s n. At a timestep: as "
            "Stable Diffusion was trained. The last two work on model latents.",
        ),
        socket(
            io.String,
            "strengths",
            default="0.5",
            tooltip="One number or a list, as 0, 0.25, 0.5, 1: each latent at each strength. Add: "
            "0 to 1000. Variance-preserving: 0 to 1, the noise's share of the variance. Timestep: "
            "whole numbers 0 to 999, and -1 for clean.",
        ),
        seed_socket(),
        socket(
            io.Combo,
            "scaling",
            options=[*OF_FAMILY, FROM_MODEL, NO_FAMILY],
            default=next(iter(OF_FAMILY)),
            tooltip="For variance-preserving and timestep: whose model latents a raw latent is "
            "turned into before the noise, and back after it. A marked latent is one already: "
            "its mark counts, not this.",
        ),
    ]


def _place_sockets() -> list[io.Input]:
    """Describe where the noise goes."""
    return [
        socket(
            io.String,
            "channel_weights",
            default="",
            tooltip="Factor of the noise for each latent channel, as 1, 1, 0, 0.5; empty: 1 for "
            "all. Any number from -1000 to 1000 when adding; from -1 to 1 in the other modes.",
        ),
        socket(
            io.Float,
            "octave_gain",
            default=1.0,
            min=0.0,
            max=4.0,
            step=0.05,
            advanced=True,
            tooltip="Low-frequency noise only: weight of each octave over the next finer one, 0 to "
            "4. 0: gaussian noise; 1: all octaves alike; more: larger blotches.",
        ),
        socket(
            io.Boolean,
            "use_noise_mask",
            default=True,
            tooltip="Keep to the latent's own noise mask (Set Latent Noise Mask), if it has one: "
            "outside it nothing changes.",
        ),
        socket(
            io.Mask,
            "mask",
            optional=True,
            tooltip="Where noise goes: 1 all of it, 0 none, in between less. Pixel or latent size. "
            "Works together with the noise mask: both must allow it.",
        ),
        model_socket(),
    ]


def _told(
    latent: Tensor,
    kind: str,
    mode: str,
    numbers: list[float],
    mark: Scaling | None,
    space: Scaling,
) -> list[str]:
    """Say what was done, line by line."""
    given = "raw latents" if mark is None else f"scaled latents: {describe(mark)}"
    lines = [f"noise: {kind}, {mode}", f"given: {len(latent)} of {given}"]
    if space != NONE:
        lines.append(f"mixed as model latents: {describe(space)}; given back raw")
        doubt = suspicion(latent, mark is not None)
        lines += [f"warning: {doubt}"] if doubt else []
    if mode == TIMESTEP:
        noise = noise_amplitudes(numbers)
        shares = zip(numbers, (1 - noise.square()).sqrt().tolist(), noise.tolist(), strict=True)
        return lines + [f"timestep {t:g}: {a:.4f} latent + {b:.4f} noise" for t, a, b in shares]
    return [*lines, f"strengths: {', '.join(f'{number:g}' for number in numbers)}"]
