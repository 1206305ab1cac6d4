"""What is in a latent, in numbers: moments, percentiles, histograms, and what looks wrong with it.

A latent is [B, C, h, w] or, for video, [B, C, t, h, w], raw or model, in any floating dtype.
Values that are NaN or infinite are counted and left out of every other figure. Sums are done in
float64 on the CPU, one batch item at a time. What cannot be computed is NaN, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..latents import kl_per_item

SAMPLE = 2**20  # more values than this are sampled for percentiles: sorting them all is slow
_GOLDEN = (math.sqrt(5) - 1) / 2


class Moments(NamedTuple):
    """Figures of the finite values per item and channel, each [B, C] in float64 on the CPU.

    `variance` divides by the number of values; where there is no finite value, `count` is 0 and
    the others are NaN.
    """

    count: Tensor
    non_finite: Tensor
    mean: Tensor
    variance: Tensor
    low: Tensor
    high: Tensor


class Summary(NamedTuple):
    """Figures of the finite values of one thing: a batch, an item or a channel."""

    values: int  # finite or not
    non_finite: int
    mean: float
    std: float  # of the population: divides by the number of values
    minimum: float
    maximum: float


def moments(latent: Tensor) -> Moments:
    """Measure each channel of each item: [B, C, ...] -> Moments of [B, C]."""
    items = [_item_moments(item) for item in latent]
    return Moments(*(torch.stack(column) for column in zip(*items, strict=True)))


def pooled(parts: Moments, dims: Sequence[int] = (0, 1)) -> Moments:
    """Put parts together as if they had been measured at once, along dims of [B, C].

    The pooled variance is Σ nᵢ (vᵢ + (mᵢ - m)²) / Σ nᵢ, which is exact.
    """
    dims = tuple(dims)
    count = parts.count.sum(dims, keepdim=True)
    mean = (parts.count * parts.mean.nan_to_num()).sum(dims, keepdim=True) / count
    spread = parts.variance.nan_to_num() + (parts.mean.nan_to_num() - mean).square()
    variance = (parts.count * spread).sum(dims, keepdim=True) / count
    low = parts.low.nan_to_num(nan=math.inf).amin(dims, keepdim=True)
    high = parts.high.nan_to_num(nan=-math.inf).amax(dims, keepdim=True)
    whole = Moments(
        count, parts.non_finite.sum(dims, keepdim=True), mean, variance, *_known(count, low, high)
    )
    return Moments(*(column.squeeze(dims) for column in whole))


def summaries(parts: Moments) -> list[Summary]:
    """Turn Moments of any shape into plain numbers, one Summary an entry, in order."""
    columns = [column.flatten().tolist() for column in parts]
    return [
        Summary(int(count + bad), int(bad), mean, math.sqrt(variance), low, high)
        for count, bad, mean, variance, low, high in zip(*columns, strict=True)
    ]


def summary(latent: Tensor) -> Summary:
    """Measure a whole latent at once: [B, C, ...] -> Summary."""
    return summaries(pooled(moments(latent)))[0]


def finite_values(latent: Tensor, most: int = SAMPLE) -> Tensor:
    """Collect finite values: any shape -> [N] in float64 on the CPU, N at most `most`.

    More of them are sampled at the places n·frac(iφ), φ the golden section: the same ones each
    time, spread evenly, and never in step with rows or columns as every k-th value would be.
    """
    values = latent.detach().flatten()
    if values.numel() > most:
        steps = torch.arange(most, dtype=torch.float64)
        places = ((steps * _GOLDEN) % 1 * values.numel()).long()
        values = values[places.to(values.device)]
    values = values.cpu().double()
    return values[values.isfinite()]


def percentiles(latent: Tensor, percents: Sequence[float]) -> list[float]:
    """Find percentiles of the finite values, in [0, 100], interpolated linearly; NaN without any.

    Exact up to SAMPLE values, above that from the sample of `finite_values`.
    """
    return percentiles_of(finite_values(latent), percents)


def percentiles_of(values: Tensor, percents: Sequence[float]) -> list[float]:
    """Find percentiles of finite values [N], N at most 2**24 (the limit of torch.quantile)."""
    if values.numel() == 0:
        return [math.nan] * len(percents)
    shares = torch.tensor(percents, dtype=values.dtype, device=values.device) / 100
    return torch.quantile(values, shares).tolist()


def histogram(latent: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Measure densities per channel: [B, C, ...] -> [C, bins] in float64, from low to high.

    A count is divided by the channel's number of finite values and the width of a bin, so that
    the area under a line is the share of values that lie in range, and a line can be held
    against a probability density. The highest bin holds `high` too, as numpy's does.
    """
    channels = latent.detach().movedim(1, 0)
    return torch.stack([_densities(channel, low, high, bins) for channel in channels])


def kl(mean: Tensor, std: Tensor | None) -> Tensor:
    """Measure each item's KL divergence from N(0, I), in nats: raw [B, C, ...] twice -> [B].

    `mean` and `std` are the posterior's μ and σ. NaN without σ, and where values are not finite.
    """
    if std is None:
        return torch.full((mean.shape[0],), math.nan)
    result = kl_per_item(mean.detach().cpu(), 2 * std.detach().cpu().float().log())
    return torch.where(result.isfinite(), result, math.nan)


def looks_off(model_std: float, scale: float, is_marked: bool) -> str:
    """Say why a latent does not look like what it is read as; "" where it looks right.

    Model latents of a family have a standard deviation near 1, raw ones near 1 / scale. The guess
    is made where these are at least four times apart (SD1, SDXL), at their geometric mean.
    """
    raw_std, expected = model_std / scale, 1 / scale
    if not (math.isfinite(model_std) and model_std > 0) or 0.25 < scale < 4:
        return ""
    if is_marked and _nearer(model_std, expected, 1):
        return (
            f"looks raw, although it is marked as scaled: std {model_std:.3g} where scaled "
            f"latents have about 1 and raw ones about {expected:.2g}"
        )
    if not is_marked and _nearer(raw_std, 1, expected):
        return (
            f"looks already scaled: std {raw_std:.3g} where raw latents of this family have "
            f"about {expected:.2g} and scaled ones about 1"
        )
    return ""


def _item_moments(item: Tensor) -> Moments:
    """Measure one item: [C, ...] -> Moments of [C]."""
    values = item.detach().cpu().double().flatten(1)
    finite = values.isfinite()
    count = finite.sum(1).double()
    mean = values.where(finite, 0.0).sum(1) / count
    variance = (values - mean[:, None]).where(finite, 0.0).square().sum(1) / count
    low, high = values.where(finite, math.inf).amin(1), values.where(finite, -math.inf).amax(1)
    bad = values.shape[1] - count
    return Moments(count, bad, mean, variance, *_known(count, low, high))


def _known(count: Tensor, *figures: Tensor) -> list[Tensor]:
    return [figure.where(count > 0, math.nan) for figure in figures]


def _densities(channel: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Measure one channel's densities, item by item: [B, ...] -> [bins]."""
    counts, total = torch.zeros(bins, dtype=torch.float64), 0
    for item in channel:
        values = item.cpu().double().flatten()
        values = values[values.isfinite()]
        counts += torch.histc(values, bins, low, high)
        total += values.numel()
    return counts / (total * (high - low) / bins) if total else counts


def _nearer(value: float, candidate: float, other: float) -> bool:
    return abs(math.log(value / candidate)) < abs(math.log(value / other))
