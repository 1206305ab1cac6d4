"""Exact tiles around ComfyUI's VAE: planned for what is free, computed, and told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor

from ...vae_core import tiling as engine
from ...vae_core.tiling import Network, Plan
from .loops import strips
from .tiling import MIB
from .whole_pass import Step, is_out_of_memory

ROWS = 256  # mapped to 0..1 at a time
USABLE = 0.9  # of what is free: kernels want workspace of their own
PLANS = {"decode": engine.plan_decode, "encode": engine.plan_encode}


def free_bytes(vae: Any, wanted: int) -> int:
    """Load the VAE as ComfyUI does, others making way for `wanted` bytes; say what is then free."""
    whole = getattr(vae, "disable_offload", False)
    management.load_models_gpu([vae.patcher], memory_required=wanted, force_full_load=whole)
    return int(USABLE * management.get_free_memory(vae.device))


def elsewhere(vae: Any) -> torch.device | None:
    """Where tensors may rest beside the VAE's device: in system memory, where that is another."""
    return None if torch.device(vae.device).type == "cpu" else torch.device("cpu")


def fitting(plan: Callable[..., Plan], limit: int, rest_on: torch.device | None) -> Plan:
    """The fastest plan within a limit: all on the device or, where that is too little, not."""
    try:
        return plan(limit)
    except engine.TooLittleMemory:
        if rest_on is None:
            raise
        return plan(limit, rest_on=rest_on)


def least_plan(vae: Any, step: Step, network: Network, plan: Plan) -> Plan:
    """The plan of the least memory for what another plan is for."""
    within = partial(PLANS[step], network, plan.shape, plan.dtype, rest_on=elsewhere(vae))
    try:
        return within(0)
    except engine.TooLittleMemory as error:
        return within(error.least)


def told_plan(plan: Plan) -> str:
    """Say what a plan takes."""
    text = f"{plan.peak_bytes // MIB} MiB planned"
    if plan.recomputed:
        text += f", {plan.recomputed} layers computed twice to save memory"
    return f"{text}." if plan.rest_on is None else f"{text}, part of it in system memory."


def tiled_or_none(
    vae: Any, step: Step, network: Network, given: Tensor, plan: Plan
) -> Tensor | None:
    """Exact tiles by a plan; None where they ran out of memory."""
    try:
        return EXACTLY[step](vae, network, given, plan)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


def out_of_memory(vae: Any, plan: Plan, *, less: bool = False) -> Exception:
    """The error of exact tiles that ran out of memory, on a device of ComfyUI's own kind.

    `less` where a budget was chosen that could be lower.
    """
    kind = MemoryError if elsewhere(vae) is None else management.OOM_EXCEPTION
    way_out = "set memory_budget lower" if less else "end other programs"
    return kind(
        f"Expected {plan.peak_bytes // MIB} MiB to be free for exact tiles, and memory ran out: "
        f"{way_out}, or take a smaller picture."
    )


def decode_exactly(vae: Any, network: Network, latent: Tensor, plan: Plan) -> Tensor:
    """What `VAE.decode` does around its network, around the same network in strips."""
    given = latent.to(vae.vae_dtype).to(vae.device)
    out = engine.decode(network, given, plan, strips()).to(vae.output_device).float()
    for rows in out.split(ROWS, 2):  # of a whole picture it would make copies
        rows.copy_(vae.process_output(rows))
    return out.movedim(1, -1)


def encode_exactly(vae: Any, network: Network, images: Tensor, plan: Plan) -> Tensor:
    """What `VAE.encode` does around its network; moments pass the model's own regularization."""
    pixels = vae.process_input(images.movedim(-1, 1)).to(vae.vae_dtype).to(vae.device)
    moments = engine.encode(network, pixels, plan, strips())
    return vae.first_stage_model.regularization(moments)[0].to(vae.output_device).float()


EXACTLY = {"decode": decode_exactly, "encode": encode_exactly}
