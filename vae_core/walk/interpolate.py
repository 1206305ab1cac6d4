"""Interpolation between latents: straight, on a sphere, or straight with the length kept.

B batch, C latent channels, T latent frames of a video, h, w latent cells. Latents are
[B, C, h, w] or [B, C, T, h, w]; batches are taken item by item, and a batch of 1 stands for every
item. Everything is computed in float64 (float32 where the device has none), then given back in the
first key's dtype. The space is that of the latents that come in, raw or scaled: slerp turns about
its zero.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import slerp
from .timeline import Step, check_choice

MODES = ("lerp", "slerp", "lerp, norm kept")
SCOPES = ("whole item", "each channel", "each position")
Path = Callable[[float], Tensor]  # a share of the way in [0, 1] -> the latent there


def sequence(
    keys: Sequence[Tensor],
    steps: Sequence[Step],
    mode: str,
    scope: str = "whole item",
    mask: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the latent of each step: keys [B or 1, C, ...] of one size -> [B or 1, C, ...] each.

    A step that falls on a key is that key, bit for bit. Where the mask (see fit_mask) is 0 the
    first key stays, bit for bit. Raises ValueError for an unknown mode or scope.
    """
    first, ends, path = keys[0], None, None
    for step in steps:
        if step.share and ends != step[:2]:
            ends, path = step[:2], between(keys[step.start], keys[step.end], mode, scope)
        latent = path(step.share) if step.share else keys[step.start]
        latent = latent.to(first)
        yield latent if mask is None else masked(first, latent, mask)


def between(a: Tensor, b: Tensor, mode: str, scope: str = "whole item") -> Path:
    """Prepare the way between two latents of one size, [B or 1, C, ...], in a's dtype.

    lerp: (1 - t) a + t b. slerp: the direction turns evenly, the length goes straight from |a| to
    |b|. lerp, norm kept: the direction is that of the straight line between the unit vectors, the
    length as in slerp. The vectors are whole items, or each channel by itself (over all cells), or
    each position by itself (over the channels); lerp is the same for all three.
    A zero vector takes the other's direction; opposite vectors pass through slerp.right_angle.
    """
    check_choice("mode", mode, MODES)
    check_choice("scope", scope, SCOPES)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    x, y = _vectors(a, scope), _vectors(b.to(a.device), scope)
    path = _straight(x, y) if mode == "lerp" else _kept_norm(x, y, turning=mode == "slerp")
    return lambda t: _latents(path(t), shape, scope).to(a.dtype)


def masked(first: Tensor, latent: Tensor, mask: Tensor) -> Tensor:
    """Let a latent act where the mask is 1, and the first key stay where it is 0, both exactly.

    first, latent [B or 1, C, ...]; mask as fit_mask gives it. In between, in proportion.
    """
    share = mask.to(first.device)
    blend = _straight(_precise(first), _precise(latent))(share).to(first.dtype)
    return torch.where(share == 0, first, torch.where(share == 1, latent, blend))


def fit_mask(mask: Tensor, latent: Tensor) -> Tensor:
    """Fit masks to latents: [M, H, W] or [H, W] -> [M, 1, h, w] or [M, 1, 1, h, w], in [0, 1].

    Made smaller it takes the mean over each cell, so that a cell that is covered stays exactly 1;
    made larger it is bilinear. Raises ValueError for another rank and for an empty mask.
    """
    if mask.ndim not in (2, 3) or not mask.numel():
        raise ValueError(f"Expected a mask [M, H, W], got a tensor of shape {list(mask.shape)}.")
    planes = _precise(mask).reshape(-1, 1, *mask.shape[-2:]).clamp(0, 1)
    size = latent.shape[-2:]
    smaller = all(old >= new for old, new in zip(planes.shape[-2:], size, strict=True))
    if planes.shape[-2:] != size:
        planes = F.interpolate(planes, size, mode="area" if smaller else "bilinear")
    planes = planes.float()  # from float64, where weights that add up to 1 - 1e-16 round to 1
    return planes if latent.ndim == 4 else planes.unsqueeze(2)


def resized(latent: Tensor, height: int, width: int) -> Tensor:
    """Resize latents without stretching: [B, C, ..., h, w] -> [B, C, ..., height, width].

    The middle of the same proportions is cut out, then resized bilinearly (averaging where it
    gets smaller), in float32. This is a mere resize of cells: it softens what they decode to.
    """
    h, w = latent.shape[-2:]
    wide, tall = round(h * width / height), round(w * height / width)
    cut_h, cut_w = (h, max(wide, 1)) if wide <= w else (min(max(tall, 1), h), w)
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    middle = latent[..., top : top + cut_h, left : left + cut_w].float()
    planes = middle.reshape(-1, 1, cut_h, cut_w)
    planes = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return planes.reshape(*latent.shape[:-2], height, width).to(latent.dtype)


def _straight(a: Tensor, b: Tensor) -> Callable[[float | Tensor], Tensor]:
    return lambda t: (1 - t) * a + t * b


def _kept_norm(a: Tensor, b: Tensor, turning: bool) -> Path:
    """Move the direction along a turn or a chord, and the length evenly: vectors [..., n]."""
    norms = _straight(slerp.norm(a), slerp.norm(b))
    start, end = slerp.directions(a, b)
    turn = slerp.arc(start, end)
    if turning:
        return lambda t: norms(t) * slerp.turned(turn, t)
    opposite = slerp.are_opposite(start, end)

    def chord(t: float) -> Tensor:
        line = torch.where(opposite, slerp.turned(turn, t), _straight(start, end)(t))
        length = slerp.norm(line)
        return norms(t) * line / torch.where(length == 0, 1, length)

    return chord


def _vectors(latent: Tensor, scope: str) -> Tensor:
    """Lay out what counts as one vector along the last axis: [B, C, ...] -> [B, groups, n].

    Channels lie side by side where they share a vector.
    """
    precise = _precise(latent)
    if scope == "each channel":
        return precise.flatten(2)
    by_position = precise.movedim(1, -1).flatten(1, -2)
    return by_position if scope == "each position" else by_position.flatten(1).unsqueeze(1)


def _latents(vectors: Tensor, shape: torch.Size, scope: str) -> Tensor:
    """Undo _vectors: [B, groups, n] -> the shape [B, C, ...]."""
    if scope == "each channel":
        return vectors.reshape(shape)
    return vectors.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _precise(x: Tensor) -> Tensor:
    """Widen to float64; MPS has none, and takes float32."""
    return x.float() if x.device.type == "mps" else x.double()
