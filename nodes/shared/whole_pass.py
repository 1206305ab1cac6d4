"""ComfyUI's own whole pass of a picture through a VAE, and how it is told when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import comfy.model_management as management
import torch
from torch import Tensor

Step = Literal["decode", "encode"]


class NoRoom(MemoryError):
    """A whole pass that ran out of memory."""


def whole_or_none(vae: Any, step: Step, given: Tensor) -> Tensor | None:
    """ComfyUI's own whole pass; None where it ran out of memory, instead of ComfyUI's tiles."""
    try:
        with without_tiles(vae.first_stage_model, step):
            return getattr(vae, step)(given)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


@contextmanager
def without_tiles(model: torch.nn.Module, step: Step) -> Iterator[None]:
    """Let a pass that runs out of memory raise NoRoom, which ComfyUI does not answer with tiles."""
    own, before = getattr(model, step), vars(model).get(step)

    def watched(*given: Any, **options: Any) -> Tensor:
        try:
            return own(*given, **options)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        raise NoRoom  # out of the handler, which keeps all tensors of the pass alive

    setattr(model, step, watched)
    try:
        yield
    finally:
        delattr(model, step)
        if before is not None:
            setattr(model, step, before)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a device or in the system."""
    if isinstance(error, (management.OOM_EXCEPTION, MemoryError)):
        return True
    said = str(error).lower()
    return "out of memory" in said or "can't allocate memory" in said


def keeps_scores() -> bool:
    """Whether ComfyUI's attention in a VAE is its own, which writes out all scores, as on a CPU.

    It slices them by what is free, which heeds no budget and needs a fitting number of pixels.
    Source: comfy/ldm/modules/diffusionmodules/model.py, vae_attention and slice_attention.
    """
    return not (management.xformers_enabled_vae() or management.pytorch_attention_enabled_vae())
