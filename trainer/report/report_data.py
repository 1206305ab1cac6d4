"""What report.json holds: the figures of every model, what differs, and every photo's figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.judge.bootstrap import SETTINGS
from trainer.judge.perceptual import Perceptual
from trainer.judge.regions import RegionScore
from trainer.judge.scores import FIGURES, PhotoScore, compare, summarise
from trainer.numbers import finite_or_none
from trainer.report.figures import GROUP_TITLES

Scores = Mapping[str, Sequence[PhotoScore]]  # by set: "val", "general"


def build_report(
    models: Mapping[str, Scores],
    perceptual: Perceptual | None,
    *,
    eval_resolution: int,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the content of report.json: plain values, no NaN, models in the order given.

    `models` has the scores of each model by set; the first model is what the others are compared
    with. `facts` are further keys, such as `base`, `run` and `data` (see trainer/report/card.py).
    """
    first = next(iter(models.values()))
    others = list(models.items())[1:]
    report = {
        "lpips_net": lpips_net(perceptual),
        "perceptual": perceptual.name if perceptual else None,
        "eval_resolution": eval_resolution,
        "models": {
            name: {group: summarise(scores) for group, scores in sets.items()}
            for name, sets in models.items()
        },
        "difference": {
            name: {group: compare(first[group], scores) for group, scores in sets.items()}
            for name, sets in others
        },
        "bootstrap": SETTINGS,
        "faces_looked_for": any(s.faces is not None for group in first.values() for s in group),
        "skipped": {group: _skipped(scores) for group, scores in first.items()},
        "photos": {group: _photos(models, group) for group in GROUP_TITLES if group in first},
        **(facts or {}),
    }
    return finite_or_none(report)


def lpips_net(perceptual: Perceptual | None) -> str | None:
    """Return the network of LPIPS, or None if what was computed is no LPIPS."""
    if perceptual is None or not perceptual.is_lpips:
        return None
    return perceptual.name.removeprefix("lpips-")


def _skipped(scores: Sequence[PhotoScore]) -> dict[str, int]:
    """Count the photos that could not be read for evaluation, by reason."""
    return dict(Counter(score.skipped for score in scores if score.skipped).most_common())


def _photos(models: Mapping[str, Scores], group: str) -> list[dict[str, Any]]:
    """List every photo that any model was scored on, with each model's figures."""
    photos: dict[str, dict[str, Any]] = {}
    for name, sets in models.items():
        for score in sets[group]:
            if not score.skipped:
                photo = photos.setdefault(score.id, _photo(score))
                photo["models"][name] = _figures(score)
    return list(photos.values())


def _photo(score: PhotoScore) -> dict[str, Any]:
    return {
        "id": score.id,
        "name": score.name,
        "size": [score.width, score.height],
        "faces": score.faces,
        "models": {},
    }


def _figures(score: PhotoScore) -> dict[str, Any]:
    """Return a photo's figures, and those of its regions under their names."""
    regions = {name: _known(region) for name, region in score.regions.items()}
    return _known(score) | ({"regions": regions} if regions else {})


def _known(scored: PhotoScore | RegionScore) -> dict[str, float]:
    found = {name: getattr(scored, name, None) for name in FIGURES}
    return {name: value for name, value in found.items() if value is not None}
