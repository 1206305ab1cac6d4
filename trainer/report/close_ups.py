"""Faces of the report, enlarged: original and reconstructions in a row, with their figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from trainer.judge.pictures import CloseUp, Picture
from trainer.judge.regions import FACES
from trainer.judge.scores import DISTANCES
from trainer.judge.set_scores import SMALL
from trainer.report.escape import Markup, element, join
from trainer.report.figures import (
    DECIMALS,
    GROUP_TITLES,
    Report,
    change,
    figure_title,
    labels,
    tone,
)
from trainer.report.gallery import ORIGINAL, data_url, signed
from vae_core.compare.squares import square_around

SIDE = 192  # pixels of a face on the page
MARGIN = 1.5  # side of what is shown, in sides of the face's box
TITLES = {
    FACES: "Faces that lost most, or gained least",
    SMALL: "Small faces, from most gained to most lost",
}


def faces_section(report: Report, pictures: Sequence[Picture]) -> Markup | None:
    """Show the faces that were chosen to be looked at, by region."""
    found = [(picture, one) for picture in pictures for one in picture.close_ups]
    parts = []
    for region, title in TITLES.items():
        chosen = [pair for pair in found if pair[1].region == region]
        figures = [(_figures(report, picture.group, one), picture, one) for picture, one in chosen]
        # the small ones begin with what gained most, the others with what lost most
        figures.sort(key=lambda entry: _gain(report, entry[0]), reverse=region == SMALL)
        rows = [_row(report, *entry) for entry in figures]
        if rows:
            parts += [element("h3", title), element("div", rows, class_="close-ups")]
    return join(parts) if parts else None


def _figures(report: Report, group: str, one: CloseUp) -> Mapping[str, Any]:
    """Return each model's figures of a photo's faces."""
    photos = report["photos"].get(group, ())
    models = next((photo["models"] for photo in photos if photo["id"] == one.id), {})
    return {name: found.get("regions", {}).get(one.region, {}) for name, found in models.items()}


def _figure(models: Mapping[str, Any]) -> str:
    """Name the figure that faces are ranked by: as in trainer/judge/shown.py."""
    return next((n for n in DISTANCES if any(n in found for found in models.values())), "psnr")


def _gain(report: Report, models: Mapping[str, Any]) -> float:
    names, name = list(report["models"]), _figure(models)
    first, last = (models.get(model, {}).get(name) for model in (names[0], names[-1]))
    if first is None or last is None:
        return 0.0
    return first - last if name in DISTANCES else last - first


def _row(report: Report, models: Mapping[str, Any], picture: Picture, one: CloseUp) -> Markup:
    shown = {ORIGINAL: picture.original}
    shown |= {label: picture.models[name] for name, label in labels(report).items()}
    cells = [
        element(
            "div",
            element("img", src=data_url(enlarged(pixels, one)), alt=f"{one.name}, {label}"),
            element("span", label),
        )
        for label, pixels in shown.items()
    ]
    caption = [
        element("span", one.name, class_="name"),
        element("span", _height(one), class_="numbers"),
        *(_numbers(report, name, models) for name in dict.fromkeys((_figure(models), "psnr"))),
    ]
    if len(report["photos"]) > 1:
        caption.insert(1, element("span", GROUP_TITLES[picture.group], class_="numbers"))
    strip = element("div", cells, class_="strip")
    return element("figure", strip, element("figcaption", caption), class_="close-up")


def _height(one: CloseUp) -> str:
    return f"{one.box[3]:.0f} px high as measured"


def _numbers(report: Report, name: str, models: Mapping[str, Any]) -> Markup | None:
    """Write a figure of a photo's faces, first to last model, and its change."""
    names = list(report["models"])
    first, last = (models.get(model, {}).get(name) for model in (names[0], names[-1]))
    if last is None:
        return None
    line: list[Any] = [f"{figure_title(report, name)} "]
    if len(names) > 1 and first is not None:
        line.append(f"{first:.{DECIMALS[name]}f} → ")
    line.append(f"{last:.{DECIMALS[name]}f} ")
    if len(names) > 1:
        kind = f"change {tone(name, first, last)}"
        line.append(element("span", signed(change(name, first, last)), class_=kind))
    return element("span", line, class_="numbers")


def enlarged(pixels: np.ndarray, one: CloseUp) -> np.ndarray:
    """Cut the square around a face and bring it to the page's size: uint8 [192, 192, 3]."""
    part = square_around(one.box, MARGIN, *pixels.shape[:2])
    cut = Image.fromarray(pixels[part.top : part.bottom, part.left : part.right])
    return np.asarray(cut.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
