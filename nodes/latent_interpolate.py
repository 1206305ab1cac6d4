"""Latent Interpolate: frames on the way between two or more key latents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..vae_core.walk.easing import EASINGS
from ..vae_core.walk.interpolate import MODES, SCOPES, fit_mask, sequence
from ..vae_core.walk.timeline import PATHS, SPANS, timeline
from .parts.interpolate_keys import KEYS, SIZES, common_batch, key_samples
from .shared.latent_dict import (
    Latent,
    bounded,
    checked_number,
    read_samples,
    replaced,
    without_spread,
)
from .shared.loops import progress
from .shared.schema import node_body, node_schema, result, socket

NAME = "Latent Interpolate"
MOST_FRAMES = 4096
MORE_KEYS = "bcdefgh"

FIRST = (
    "The first key: [B, C, h, w], or a video's [B, C, T, h, w]. The frames take its dtype, its "
    "size and its scaling."
)
MODE = (
    "lerp: straight, (1 - t) a + t b; contrast sinks on the way between unlike keys. slerp: the "
    "direction turns evenly about zero, the length goes straight from |a| to |b|. lerp, norm kept: "
    "the direction of the straight line between unit vectors, with that same length. Slerp works "
    "in the space of the latents that come in: raw, or the model's where they carry a scaling "
    "mark. Raw latents of SD3 and FLUX lie around a mean that is not 0: scale them first to turn "
    "about the model's zero."
)
SCOPE = (
    "What counts as one vector for slerp and norm kept: the whole item (of a video all its "
    "frames), each channel over all cells, or each position over the channels. lerp is the same "
    "for all three."
)
FRAMES = (
    "Number of frames for each item, 2 to 4096. once: both ends included; the keys between are "
    "met exactly where frames - 1 is a multiple of keys - 1. loop: where it is a multiple of keys. "
    "ping-pong: frames there, and frames - 2 back."
)
PATH = (
    "once: from the first key to the last. loop: on to the first key again, which is not repeated. "
    "ping-pong: back the same way, without repeating either end: 2 x frames - 2 in all."
)
EASING = (
    "How the frames are spread over the way: evenly, or more of them at its start (in), at its end "
    "(out), or at both (in-out, smoothstep)."
)
SPAN = (
    "With three or more keys. each step: the easing starts anew between each two of them. whole "
    "path: it acts once from the first to the last, and keys between may fall between frames."
)
KEY = (
    "one per input: the inputs are the keys, and their batches go item by item; a batch of 1 "
    "stands for every item. each item of a batch: every item of every input is a key of one "
    "sequence, in order; one input is enough."
)
SIZE = (
    "Keys of other sizes: refuse them, or cut out the middle in the first key's proportions and "
    "resize it to the first key's cells, bilinearly. Resizing latents softens the picture; "
    "pictures of one size are better."
)
MASK = (
    "Optional, [B or 1, H, W] in 0..1: where it is 1 the frames change, where it is 0 the first "
    "key stays. Resized to the latent's cells."
)
OUT = (
    "Frames of item 0 first, then those of item 1, and so on, in the first key's dtype, size and "
    "scaling. noise_mask and batch_index are latent_a's, repeated for each frame."
)


class VAELabLatentInterpolate(io.ComfyNode):
    """The node; a frame that falls on a key is that key, bit for bit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabLatentInterpolate",
            display_name=NAME,
            description="Makes the frames between two or more latents: straight, on a sphere, or "
            "straight with the length kept. Batches go item by item, and the ends are exact.",
            search_aliases=["slerp", "lerp", "latent blend", "latent walk", "morph", "tween"],
            inputs=[
                socket(io.Latent, "latent_a", tooltip=FIRST),
                _choice("mode", MODES, MODE),
                _choice("scope", SCOPES, SCOPE),
                socket(io.Int, "frames", default=8, min=2, max=MOST_FRAMES, tooltip=FRAMES),
                _choice("path", PATHS, PATH),
                _choice("easing", tuple(EASINGS), EASING),
                _choice("easing_span", SPANS, SPAN, advanced=True),
                _choice("keys", KEYS, KEY),
                _choice("sizes", SIZES, SIZE, advanced=True),
                *map(_further_key, MORE_KEYS),
                socket(io.Mask, "mask", optional=True, tooltip=MASK),
            ],
            outputs=[result(io.Latent, "latent", OUT)],
        )

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        latent_a: Latent,
        mode: str,
        scope: str,
        frames: int,
        path: str,
        easing: str,
        easing_span: str,
        keys: str,
        sizes: str,
        mask: Tensor | None = None,
        **more: Latent,
    ) -> io.NodeOutput:
        frames = int(checked_number(frames, "frames", 2, MOST_FRAMES))
        latents = {"latent_a": latent_a} | {k: more[k] for k in sorted(more) if more[k] is not None}
        samples = key_samples(latents, keys, sizes)
        steps = timeline(len(samples), frames, path, easing, easing_span)
        share = None if mask is None else fit_mask(mask, samples[0])
        batch = common_batch(item_counts(latents, samples, share))
        bounded(shape := (batch, len(steps), *samples[0].shape[1:]), "frames")
        out = samples[0].new_empty(shape)
        made = sequence(samples, steps, mode, scope, share)
        for i, frame in enumerate(progress(made, len(steps))):
            out[:, i] = frame
        return io.NodeOutput(assembled(latent_a, out))


def assembled(latent: Latent, frames: Tensor) -> Latent:
    """Make the LATENT of frames [B, N, C, ...]; masks and indices follow the first key's items.

    The spread of its posterior is left out: it does not belong to the frames.
    """
    items, count = frames.shape[:2]
    alone = len(read_samples(latent)) != items
    source = [0 if alone else item for item in range(items) for _ in range(count)]
    kept = without_spread(latent)
    return replaced(kept, frames.flatten(0, 1), source)


def item_counts(names: Iterable[str], samples: list[Tensor], mask: Tensor | None) -> dict[str, int]:
    """Count the items of the keys, by the names of their inputs, and of the mask."""
    counts = dict(zip(names, (len(key) for key in samples), strict=False))
    return counts if mask is None else counts | {"mask": len(mask)}


def _choice(id: str, options: tuple[str, ...], tooltip: str, **keywords: Any) -> io.Input:
    listed = {"options": list(options), "default": options[0]}
    return socket(io.Combo, id, tooltip=tooltip, **listed, **keywords)


def _further_key(letter: str) -> io.Input:
    tooltip = f"Key {letter.upper()}, optional: of latent_a's kind, with as many items or 1."
    return socket(io.Latent, f"latent_{letter}", optional=True, tooltip=tooltip)
