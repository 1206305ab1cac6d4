"""The figures of photos, their means over a set, and the difference between two models.

In a score None means "cannot be had here" and is left out of a mean; NaN means "the model gave no
number" and makes the mean NaN, which JSON says as null. An infinite PSNR (not a pixel differs) has
no mean: it is left out and counted as identical.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.judge.bootstrap import Interval, paired_intervals
from trainer.judge.regions import BACKGROUND, REGIONS, RegionScore
from trainer.numbers import finite_or_none

FIGURES = ("psnr", "ssim", "lpips", "encoder_distance", "identity")
HIGHER_IS_BETTER = {
    "psnr": True, "ssim": True, "lpips": False, "encoder_distance": False, "identity": True,
}  # fmt: skip
DISTANCES = ("lpips", "encoder_distance")


@dataclass(frozen=True)
class PhotoScore:
    """The figures of one photo.

    `skipped` is the reason why the photo could not be scored, or empty. `encoder_distance` stands
    in for `lpips` where the perceptual distance is not LPIPS. `faces` is None where nobody looked
    for faces. Sizes are those of what was evaluated, in pixels.
    """

    id: str
    name: str
    skipped: str = ""
    width: int = 0
    height: int = 0
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    encoder_distance: float | None = None
    channel_error: tuple[float, ...] | None = None
    sharpness: float | None = None
    faces: int | None = None
    regions: dict[str, RegionScore] = field(default_factory=dict)


def summarise(scores: Iterable[PhotoScore]) -> dict[str, dict[str, Any]]:
    """Return the means over a set, by region, as report.json has them; {} if nothing was scored.

    `n` counts photos, `faces` the faces in them; `from_sheets` the sheets on which small faces
    were measured, absent where that was in the photos. What cannot be computed is None.
    """
    scored = [score for score in scores if not score.skipped]
    if not scored:
        return {}
    summary = {"all": _whole(scored)}
    for name in REGIONS:
        parts = [score.regions[name] for score in scored if name in score.regions]
        if parts:
            summary[name] = _region(name, parts)
    return finite_or_none(summary)


def _whole(scored: Sequence[PhotoScore]) -> dict[str, Any]:
    whole = {"n": len(scored), **_means(scored)}
    shifts = [score.channel_error for score in scored if score.channel_error is not None]
    whole["channel_error"] = [mean(channel) for channel in zip(*shifts, strict=True)]
    whole["sharpness"] = mean(score.sharpness for score in scored)
    return whole


def _region(region: str, parts: Sequence[RegionScore]) -> dict[str, Any]:
    found = {"n": len(parts)}
    if region != BACKGROUND:
        found["faces"] = sum(part.faces for part in parts)
    found |= _means(parts)
    for name in ("sharpness", "identity"):
        value = mean(getattr(part, name) for part in parts)
        if value is not None:
            found[name] = value
    sheets = {part.sheet for part in parts if part.sheet is not None}
    return found | ({"from_sheets": len(sheets)} if sheets else {})


def _means(items: Sequence[PhotoScore | RegionScore]) -> dict[str, Any]:
    means: dict[str, Any] = {name: mean(getattr(i, name) for i in items) for name in FIGURES[:3]}
    stand_in = mean(item.encoder_distance for item in items)
    if stand_in is not None:
        means["encoder_distance"] = stand_in
    identical = sum(item.psnr == math.inf for item in items)
    return means | ({"identical": identical} if identical else {})


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what there is: None and infinities are left out, NaN makes it NaN."""
    present = [value for value in values if value is not None and not math.isinf(value)]
    return math.fsum(present) / len(present) if present else None


def figure(score: PhotoScore | RegionScore, name: str) -> float | None:
    """Return a photo's or region's figure if it is a finite number, else None."""
    return finite_or_none(getattr(score, name, None))  # a photo as a whole has no identity


# Two models


def pair_up(
    first: Iterable[PhotoScore], second: Iterable[PhotoScore]
) -> list[tuple[PhotoScore, PhotoScore]]:
    """Pair the scores of the photos that both models were scored on, in the first's order."""
    others = {score.id: score for score in second if not score.skipped}
    return [(s, others[s.id]) for s in first if not s.skipped and s.id in others]


def compare(
    first: Iterable[PhotoScore], second: Iterable[PhotoScore]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the second model changes, by region and figure: {"all": {"psnr": {...}}}.

    Each figure has `n` photos, the mean `difference` second - first, its paired bootstrap
    `interval` (None under 8 photos), how many photos got `better` and `worse`, and
    `share_better`; a perceptual distance also its change as a share of the first model's mean,
    `relative`, and the `relative_interval`. What no photo has is absent.
    """
    pairs = pair_up(first, second)
    compared = {"all": _compare_figures(pairs)}
    for name in REGIONS:
        compared[name] = _compare_figures(
            [
                (a.regions[name], b.regions[name])
                for a, b in pairs
                if name in a.regions and name in b.regions
            ]
        )
    return {name: figures for name, figures in compared.items() if figures}


Scored = PhotoScore | RegionScore


def _compare_figures(pairs: Sequence[tuple[Scored, Scored]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in FIGURES:
        values = [(figure(a, name), figure(b, name)) for a, b in pairs]
        known = [(a, b) for a, b in values if a is not None and b is not None]
        if known:
            found[name] = _compare_figure(name, *map(list, zip(*known, strict=True)))
    return found


def _compare_figure(name: str, first: list[float], second: list[float]) -> dict[str, Any]:
    differences = [b - a for a, b in zip(first, second, strict=True)]
    gains = [d if HIGHER_IS_BETTER[name] else -d for d in differences]
    better = sum(gain > 0 for gain in gains)
    intervals = paired_intervals(first, second)
    entry = {
        "n": len(differences),
        "difference": mean(differences),
        "interval": _as_list(intervals.difference),
        "better": better,
        "worse": sum(gain < 0 for gain in gains),
        "share_better": better / len(differences),
    }
    if name in DISTANCES:  # their size depends on the network: a share says more
        start = mean(first)
        entry["relative"] = mean(differences) / start if start else None
        entry["relative_interval"] = _as_list(intervals.relative)
    return entry


def _as_list(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
