"""Pictures through a VAE: whole by ComfyUI itself, or in exact tiles where that does not fit.

Models are loaded, moved and cast by ComfyUI's own management, as in its `VAE.decode` and
`VAE.encode`. What was done beside the whole pass, and why, is told in sentences.
"""

from __future__ import annotations

import logging
from functools import partial
from math import ceil
from typing import Any

import comfy.model_management as management
import comfy.sd
from torch import Tensor

from ...vae_core import tiling as engine
from ...vae_core.tiling import Network, Plan, UnknownNetwork
from .exact_pass import (
    PLANS,
    elsewhere,
    fitting,
    free_bytes,
    least_plan,
    out_of_memory,
    tiled_or_none,
    told_plan,
)
from .host_tiles import decode_in_tiles, encode_in_tiles
from .tiling import AUTO, MIB, OFF, Tiling
from .whole_pass import Step, keeps_scores, whole_or_none

HOST_TILES = {"decode": decode_in_tiles, "encode": encode_in_tiles}
log = logging.getLogger(__name__)


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
        return self._tiled(step, network, given, plan, why)

    def _tiled(self, step: Step, network: Network, given: Tensor, plan: Plan, why: str) -> Tensor:
        """In exact tiles; again with the least memory where they ran out of it."""
        found = tiled_or_none(self.vae, step, network, given, plan)
        if found is None:
            management.soft_empty_cache()
            least = least_plan(self.vae, step, network, plan)
            less = least.budget_bytes < plan.budget_bytes
            if self._tiling.budget or not less:
                raise out_of_memory(self.vae, plan, less=less)
            ran_out = f"tiles of {plan.peak_bytes // MIB} MiB ran out of memory"
            log.warning("%s: %s, trying %d MiB.", step, ran_out, least.peak_bytes // MIB)
            plan, why = least, f"{why}; {ran_out}"
            found = tiled_or_none(self.vae, step, network, given, plan)
        if found is None:
            raise out_of_memory(self.vae, plan)
        self._note(f"{step}d in exact tiles ({why}), {told_plan(plan)}")
        return found

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
        need = engine.untiled_bytes(network, batch, self.vae.vae_dtype, step, scores=keeps_scores())
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
            return fitting(plan, limit, elsewhere(self.vae))
        except engine.TooLittleMemory as error:
            if limit == self._tiling.budget:
                raise
            raise ValueError(
                f"expected at least {ceil(error.least / MIB)} MiB of free memory for a picture of "
                f"this size, got {limit // MIB} MiB: end other programs, or take a smaller picture."
            ) from None

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
