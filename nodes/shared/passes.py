"""Pictures through a VAE: whole by ComfyUI itself, or in exact tiles where that does not fit.

Models are loaded, moved and cast by ComfyUI's own management, as in its `VAE.decode` and
`VAE.encode`. What was done beside the whole pass, and why, is told in sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import comfy.model_management as management
import comfy.sd
import torch
from torch import Tensor

from ...vae_core import tiling as engine
from ...vae_core.tiling import Network, Plan, UnknownNetwork
from .host_tiles import decode_in_tiles, encode_in_tiles
from .loops import strips
from .tiling import AUTO, MIB, OFF, Tiling

Step = Literal["decode", "encode"]

ROWS = 256
USABLE = 0.9  # of what is free: kernels want workspace of their own
PLANS = {"decode": engine.plan_decode, "encode": engine.plan_encode}
HOST_TILES = {"decode": decode_in_tiles, "encode": encode_in_tiles}


class NoRoom(MemoryError):
    """A whole pass that ran out of memory."""


class Passes:
    """One node's passes through a VAE; `notes` says what was not ComfyUI's own whole pass."""

    def __init__(self, vae: Any, tiling: Tiling) -> None:
        self.vae, self.notes = vae, list[str]()
        self._tiling = tiling

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a raw latent to pictures [B, H, W, 3] in 0..1, as `vae.decode` gives them."""
        return self._passed("decode", latent, tuple(latent.shape))

    def encode(self, images: Tensor) -> Tensor:
        """Encode pictures [B, H, W, 3] in 0..1 to the posterior's mean, as `vae.encode` gives it.

        Their sides are multiples of the VAE's ratio.
        """
        count, *sides, channels = images.shape
        return self._passed("encode", images, (count, channels, *sides))

    def _passed(self, step: Step, given: Tensor, shape: tuple[int, ...]) -> Tensor:
        choice = self._tiling.choice
        if choice == OFF:
            return getattr(self.vae, step)(given)
        network = known_network(self.vae, given)
        if isinstance(network, str):
            return self._left_to_the_host(step, given, network)
        ran_out, why = False, "as chosen"
        if choice == AUTO and not (why := self._why_not_whole(step, network, shape)):
            whole = whole_or_none(self.vae, step, given)
            if whole is not None:
                return whole
            management.soft_empty_cache()
            ran_out, why = True, "the whole pass ran out of memory"
        plan = self._plan(step, network, shape, thrifty=ran_out)
        self._note(f"{step}d in exact tiles ({why}), {told_plan(plan)}")
        return EXACTLY[step](self.vae, network, given, plan)

    def _left_to_the_host(self, step: Step, given: Tensor, reason: str) -> Tensor:
        if self._tiling.choice == AUTO:
            self._note(f"{step}d by ComfyUI, in its own tiles if memory runs out: {reason}")
            return getattr(self.vae, step)(given)
        self._note(f"{step}d in ComfyUI's own tiles, which are not exact: {reason}")
        return HOST_TILES[step](self.vae, given)

    def _why_not_whole(self, step: Step, network: Network, shape: tuple[int, ...]) -> str:
        """Say why a whole pass would not fit; nothing where it would."""
        one = (1, *shape[1:])  # ComfyUI splits a batch by what is free, but by no budget
        batch = shape if self._tiling.budget else one
        need = engine.untiled_bytes(network, batch, self.vae.vae_dtype, step)
        room = self._room(need)
        if need <= room:
            return ""
        word = "allowed" if room == self._tiling.budget else "free"
        return f"the whole pass takes {need // MIB} MiB, {room // MIB} MiB are {word}"

    def _room(self, wanted: int) -> int:
        """Bytes that a pass may take, which at best are those wanted."""
        budget = self._tiling.budget
        if budget is None:
            return free_bytes(self.vae, wanted)
        return min(budget, free_bytes(self.vae, min(budget, wanted)))

    def _plan(self, step: Step, network: Network, shape: tuple[int, ...], *, thrifty: bool) -> Plan:
        """Plan for the budget: the fastest within it, or without one what takes little memory.

        On a device that is too small, tensors rest in system memory.
        """
        plan = partial(PLANS[step], network, shape, self.vae.vae_dtype)
        sparing = plan(None)
        limit = self._room(sparing.budget_bytes)
        if (thrifty or not self._tiling.budget) and sparing.budget_bytes <= limit:
            return sparing
        try:
            return plan(limit)
        except engine.TooLittleMemory:
            if torch.device(self.vae.device).type == "cpu":
                raise
            return plan(limit, rest_on=torch.device("cpu"))

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def known_network(vae: Any, given: Tensor) -> Network | str:
    """Read the VAE's network; a sentence where exact tiles cannot stand for ComfyUI's pass."""
    if given.ndim != 4:
        return f"exact tiles are for pictures, got {given.ndim} dimensions."
    kind, own = type(vae), comfy.sd.VAE
    if not issubclass(kind, own) or (kind.decode, kind.encode) != (own.decode, own.encode):
        return f"{kind.__name__} has a way of its own to decode and encode."
    if vae.first_stage_model is None:
        return "it holds no network."
    try:
        network = engine.read_network(vae.first_stage_model)
    except UnknownNetwork as error:
        return str(error)
    if network.ratio != vae.spacial_compression_decode():
        return f"its network has the ratio {network.ratio}, ComfyUI gives it another."
    return network


def free_bytes(vae: Any, wanted: int) -> int:
    """Load the VAE as ComfyUI does, others making way for `wanted` bytes; say what is then free."""
    whole = getattr(vae, "disable_offload", False)
    management.load_models_gpu([vae.patcher], memory_required=wanted, force_full_load=whole)
    return int(USABLE * management.get_free_memory(vae.device))


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


def told_plan(plan: Plan) -> str:
    """Say what a plan takes."""
    text = f"{plan.peak_bytes // MIB} MiB planned"
    if plan.recomputed:
        text += f", {plan.recomputed} layers computed twice to save memory"
    return f"{text}." if plan.rest_on is None else f"{text}, part of it in system memory."


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
