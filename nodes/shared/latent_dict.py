"""ComfyUI's LATENT: a dict of `samples`, and of what goes along with them.

`samples` is [B, C, h, w], or [B, C, T, h, w] of a video. `noise_mask` and `batch_index` may stand
beside it, and so may the mark of a scaling. Nothing here writes into a dict or tensor that it was
given: ComfyUI keeps them for the next run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...vae_core.scaling import NONE, Scaling, from_mark, to_mark
from .schema import LARGEST_SEED

Latent = dict[str, Any]

MARK = "vae_lab_scaling"
WINDOW = "vae_lab_window"  # which pixels of the decoded picture are the picture
STD = "vae_lab_std"  # σ of the posterior, in raw units
MOST_VALUES = 2**31  # 8 GiB in float32


def read_samples(latent: Latent, name: str = "samples", ranks: Sequence[int] = (4, 5)) -> Tensor:
    """Take the tensor out of a LATENT: floats [B, C, h, w] or [B, C, T, h, w], not empty.

    NaN is let through: every node has its own answer to it. Raises ValueError otherwise.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if getattr(samples, "is_nested", False):
        raise ValueError(
            f"expected {name} as one latent, got a nested one (video with audio): separate it "
            "into its parts first."
        )
    if not isinstance(samples, Tensor):
        raise ValueError(f"expected {name} as a LATENT with samples, got {type(latent).__name__}.")
    shape = list(samples.shape)
    if samples.ndim not in ranks:
        kinds = " or ".join("BCThw" if rank == 5 else "BChw" for rank in ranks)
        raise ValueError(
            f"expected {name} as {kinds}, got shape {shape}"
            f"{': latents of audio have no place here' if samples.ndim == 3 else ''}."
        )
    if not samples.numel():
        raise ValueError(f"expected {name} with something in it, got the empty shape {shape}.")
    if not samples.is_floating_point():
        raise ValueError(f"expected {name} as floating-point numbers, got {samples.dtype}.")
    return samples


def replaced(latent: Latent, samples: Tensor, source: Sequence[int] | None = None) -> Latent:
    """Copy a LATENT with other samples; masks and batch indices follow the items.

    Args:
        latent: what the new one is made of; left as it is.
        samples: the new tensor, detached.
        source: for each new item the index of the item that it comes from; none when items stay
            where they are.
    """
    result = {**latent, "samples": samples.detach()}
    if source is None:
        return result
    count = latent["samples"].shape[0]
    mask = latent.get("noise_mask")
    if mask is not None and not _is_of_frames(mask, latent["samples"]):
        result["noise_mask"] = _follow(mask, count, source)
    if latent.get("batch_index") is not None:
        old = latent["batch_index"]
        result["batch_index"] = [old[index % len(old)] for index in source]
    return result


def _is_of_frames(mask: Tensor, samples: Tensor) -> bool:
    """Tell whether a mask's first axis counts a video's frames, and not the batch's items."""
    return samples.ndim == 5 and mask.ndim < 5


def _follow(mask: Tensor, count: int, source: Sequence[int]) -> Tensor:
    """Pick a mask's items; fewer masks than items are repeated, as ComfyUI's own nodes do."""
    if mask.shape[0] == 1:
        return mask
    times = math.ceil(count / mask.shape[0])
    whole = mask.repeat(times, *[1] * (mask.ndim - 1))
    return whole[torch.as_tensor(list(source), dtype=torch.long)]


def without_spread(latent: Latent) -> Latent:
    """Copy a LATENT without the posterior's spread, which belongs to no changed samples."""
    return {key: value for key, value in latent.items() if key != STD}


def read_mark(latent: Latent) -> Scaling | None:
    """Read the scaling that a LATENT carries; None for a raw one."""
    mark = latent.get(MARK)
    return None if mark is None else from_mark(mark)


def marked(latent: Latent, scaling: Scaling | None) -> Latent:
    """Copy a LATENT with the mark of a scaling, or without any for a raw one."""
    rest = {key: value for key, value in latent.items() if key != MARK}
    return rest if scaling in (None, NONE) else rest | {MARK: to_mark(scaling)}


def checked_number(value: float, name: str, low: float, high: float) -> float:
    """Give a finite number within its range, or raise: NaN passes ComfyUI's own checks."""
    if not low <= value <= high:  # false for NaN too
        raise ValueError(f"expected {name} from {low:g} to {high:g}, got {shown_number(value)}.")
    return value


def checked_seed(seed: int) -> int:
    """Give a seed in its range: what comes over a wire has passed no check of ComfyUI's."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"expected seed from 0 to 2**64 - 1, got {shown_number(seed)}.")
    return int(seed)


def shown_number(value: float) -> str:
    """Show a number in a message; Python itself refuses to print whole ones of many digits."""
    beyond = isinstance(value, int) and abs(value) > 10**300
    return "a number of hundreds of digits" if beyond else str(value)


def chosen(value: str, name: str, options: Sequence[str]) -> str:
    """Give a choice of a list, or raise: ComfyUI does not check the lists of V3 nodes."""
    if value not in options:
        raise ValueError(f"expected {name} among {', '.join(options)}, got {str(value)[:80]!r}.")
    return value


def bounded(shape: Sequence[int], name: str) -> None:
    """Refuse a result that no one can have meant, before anything of it is made."""
    values = math.prod(shape)
    if values > MOST_VALUES:
        raise ValueError(
            f"expected {name} of at most {MOST_VALUES:,} values, got {list(shape)}, which is "
            f"{values:,}: ask for fewer or smaller ones."
        )
