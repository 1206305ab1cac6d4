"""Principal components: latents of many dimensions laid out in the few that vary most.

Pearson (1901), "On lines and planes of closest fit to systems of points in space". Signs are free
in theory; here each component's largest value is positive, so that a picture is always the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**22  # values of float64 that are held at once


class Projection(NamedTuple):
    """Places along the principal components, in the units of the values, float64 on the CPU.

    `places` [N, k]: NaN for what held a value that is not finite. `shares` [k]: each component's
    part of all variance, in [0, 1]; NaN where nothing varies.
    """

    places: Tensor
    shares: Tensor


def project_items(latents: Tensor, components: int = 2) -> Projection:
    """Lay out batch items by their differences: [B, ...] -> Projection of [B, components].

    Every item is one point with all its values. Distances in the plane are at most those of the
    latents. Works on the B x B products, so that a large latent costs little memory.
    Raises ValueError for fewer than two items.
    """
    if latents.shape[0] < 2:
        raise ValueError(f"Expected at least 2 items to project, got {latents.shape[0]}.")
    rows = latents.detach().cpu().flatten(1)
    finite = torch.stack([row.isfinite().all() for row in rows])
    products = _centred_products(rows[finite])
    values, vectors = torch.linalg.eigh(products)
    return _laid_out(values, vectors, finite, components)


def project_positions(item: Tensor, components: int = 3) -> Projection:
    """Lay out an item's positions by their channels: [C, h, w] -> Projection of [h·w, components].

    Every position is one point with C values; components beyond C are 0.
    """
    rows = item.detach().cpu().double().flatten(1).mT
    finite = rows.isfinite().all(1)
    kept = rows[finite]
    centred = kept - kept.mean(0, keepdim=True) if len(kept) else kept
    values, vectors = torch.linalg.eigh(centred.mT @ centred)
    values, axes = values.flip(0)[:components], vectors.flip(1)[:, :components]
    places = _scattered(_positive(_widened(centred @ axes, components)), finite)
    return Projection(places, _shares(values, centred.square().sum(), components))


def _centred_products(rows: Tensor) -> Tensor:
    """Multiply centred rows with each other: [N, D] -> [N, N] in float64, some columns at a time.

    The mean row is taken off first: taking it off the products would lose small differences.
    """
    products = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for part in rows.split(max(1, CHUNK // max(1, len(rows))), dim=1):
        part = part.double()
        part = part - part.mean(0, keepdim=True)
        products += part @ part.mT
    return products


def _laid_out(values: Tensor, vectors: Tensor, finite: Tensor, components: int) -> Projection:
    """Turn eigenpairs of the products into places: the vector times the root of its value."""
    total = values.clamp(min=0).sum()
    values = values.clamp(min=0).flip(0)[:components]
    places = vectors.flip(1)[:, :components] * values.sqrt()
    places = _positive(_widened(places, components))
    return Projection(_scattered(places, finite), _shares(values, total, components))


def _shares(values: Tensor, total: Tensor, components: int) -> Tensor:
    shares = values.clamp(min=0) / total
    return torch.cat([shares, (0 / total).expand(components - len(shares))])


def _widened(places: Tensor, components: int) -> Tensor:
    return torch.nn.functional.pad(places, (0, components - places.shape[1]))


def _positive(places: Tensor) -> Tensor:
    """Turn each component so that its value farthest from 0 is positive."""
    if len(places) == 0:
        return places
    farthest = places.gather(0, places.abs().argmax(0, keepdim=True))
    return places * torch.where(farthest < 0, -1.0, 1.0)


def _scattered(places: Tensor, finite: Tensor) -> Tensor:
    """Put the places of finite rows where they belong, NaN for the others."""
    result = places.new_full((len(finite), places.shape[1]), float("nan"))
    result[finite] = places
    return result
