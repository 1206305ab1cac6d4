"""What repeated encoding and decoding does to pictures: figures per trip, and their text.

Images are [B, H, W, 3] in [0, 1]. A trip is one encode and decode. Figures compare what 8-bit
files would hold (images.to_unit); what cannot be computed is NaN, and is empty in CSV.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..images import LEVELS, to_unit
from ..metrics import channel_mean_error, mae, psnr
from .figures import mean

COLOURS = ("red", "green", "blue")
COLUMNS = ("trip", "image", "psnr_original", "psnr_previous", "mae_original")
COLUMNS += tuple(f"shift_{name}" for name in COLOURS) + ("not_finite",)


class Trip(NamedTuple):
    """The figures of one trip, a number per picture; `shift` has one per channel."""

    psnr: list[float]  # dB, to the original; inf where not a level differs
    psnr_previous: list[float]  # dB, to the trip before
    mae: list[float]  # mean absolute error to the original, on [0, 1]
    shift: list[list[float]]  # mean of this trip - mean of the original, on [0, 1]
    not_finite: list[int]  # values that are NaN or infinite


def measure_trip(original: Tensor, previous: Tensor, current: Tensor) -> Trip:
    """Compare a trip's pictures with the originals and with the trip before."""
    y, before, x = (_ready(images) for images in (original, previous, current))
    lost = (~current.isfinite()).flatten(1).sum(1)
    return Trip(
        psnr(x, y).tolist(),
        psnr(x, before).tolist(),
        mae(x, y).tolist(),
        channel_mean_error(x, y).tolist(),
        lost.tolist(),
    )


def rounded(images: Tensor) -> Tensor:
    """Round to the nearest of 256 levels, as a careful writer of 8-bit files does."""
    return (images.clamp(0, 1) * LEVELS).round() / LEVELS


def cut_off(images: Tensor) -> Tensor:
    """Cut off to 256 levels, as ComfyUI's Save Image does: half a level darker on average.

    Source: nodes.py, SaveImage.save_images, `np.clip(255. * image, 0, 255).astype(np.uint8)`.
    """
    return (images * 255.0).clamp(0, 255).trunc() / LEVELS


def trip_seed(seed: int, trip: int) -> int:
    """Give each trip noise of its own: the seed itself for trip 1, then one made of both."""
    if trip == 1:
        return seed
    digest = hashlib.blake2b(f"{seed} {trip}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def mean_psnr(trip: Trip) -> float:
    """Average a trip's PSNR over its pictures; pictures without a difference are left out."""
    value = mean(trip.psnr)
    return math.nan if value is None else value


def to_csv(trips: Sequence[Trip]) -> str:
    """Write a row per trip and picture: PSNR in dB, errors and shifts on [0, 1].

    Empty where there is no number, and for the infinite PSNR of equal pictures.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, trip in enumerate(trips, 1):
        for item in range(len(trip.psnr)):
            figures = [trip.psnr[item], trip.psnr_previous[item], trip.mae[item], *trip.shift[item]]
            written = [f"{value:.7g}" if math.isfinite(value) else "" for value in figures]
            writer.writerow([number, item + 1, *written, trip.not_finite[item]])
    return text.getvalue()


def in_words(trips: Sequence[Trip]) -> list[str]:
    """Say in some lines how far the pictures went."""
    lines = []
    for number in sorted({1, len(trips)}):
        trip = trips[number - 1]
        shift = [mean(values) for values in zip(*trip.shift, strict=True)]
        levels = ", ".join(
            f"{c} {s * LEVELS:+.2f}" for c, s in zip(COLOURS, shift, strict=True) if s is not None
        )
        near = f", {number_of(mean(trip.psnr_previous))} dB to the trip before"
        lines.append(
            f"after trip {number}: PSNR {mean_psnr(trip):.2f} dB to the original"
            f"{near if number > 1 else ''}, mean shift in 8-bit levels {levels}"
        )
    bad = [number for number, trip in enumerate(trips, 1) if any(trip.not_finite)]
    if bad:
        count = sum(trips[bad[0] - 1].not_finite)
        lines.append(f"warning: from trip {bad[0]} on there are values that are NaN: {count:,}")
    return lines


def number_of(value: float | None) -> str:
    """Write a number, or that there is none."""
    return "no" if value is None else f"{value:.2f}"


def _ready(images: Tensor) -> Tensor:
    """Round to 8 bits for the metrics: [B, H, W, C] -> [B, C, H, W]; what is infinite is NaN."""
    images = images.detach().to("cpu", torch.float32)
    images = images.masked_fill(~images.isfinite(), torch.nan)
    return to_unit(images * 2 - 1).movedim(-1, 1)
