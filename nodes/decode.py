"""VAE Decode (Scaled): latents into a picture; a marked scaling is undone without asking."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..vae_core.fit import cut
from ..vae_core.scaling import NONE, Scaling, describe, same, suspicion, undo_scaling
from .shared.latent_dict import WINDOW, Latent, read_mark, read_samples
from .shared.passes import Passes
from .shared.scaling_choice import chosen_scaling, model_socket, scaling_sockets
from .shared.schema import node_body, node_schema, result, socket
from .shared.tiling import AUTO, chosen_tiling, tiling_sockets

NAME = "VAE Decode (Scaled)"
log = logging.getLogger(__name__)


class VAELabDecode(io.ComfyNode):
    """The node; a raw latent decodes exactly as with core's VAE Decode."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabDecode",
            display_name=NAME,
            description="Decodes a latent into a picture. A latent that one of these nodes has "
            "scaled carries its mark and is unscaled by itself; with a raw latent the result "
            "equals ComfyUI's own VAE Decode.",
            search_aliases=["vae decode", "latent scaling", "latent to image"],
            inputs=[
                socket(io.Latent, "samples", tooltip="The latent, raw or scaled."),
                socket(io.Vae, "vae", tooltip="The VAE that decodes."),
                *scaling_sockets(
                    "How the latent was scaled, where it carries no mark; this is undone."
                ),
                model_socket(),
                *tiling_sockets(),
            ],
            outputs=[
                result(io.Image, "image", "Pictures [B, H, W, 3] in 0..1."),
                result(io.String, "info", "What was undone, and what looks wrong."),
            ],
        )

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        samples: Latent,
        vae: Any,
        scaling: str,
        custom_scale: float,
        custom_shift: float,
        model: Any | None = None,
        tiling: str = AUTO,
        memory_budget: int = 0,
    ) -> io.NodeOutput:
        passes = Passes(vae, chosen_tiling(tiling, memory_budget))
        latent = checked_for(vae, read_samples(samples, ranks=(3, 4, 5)))
        chosen = chosen_scaling(scaling, custom_scale, custom_shift, model)
        undone = agreed(read_mark(samples), chosen)
        images = passes.decode(undo_scaling(latent, undone))
        if images.ndim == 5:  # frames of a video join the batch, as in core
            images = images.reshape(-1, *images.shape[-3:])
        window = samples.get(WINDOW)
        doubt = suspicion(latent, is_marked=undone != NONE)
        if doubt:
            log.warning("%s: %s.", NAME, doubt)
        info = told(undone, doubt, passes.notes)
        return io.NodeOutput(cut(images, tuple(window)) if window else images, info)


def checked_for(vae: Any, latent: Tensor) -> Tensor:
    """Refuse a latent of another number of channels than the VAE's, before it crashes inside."""
    channels = getattr(vae, "latent_channels", latent.shape[1])
    if latent.shape[1] != channels:
        raise ValueError(
            f"expected a latent of {channels} channels for this VAE, got {list(latent.shape)}: SD1 "
            "and SDXL have 4, SD3 and FLUX.1 have 16."
        )
    return latent


def agreed(mark: Scaling | None, chosen: Scaling) -> Scaling:
    """Decide what to undo: the mark, or the choice where there is no mark; never both."""
    if mark is None:
        return chosen
    if chosen != NONE and not same(mark, chosen):
        raise ValueError(
            f"the latent carries the mark {describe(mark)}, but {describe(chosen)} is chosen: "
            "choose none, and the mark is undone by itself."
        )
    return mark


def told(undone: Scaling, doubt: str | None, notes: list[str]) -> str:
    """Say what was undone, how it was decoded if not whole, and the doubt with its evidence."""
    line = "raw latent, nothing undone" if undone == NONE else f"undone: {describe(undone)}"
    return "\n".join([line, *notes, *([f"warning: {doubt}"] if doubt else [])])
