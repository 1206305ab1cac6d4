"""Curves of recipes: held-out figures over the minutes of training, means over seeds."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bands import Band, plot_bands
from benchmarks.recipe_runs import RecipeRun
from trainer.training.metrics_log import MetricsLog

REGIONS = ("faces", "all")  # of the held-out photos: faces, where they are known
LABELS = {"lpips": "LPIPS", "psnr": "PSNR in dB"}

Point = tuple[float, ...]  # minutes, figure, least and most over seeds


def draw_curves(path: Path, finished: Mapping[str, Sequence[RecipeRun]], minutes: float) -> None:
    """Draw LPIPS and PSNR of each recipe, as its runs measured themselves by --eval-every.

    A run's steps are spread evenly over its minutes. Bands hold all seeds.
    """
    logs = {name: [evaluations(run.folder) for run in runs] for name, runs in finished.items()}
    panels = {}
    for figure, label in LABELS.items():
        region = shared_region(logs, figure)
        curves = {name: curve(seeds, region, figure, minutes) for name, seeds in logs.items()}
        bands = [Band(name, points) for name, points in curves.items() if points]
        if bands:
            panels[f"{label} of {region}, held out"] = bands
    if panels:
        plot_bands(path, panels, "minutes of training")


def evaluations(folder: Path) -> list[tuple[float, dict[str, Any]]]:
    """Return a run's evaluations: (share of its steps that were done, figures by region)."""
    found = {
        record["step"]: record["eval"]["tuned"]["val"]
        for record in MetricsLog(folder / "metrics.jsonl").read()
        if "eval" in record
    }
    last = max(found, default=0)
    return [(step / last, found[step]) for step in sorted(found)] if last else []


def shared_region(logs: Mapping[str, Sequence[Any]], figure: str) -> str:
    """Choose faces where any run has a figure of theirs, else the whole photos."""
    seen = [regions for seeds in logs.values() for seed in seeds for _, regions in seed]
    has_faces = any(found.get(REGIONS[0], {}).get(figure) is not None for found in seen)
    return REGIONS[0] if has_faces else REGIONS[1]


def curve(seeds: Sequence[Any], region: str, figure: str, minutes: float) -> list[Point]:
    """Join the seeds of a recipe, evaluation by evaluation, as far as all of them have it."""
    points = []
    for moments in zip(*seeds, strict=False):
        values = [regions.get(region, {}).get(figure) for _, regions in moments]
        if None not in values:
            when = minutes * statistics.fmean(share for share, _ in moments)
            points.append((when, statistics.fmean(values), min(values), max(values)))
    return points
