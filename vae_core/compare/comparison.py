"""Comparing pairs of pictures: how, and all that comes out of one pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..drawn import diff_strip
from ..lpips import SMALLEST_SIDE
from ..metrics import WINDOW
from . import diff, figure_text
from .figures import Figures, PairFigures, Perceptual, measure
from .pairs import Pair, Pairs


class How(NamedTuple):
    """How the pairs of a batch are compared."""

    gain: float
    kind: str  # of the heat map
    highest: float  # error of its brightest colour; 0: the kind's own
    perceptual: Perceptual | None
    notes: tuple[str, ...]  # what holds for all pairs

    @property
    def net(self) -> str | None:
        """The network of LPIPS."""
        return self.perceptual.net if self.perceptual else None


class Compared(NamedTuple):
    """One pair: its figures; images [H, W, 3] in [0, 1]; pictures."""

    figures: PairFigures
    original: Tensor
    reconstruction: Tensor
    absolute: Tensor
    signed: Tensor
    heat: Image.Image
    strip: Image.Image


def choose(
    pairs: Pairs, gain: float, heat_map: str, highest: float, perceptual: Perceptual | None
) -> How:
    """Decide what is measured and shown for all pairs, and note what cannot be.

    `heat_map` is one of diff.KINDS. Raises ValueError where it cannot be had.
    """
    kind = diff.choose_kind(heat_map, pairs.size, perceptual)
    notes, shorter = list(pairs.notes), min(pairs.size)
    if perceptual is not None and shorter < SMALLEST_SIDE[perceptual.net]:
        notes.append(f"no LPIPS under {SMALLEST_SIDE[perceptual.net]} pixels a side")
    if shorter < WINDOW:
        notes.append(f"no SSIM under {WINDOW} pixels a side")
    return How(gain, kind, highest, perceptual, tuple(notes))


def compare(both: Pair, how: How) -> Compared:
    """Measure one pair and draw its pictures."""
    figures = measure(both, how.perceptual)
    heat = diff.heat_map(both.x, both.y, how.kind, how.perceptual, how.gain, how.highest)
    shown = diff_strip.shown(both, heat, how.gain)
    notes = how.notes
    if both.lost:
        notes = (*notes, f"{both.lost} values are NaN or infinite: their pixels are magenta")
    return Compared(
        figures,
        *shown[:3],
        diff.signed(both.x, both.y, how.gain),
        diff_strip.heat_picture(heat),
        diff_strip.strip(shown, figures, how.gain, how.net, notes),
    )


def batches(compared: Sequence[Compared]) -> list[Tensor]:
    """Make batches [B, H, W, 3]: strips, absolute and signed differences, heat maps."""
    return [
        diff_strip.to_batch([one.strip for one in compared]),
        torch.stack([one.absolute for one in compared]),
        torch.stack([one.signed for one in compared]),
        diff_strip.to_batch([one.heat for one in compared]),
    ]


def numbers(compared: Sequence[Compared], listed: str) -> list[float | list[float]]:
    """Give a batch's figures from psnr to maximum, its colour shift, and one figure of each pair.

    The colour shift is [red, green, blue]; `listed` is one of figure_text.COLUMNS. NaN is what
    cannot be had.
    """
    figures = [one.figures for one in compared]
    whole = [_number(value) for value in _values(figure_text.batch(figures).whole)]
    return [*whole[:6], whole[6:], figure_text.column(figures, listed)]


def texts(compared: Sequence[Compared], pairs: Pairs, how: How) -> tuple[str, str]:
    """Write the table as CSV, and the same with its circumstances as JSON."""
    figures = [one.figures for one in compared]
    sides = ("original", "reconstruction")
    crops = pairs.crops and {
        side: box._asdict() for side, box in zip(sides, pairs.crops, strict=True)
    }
    about: dict[str, Any] = {"width": pairs.size[1], "height": pairs.size[0], "crop": crops}
    about |= {"gain": how.gain, "heat_map": how.kind, "lpips_net": how.net}
    about["notes"] = list(how.notes)
    csv = figure_text.to_csv(figures, pairs.size, how.net)
    return csv, figure_text.to_json(figures, about)


def _values(figures: Figures) -> list[float | None]:
    """List the figures in the order of figures.NAMES."""
    return [getattr(figures, name) for name in figure_text.NAMES]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
