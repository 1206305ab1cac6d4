"""VAE Reconstruct: pictures through a VAE and back, as often as asked, and what is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vae_core.compare.drift import Trip, cut_off, in_words, mean_psnr, rounded, to_csv
from ..vae_core.drawn.drawing import from_pil
from ..vae_core.drawn.drift_chart import chart
from ..vae_core.fit import describe_window
from .encode import CROP, MEAN, PAD, SAMPLE, checked_images
from .parts.round_trips import Journey, travel
from .shared.latent_dict import bounded, checked_number, checked_seed, chosen
from .shared.passes import Passes
from .shared.schema import node_body, node_schema, result, seed_socket, socket
from .shared.tiling import AUTO, chosen_tiling, tiling_sockets

NAME = "VAE Reconstruct"
MOST_TRIPS = 64
BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda images: images,
    "8 bits, rounded": rounded,
    "8 bits, as Save Image": cut_off,
}


class VAELabReconstruct(io.ComfyNode):
    """The node; one trip with the mean equals core's VAE Encode and VAE Decode exactly."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabReconstruct",
            display_name=NAME,
            description="Encodes and decodes pictures, once or again and again, and measures how "
            "far they drift: what a chain of edits costs before any of them. One trip equals "
            "ComfyUI's own VAE Encode and VAE Decode.",
            search_aliases=["round trip", "vae drift", "generation loss", "encode decode", "psnr"],
            inputs=inputs(),
            outputs=outputs(),
        )

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        pixels: Tensor,
        vae: Any,
        trips: int,
        posterior: str,
        seed: int,
        between_trips: str,
        uneven_size: str,
        tiling: str = AUTO,
        memory_budget: int = 0,
    ) -> io.NodeOutput:
        passes = Passes(vae, chosen_tiling(tiling, memory_budget))
        count = int(checked_number(trips, "trips", 1, MOST_TRIPS))
        first = checked_seed(seed)
        images = checked_images(pixels, vae)
        bounded((count, *images.shape), "pictures of all trips")
        draw = first if chosen(posterior, "posterior", [MEAN, SAMPLE]) == SAMPLE else None
        pad = chosen(uneven_size, "uneven_size", [CROP, PAD]) == PAD
        between = BETWEEN[chosen(between_trips, "between_trips", list(BETWEEN))]
        found = travel(images, passes, count, draw, between, pad)
        curves = chart(*curves_of(found.trips))
        return io.NodeOutput(
            found.pictures[-1],
            torch.stack(found.pictures, 1).flatten(0, 1),
            found.latent,
            mean_psnr(found.trips[0]),
            mean_psnr(found.trips[-1]),
            "\n".join([told(images, found, draw, between_trips), *passes.notes]),
            to_csv(found.trips),
            from_pil(curves).unsqueeze(0),
        )


def inputs() -> list[io.Input]:
    """Describe what goes in."""
    return [
        socket(io.Image, "pixels", tooltip="Pictures [B, H, W, 3] in 0..1."),
        socket(io.Vae, "vae", tooltip="The VAE to measure."),
        socket(
            io.Int,
            "trips",
            default=1,
            min=1,
            max=MOST_TRIPS,
            tooltip=f"How often each picture is encoded and decoded again, 1 to {MOST_TRIPS}.",
        ),
        socket(
            io.Combo,
            "posterior",
            options=[MEAN, SAMPLE],
            default=MEAN,
            tooltip="The mean of the posterior, or mean + σ x noise, drawn anew for each trip and "
            "picture from the seed below.",
        ),
        seed_socket("seed", "the posterior samples"),
        socket(
            io.Combo,
            "between_trips",
            options=list(BETWEEN),
            default=next(iter(BETWEEN)),
            tooltip="What happens to a picture before the next trip: nothing, rounding to 8 bits, "
            "or the cutting off to 8 bits of ComfyUI's Save Image.",
        ),
        socket(
            io.Combo,
            "uneven_size",
            options=[CROP, PAD],
            default=CROP,
            tooltip="For sides that are no multiple of the VAE's ratio (8 pixels for SD): compare "
            "on the centre crop that ComfyUI makes, or repeat the edges and cut them off again.",
        ),
        *tiling_sockets(),
    ]


def outputs() -> list[io.Output]:
    """Describe what comes out."""
    return [
        result(io.Image, "image", "The pictures after the last trip, [B, H, W, 3] in 0..1."),
        result(
            io.Image,
            "all_trips",
            "The pictures after every trip, in 0..1: all trips of the first picture, then of the "
            "next.",
        ),
        result(io.Latent, "latent", "The raw latent of the last trip."),
        result(
            io.Float, "psnr_first", "PSNR in dB to the original after trip 1, mean over the batch."
        ),
        result(
            io.Float,
            "psnr_last",
            "PSNR in dB to the original after the last trip, mean over the batch.",
        ),
        result(io.String, "info", "Pixels compared, posterior and seed, and the drift in words."),
        result(io.String, "csv", "A row per trip and picture: PSNR in dB, errors on 0..1."),
        result(
            io.Image, "chart", "PSNR in dB over trips: to the original, and to the trip before."
        ),
    ]


def curves_of(trips: list[Trip]) -> tuple[list[float], list[float]]:
    """Give the two curves of the chart: means over the pictures."""
    before = [mean_psnr(trip._replace(psnr=trip.psnr_previous)) for trip in trips]
    return [mean_psnr(trip) for trip in trips], before


def told(images: Tensor, found: Journey, seed: int | None, between: str) -> str:
    """Say what was done, and how far the pictures went."""
    height, width = images.shape[1:3]
    count = len(found.trips)
    whole = found.pictures[-1].shape[1:3] == (height, width)
    window = (0, 0, height, width) if whole else found.window
    return "\n".join(
        [
            f"pictures: {len(images)}, {describe_window(window, height, width)}",
            f"trips: {count}, between them: {between}",
            "posterior: mean" if seed is None else f"posterior: sampled, seed {seed}",
            *in_words(found.trips),
        ]
    )
