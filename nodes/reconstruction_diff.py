"""Reconstruction Diff: what a reconstruction lost, in pictures and in numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..vae_core.compare.comparison import Compared, batches, choose, compare, numbers, texts
from ..vae_core.compare.figure_text import COLUMNS
from ..vae_core.compare.pairs import match, pair
from .parts import lpips_file
from .parts.reconstruction_diff_schema import NAME, SLIDER, diff_schema
from .shared.latent_dict import checked_number
from .shared.loops import progress
from .shared.schema import node_body


class VAELabReconstructionDiff(io.ComfyNode):
    """The node; everything that it computes is in vae_core."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return diff_schema()

    @classmethod
    def fingerprint_inputs(cls, lpips_net: str = lpips_file.OFF, **_: Any) -> Any:
        """Run again when a file of LPIPS weights has come or gone."""
        return lpips_file.fingerprint(lpips_net)

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        original: Tensor,
        reconstruction: Tensor,
        gain: float,
        heat_map: str,
        lpips_net: str,
        list_figure: str,
        heat_range: float,
        mask: Tensor | None = None,
        compare_view: Any = None,
    ) -> io.NodeOutput:
        checked_number(gain, "gain", 0.1, 1000)
        checked_number(heat_range, "heat_range", 0, 100)
        if list_figure not in COLUMNS:
            raise ValueError(
                f"Expected list_figure as a figure's name, got {str(list_figure)[:80]!r}."
            )
        pairs = match(original, reconstruction, mask)
        perceptual = lpips_file.load(lpips_net, math.prod(pairs.size))
        how = choose(pairs, gain, heat_map, heat_range, perceptual)
        if perceptual is None and lpips_net == lpips_file.AUTO:
            how = how._replace(notes=(*how.notes, "no LPIPS file in models/vae_lab, so no LPIPS"))
        compared = [compare(pair(pairs, i), how) for i in progress(range(pairs.count))]
        pictures = batches(compared)
        return io.NodeOutput(
            *(images.to(reconstruction.device, reconstruction.dtype) for images in pictures),
            *numbers(compared, list_figure),
            *texts(compared, pairs, how),
            ui=previews(cls, pictures[0], compared),
        )


def previews(cls: type[io.ComfyNode], strips: Tensor, compared: list[Compared]) -> dict[str, Any]:
    """Show the strips in the node; and both pictures, where ComfyUI has a slider for them."""
    shows = ui.PreviewImage(strips, cls=cls).as_dict()
    if SLIDER is None:
        return shows
    sides = {"a_images": [one.original for one in compared]}
    sides["b_images"] = [one.reconstruction for one in compared]
    for key, images in sides.items():
        shows[key] = ui.PreviewImage(torch.stack(images), cls=cls).as_dict()["images"]
    return shows
