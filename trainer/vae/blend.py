"""Two decoders mixed into one: a walk between a sharp one and a smooth one, weight by weight."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.vae.autoencoder import DECODER_PREFIXES, canonical_sha256
from trainer.vae.base import Weights
from trainer.vae.metadata import as_json
from vae_core.architecture import check_state
from vae_core.checkpoint import CheckpointError, shown


def read_share(text: str) -> float:
    """Read a share from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UserError(f"SHARE of --blend must be a number from 0 to 1, but {text!r} came")
    return share


def blend(one: Weights, other: Weights, share: float) -> tuple[dict[str, Tensor], str | None]:
    """Mix decoders in float32, (1 - share) * one + share * other; the rest stays that of `one`.

    Returns the weights, and a warning if the two encoders differ. Raises UserError if the two do
    not have the same architecture.
    """
    _check_alike(one, other)
    mixed = {
        name: torch.lerp(tensor.float(), other.state[name].float(), share)
        if name.startswith(DECODER_PREFIXES)
        else tensor
        for name, tensor in one.state.items()
    }
    if _same_encoder(one.state, other.state):
        return mixed, None
    return mixed, (
        f"the encoders of {shown(one.name)} and {shown(other.name)} differ, so their decoders may "
        "not understand the same latents: look at the result before you use it"
    )


def blend_metadata(one: Weights, other: Weights, share: float) -> dict[str, str]:
    """Say in the file's metadata what it was mixed from."""
    hashes = [canonical_sha256(weights.state) for weights in (one, other)]
    return {
        "modelspec.merged_from": f"{one.name}, {other.name}",
        "vae_lab.blend": as_json({"share": share, "sha256": hashes}),
    }


def _check_alike(one: Weights, other: Weights) -> None:
    names = f"{shown(other.name)} can not be blended with {shown(one.name)}"
    shapes = {name: tuple(tensor.shape) for name, tensor in other.state.items()}
    try:
        check_state(shapes, one.architecture)
    except CheckpointError as error:
        raise UserError(f"{names}: it {error}") from error
    for key in ("act_fn", "norm_num_groups"):
        mine, others = one.architecture.get(key), other.architecture.get(key)
        if mine != others:
            raise UserError(f"{names}: their {key} differs ({others}, {mine})")


def _same_encoder(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Compare with room for the rounding of bfloat16 (8 bits), as either may have been rounded."""
    return all(
        torch.allclose(tensor.float(), other[name].float(), rtol=2**-7, atol=1e-6)
        for name, tensor in one.items()
        if not name.startswith(DECODER_PREFIXES)
    )
