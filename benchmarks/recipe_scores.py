"""Figures of recipes photo by photo: measured once and kept, then compared over photos.

A photo's figure is its mean over seeds; intervals are over photos. A figure that is not there is
None, a dash in the table.
"""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import bootstrap
from trainer.judge.perceptual import Perceptual
from trainer.judge.regions import REGIONS
from trainer.judge.scores import PhotoScore
from trainer.judge.set_scores import assemble, score_set
from trainer.photos.photo_set import PhotoSet
from trainer.vae.base import load_base
from vae_core.files import write_text

FIGURES = ("psnr", "ssim", "lpips")
WHOLE = "all"

Row = dict[str, Any]
Photos = dict[str, dict[str, Any]]  # photo's id -> "name", and figures by region


class Measured(NamedTuple):
    """What some VAEs of one kind (seeds of a recipe, or the base) gave on one set."""

    label: str
    seeds: list[Photos]


class Scorer(NamedTuple):
    """How VAEs are measured, and where what was found is kept."""

    folder: Path
    open_set: Callable[[str], PhotoSet]
    perceptual: Perceptual | None
    settings: dict[str, Any]
    device: str

    def photos(self, label: str, vae: str, set_name: str, data: str) -> Photos:
        """Measure a VAE on a set, or read what was found before."""
        base = load_base(vae)
        settings = self.settings | {"vae": base.sha256, "data": data}
        path = self.folder / f"{label}_{set_name}.json"
        if path.exists():
            kept = json.loads(path.read_text("utf-8"))
            if kept["settings"] == settings:
                return kept["photos"]
        found = score_set(
            base.vae.eval().to(self.device),
            self.open_set(data),
            self.perceptual,
            device=self.device,
            eval_resolution=self.settings["eval_resolution"],
        )
        found = {score.id: _plain(score) for score in assemble(found) if not score.skipped}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"settings": settings, "photos": found}, indent=1))
        print(f"measured {label} on {set_name}", flush=True)
        return found


def _plain(score: PhotoScore) -> dict[str, Any]:
    parts = {WHOLE: score, **score.regions}
    figures = {
        name: {figure: _finite(getattr(part, figure)) for figure in FIGURES}
        for name, part in parts.items()
    }
    return {"name": score.name, "regions": figures}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# Comparing


class Part(NamedTuple):
    """What of a set is compared: photos by the beginning of their names, and a region of them."""

    label: str
    prefix: str
    beginning: bool  # whether names begin with the prefix
    region: str

    def holds(self, photo: dict[str, Any]) -> bool:
        begins = Path(photo["name"]).name.startswith(self.prefix)
        return begins == self.beginning and self.region in photo["regions"]


def parts(apart: str | None) -> list[Part]:
    """List the parts: every region of all photos, then without and with those set apart."""
    groups = [("all", "", True)]
    if apart:
        groups += [(f"not {apart}*", apart, False), (f"{apart}*", apart, True)]
    return [Part(*group, region) for group in groups for region in (WHOLE, *REGIONS)]


def compare(
    base: Measured, recipes: Sequence[Measured], versus: str | None, apart: str | None
) -> list[Row]:
    """Make the rows of one set, by part, the base first; parts that do not occur have none."""
    rows = []
    rival = next((found for found in recipes if found.label == versus), None)
    for part in parts(apart):
        if not by_photo(base, "psnr", part):
            continue
        for found in (base, *recipes):
            line: Row = {"photos of": part.label, "region": part.region, "recipe": found.label}
            line |= own_figures(found, part) | against(base, found, part, "base")
            if versus:
                line |= against(rival, found, part, versus)
            rows.append(line)
    return rows


def by_photo(measured: Measured, figure: str, part: Part) -> dict[str, float]:
    """Return a figure photo by photo, its mean over seeds; photos that lack it are left out."""
    found: dict[str, list[float]] = {}
    for photos in measured.seeds:
        for id, photo in photos.items():
            value = photo["regions"][part.region][figure] if part.holds(photo) else None
            if value is not None:
                found.setdefault(id, []).append(value)
    whole = len(measured.seeds)
    return {id: statistics.fmean(values) for id, values in found.items() if len(values) == whole}


def own_figures(measured: Measured, part: Part) -> Row:
    """Give how many photos and seeds there are, and means; of LPIPS also its range over seeds."""
    known = {figure: by_photo(measured, figure, part) for figure in FIGURES}
    line: Row = {"seeds": len(measured.seeds), "photos": len(known["psnr"])}
    for figure, values in known.items():
        line[figure] = statistics.fmean(values.values()) if values else None
    means = [by_photo(Measured("", [seed]), "lpips", part) for seed in measured.seeds]
    means = [statistics.fmean(values.values()) for values in means if values]
    line["lpips of seeds"] = f"{min(means):.4f} - {max(means):.4f}" if means[1:] else None
    return line


def against(other: Measured | None, measured: Measured, part: Part, label: str) -> Row:
    """Compare with another on the photos that both have: PSNR gained, LPIPS changed, who gained."""
    line: Row = dict.fromkeys((f"dB over {label}", f"lpips to {label}, %", f"better than {label}"))
    if other is None or other is measured:
        return line
    psnr, lpips = (pairs(other, measured, figure, part) for figure in ("psnr", "lpips"))
    if psnr[0]:
        line[f"dB over {label}"] = bootstrap.difference(*psnr)
    if lpips[0]:
        line[f"lpips to {label}, %"] = bootstrap.change(*lpips)
        share = statistics.fmean(b < a for a, b in zip(*lpips, strict=True))
        line[f"better than {label}"] = f"{share:.0%}"  # of the photos, by LPIPS
    return line


def pairs(
    first: Measured, second: Measured, figure: str, part: Part
) -> tuple[list[float], list[float]]:
    """Return a figure of both, of the photos that both have, in one order."""
    one, two = by_photo(first, figure, part), by_photo(second, figure, part)
    shared = sorted(one.keys() & two.keys())
    return [one[id] for id in shared], [two[id] for id in shared]
