"""The figures of photos, their means over a set, and the difference between two models.

In a score None means "cannot be had here" and is left out of a mean; NaN means "the model gave no
number" and makes the mean NaN, which JSON says as null. An infinite PSNR (not a pixel differs) has
no mean: it is left out and counted as identical.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.judge.regions import BACKGROUND, REGIONS, RegionScore
from trainer.numbers import finite_or_none

FIGURES = ("psnr", "ssim", "lpips", "encoder_distance")
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "encoder_distance": False}


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


def _region(name: str, parts: Sequence[RegionScore]) -> dict[str, Any]:
    if name == BACKGROUND:
        return {"n": len(parts), **_means(parts)}
    found = {"n": len(parts), "faces": sum(part.faces for part in parts), **_means(parts)}
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


def figure(score: PhotoScore, name: str) -> float | None:
    """Return a photo's figure if it is a finite number, else None."""
    return finite_or_none(getattr(score, name))


# Two models


def pair_up(
    first: Iterable[PhotoScore], second: Iterable[PhotoScore]
) -> list[tuple[PhotoScore, PhotoScore]]:
    """Pair the scores of the photos that both models were scored on, in the first's order."""
    others = {score.id: score for score in second if not score.skipped}
    return [(s, others[s.id]) for s in first if not s.skipped and s.id in others]


def compare(first: Iterable[PhotoScore], second: Iterable[PhotoScore]) -> dict[str, dict[str, Any]]:
    """Return, per figure, the mean difference second - first over photos and who gained.

    Each figure has `n`, `difference`, `margin` (half the 95 % interval of the mean difference,
    from its spread over the photos; None under 8 photos), `better`, `worse`. A figure that no
    photo has is absent.
    """
    pairs = pair_up(first, second)
    compared = {name: _compare_figure(pairs, name) for name in FIGURES}
    return {name: entry for name, entry in compared.items() if entry["n"]}


def _compare_figure(pairs: Sequence[tuple[PhotoScore, PhotoScore]], name: str) -> dict[str, Any]:
    values = [(figure(a, name), figure(b, name)) for a, b in pairs]
    differences = [b - a for a, b in values if a is not None and b is not None]
    gains = [d if HIGHER_IS_BETTER[name] else -d for d in differences]
    return {
        "n": len(differences),
        "difference": mean(differences),
        "margin": _margin(differences),
        "better": sum(gain > 0 for gain in gains),
        "worse": sum(gain < 0 for gain in gains),
    }


def _margin(differences: Sequence[float]) -> float | None:
    if len(differences) < 8:
        return None
    return 1.96 * statistics.stdev(differences) / math.sqrt(len(differences))
