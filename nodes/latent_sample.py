"""Latent Sample: latents drawn from the prior N(0, I), or around a latent that is there."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..vae_core.noise import unit_noise
from ..vae_core.scaling import NONE, Scaling, describe
from .parts.noise_inputs import channels_of, scaling_for
from .parts.sampling import (
    AROUND,
    LARGEST_BATCH,
    LARGEST_SIDE,
    MOST_FRAMES,
    MOST_SPREAD,
    POSTERIOR,
    PRIOR,
    RAW,
    Size,
    around,
    from_prior,
    size_of,
    spread_of,
)
from .shared.latent_dict import Latent, bounded, checked_number, checked_seed, read_mark
from .shared.scaling_choice import FROM_MODEL, OF_FAMILY, model_socket
from .shared.schema import node_body, node_schema, result, seed_socket, socket

NAME = "Latent Sample"


class VAELabLatentSample(io.ComfyNode):
    """The node: draws from N(0, I), as a raw or a model latent, or from around a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabLatentSample",
            display_name=NAME,
            description="Draws latents: from the prior N(0, I), in a space that you choose, or "
            "around an encoded picture. Says in which space its N(0, I) is.",
            search_aliases=["prior", "random latent", "posterior sample", "empty latent", "noise"],
            inputs=[*_draw_sockets(), *_size_sockets(), *_space_sockets(), *_optional_sockets()],
            outputs=[
                result(
                    io.Latent,
                    "latent",
                    "The drawn latents, raw unless keep_scaled marks them; with a connected latent "
                    "in its units, item 0's draws first.",
                ),
                result(io.String, "note", "What was drawn, and in which space N(0, I) is."),
            ],
        )

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        mode: str,
        seed: int,
        batch_size: int,
        spread: float,
        width: int,
        height: int,
        frames: int,
        space: str,
        keep_scaled: bool,
        channels: int,
        ratio: int,
        vae: Any | None = None,
        samples: Latent | None = None,
        std: Latent | None = None,
        model: Any | None = None,
    ) -> io.NodeOutput:
        count = int(checked_number(batch_size, "batch_size", 1, LARGEST_BATCH))
        strength = checked_number(spread, "spread", 0, MOST_SPREAD)
        if mode != PRIOR:
            sigma, told = spread_of(mode, samples, std)
            drawn = around(samples, sigma * strength, count, checked_seed(seed))
            return io.NodeOutput(drawn, note_around(told, strength, drawn, read_mark(samples)))
        size = size_of(
            vae, channels or channels_of(space, model) or 4, ratio, width, height, frames
        )
        size = size._replace(shape=(count, *size.shape))
        bounded(size.shape, "latents")
        scaling = NONE if space == RAW else scaling_for(space, size.shape[1], model)
        noise = unit_noise("gaussian", size.shape, checked_seed(seed)) * strength
        drawn = from_prior(noise, scaling, keep_scaled)
        return io.NodeOutput(drawn, note_prior(size, strength, scaling, keep_scaled, width, height))


def _draw_sockets() -> list[io.Input]:
    """Describe what is drawn."""
    return [
        socket(
            io.Combo,
            "mode",
            options=[PRIOR, AROUND, POSTERIOR],
            default=PRIOR,
            tooltip="n is noise from N(0, I). prior: spread x n. around the latent: latent + "
            "spread x std x n, std over all values of each latent. posterior: the same with the "
            "std that VAE Encode (Scaled) gives for each value.",
        ),
        seed_socket(),
        socket(
            io.Int,
            "batch_size",
            default=1,
            min=1,
            max=LARGEST_BATCH,
            tooltip="How many latents, 1 to 4096; with a connected latent, for each of its items.",
        ),
        socket(
            io.Float,
            "spread",
            default=1.0,
            min=0.0,
            max=MOST_SPREAD,
            step=0.05,
            tooltip="Factor of the noise, 0 to 1000, in standard deviations: of N(0, I), of the "
            "latent, or of its posterior. 1 is the true prior or posterior; 0 is its mean.",
        ),
    ]


def _size_sockets() -> list[io.Input]:
    """Describe the size of what comes from the prior, in pixels."""
    side = {"default": 512, "min": 8, "max": LARGEST_SIDE, "step": 8}
    return [
        socket(
            io.Int, "width", **side, tooltip="Prior only: width of the picture, 8 to 16384 pixels."
        ),
        socket(
            io.Int,
            "height",
            **side,
            tooltip="Prior only: height of the picture, 8 to 16384 pixels.",
        ),
        socket(
            io.Int,
            "frames",
            default=1,
            min=1,
            max=MOST_FRAMES,
            tooltip="Prior only, and only with a video VAE: length of the video, 1 to 4096 frames.",
        ),
    ]


def _space_sockets() -> list[io.Input]:
    """Describe the space that N(0, I) is in, and a latent's form where no VAE tells it."""
    advanced = {"advanced": True}
    return [
        socket(
            io.Combo,
            "space",
            options=[RAW, *OF_FAMILY, FROM_MODEL],
            default=RAW,
            tooltip="Prior only: where N(0, I) is. raw latent: as VAE Encode gives it. A family: "
            "as its diffusion model sees it, then turned into a raw latent: n / scale + shift.",
        ),
        socket(
            io.Boolean,
            "keep_scaled",
            default=False,
            tooltip="Prior only: give the family's model latent as it is, marked as scaled, "
            "instead of a raw one. For nodes of VAE Lab, which read the mark.",
        ),
        socket(
            io.Int,
            "channels",
            default=0,
            min=0,
            max=1024,
            **advanced,
            tooltip="Prior without a VAE: latent channels, 1 to 1024; 0: those of the space, or 4.",
        ),
        socket(
            io.Int,
            "ratio",
            default=8,
            min=1,
            max=256,
            **advanced,
            tooltip="Prior without a VAE: pixels per latent cell along a side, 1 to 256.",
        ),
    ]


def _optional_sockets() -> list[io.Input]:
    """Describe what may be connected."""
    return [
        socket(
            io.Vae,
            "vae",
            optional=True,
            tooltip="Prior: the VAE that will decode; channels, ratio and rank are taken from it.",
        ),
        socket(
            io.Latent,
            "samples",
            optional=True,
            tooltip="For 'around' and 'posterior': the centre of the draws, raw or marked. For the "
            "posterior its mean.",
        ),
        socket(
            io.Latent,
            "std",
            optional=True,
            tooltip="For 'posterior': the std output of VAE Encode (Scaled), in the latent's "
            "units. A latent straight from that node brings its own.",
        ),
        model_socket(),
    ]


def note_prior(
    size: Size, strength: float, scaling: Scaling, keep_scaled: bool, width: int, height: int
) -> str:
    """Say where N(0, I) is, and what the latent is for."""
    *_, rows, columns = size.shape
    law = "N(0, I)" if strength == 1 else f"N(0, {strength:g}² I)"
    made = f"{columns * size.ratio} x {rows * size.ratio} pixels at ratio {size.ratio}"
    asked = "" if made.startswith(f"{width} x {height} ") else f" (asked for {width} x {height})"
    lines = [f"{list(size.shape)}: {made}{asked}"]
    if scaling == NONE:
        return "\n".join([*lines, f"{law} in raw latent space: what was drawn is the raw latent"])
    given = "given as it is, marked as scaled" if keep_scaled else "then turned into a raw latent"
    return "\n".join([*lines, f"{law} in model latent space, {describe(scaling)}; {given}"])


def note_around(told: str, strength: float, drawn: Latent, mark: Scaling | None) -> str:
    """Say what the draws spread around, in which units."""
    units = "raw units" if mark is None else f"model units, {describe(mark)}"
    shape = list(drawn["samples"].shape)
    return f"{shape}: N(latent, s²), s = {strength:g} x {told}, in {units}"
