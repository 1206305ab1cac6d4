"""Latent Rescale: a raw latent into a model's units, or back."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..vae_core.scaling import NONE, Scaling, apply_scaling, describe, undo_scaling
from .decode import agreed
from .shared.latent_dict import Latent, chosen, marked, read_mark, read_samples, replaced
from .shared.scaling_choice import chosen_scaling, model_socket, scaling_sockets
from .shared.schema import node_body, node_schema, result, socket

NAME = "Latent Rescale"
TO_MODEL, TO_RAW = "raw to model", "model to raw"


class VAELabLatentRescale(io.ComfyNode):
    """The node: apply a family's scale and shift, or undo them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabLatentRescale",
            display_name=NAME,
            description="Turns a raw latent, as ComfyUI passes it, into what a diffusion model "
            "sees, or back. A marked latent is never scaled twice.",
            search_aliases=["latent scale", "0.18215", "scaling factor", "unscale latent"],
            inputs=[
                socket(io.Latent, "samples", tooltip="The latent, raw or scaled."),
                socket(
                    io.Combo,
                    "direction",
                    options=[TO_MODEL, TO_RAW],
                    default=TO_MODEL,
                    tooltip="raw to model: (raw - shift) x scale. model to raw: model / scale + "
                    "shift; a mark says by itself what to undo.",
                ),
                *scaling_sockets("The family whose scale and shift are used."),
                model_socket(),
            ],
            outputs=[
                result(io.Latent, "latent", "The rescaled latent; marked when it is scaled."),
                result(io.String, "info", "Which scale and shift were used."),
            ],
        )

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        samples: Latent,
        direction: str,
        scaling: str,
        custom_scale: float,
        custom_shift: float,
        model: Any | None = None,
    ) -> io.NodeOutput:
        latent, mark = read_samples(samples, ranks=(3, 4, 5)), read_mark(samples)
        units = chosen_scaling(scaling, custom_scale, custom_shift, model)
        if chosen(direction, "direction", (TO_MODEL, TO_RAW)) == TO_RAW:
            undone = agreed(mark, units)
            raw = marked(replaced(samples, undo_scaling(latent, undone)), None)
            return io.NodeOutput(raw, f"undone: {describe(undone)}")
        refuse_twice(mark, units)
        scaled = replaced(samples, apply_scaling(latent, units))
        kept = mark if units == NONE else units
        return io.NodeOutput(marked(scaled, kept), f"applied: {describe(units)}")


def refuse_twice(mark: Scaling | None, chosen: Scaling) -> None:
    """Refuse to scale a latent that is scaled already."""
    if mark is not None and chosen != NONE:
        raise ValueError(
            f"the latent is scaled already ({describe(mark)}), so {describe(chosen)} would be a "
            "second time: turn it back to raw first."
        )
