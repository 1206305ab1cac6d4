"""The photos of the report: one stage each, original and reconstructions laid over each other."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from trainer.judge.pictures import WORST, Picture
from trainer.judge.shown import MOST_SHOWN
from trainer.report.escape import Markup, element, join
from trainer.report.figures import GROUP_TITLES, Report, change, labels, number, tone

LONGEST_SIDE = 1024  # pixels; only panoramas are larger as evaluated
QUALITY = 92  # of JPEG, without chroma subsampling, so that colours stay as they were
FEW = 6  # so many photos need no headings
EXTREMES = 3  # photos that gained most; of those that lost most more are shown
ORIGINAL, MORE = "original", "More photos"
ZOOM = 3.0  # where there is no face to look at


def gallery(report: Report, pictures: Sequence[Picture]) -> Markup | None:
    """Show at most 30 photos with a line to move between any two of original and models."""
    pictures = [picture for picture in pictures if picture.whole]
    if not pictures:
        return None
    names = list(report["models"])
    figures = {
        (group, photo["id"]): photo["models"]
        for group, photos in report["photos"].items()
        for photo in photos
    }
    ranked = sorted(
        pictures[:MOST_SHOWN], key=lambda p: -(gain(figures.get((p.group, p.id), {}), names) or 0)
    )
    parts = [
        _part(title, _shots(report, chosen, figures))
        for title, chosen in _parted(ranked, figures, names)
        if chosen
    ]
    return join([_intro(report, len(ranked)), _choices(report), parts])


def _part(title: str, shots: Markup) -> Markup:
    """Put a heading over photos; those that are no extremes wait behind theirs."""
    if title != MORE:
        return join([element("h3", title) if title else None, shots])
    return element("details", element("summary", title), shots, class_="more")


def gain(models: Mapping[str, Mapping[str, float | None]], names: Sequence[str]) -> float | None:
    """Return the PSNR that the last model gains on the first for a photo, in dB."""
    values = [models.get(name, {}).get("psnr") for name in (names[0], names[-1])]
    return None if None in values else values[1] - values[0]


def _parted(
    ranked: list[Picture], figures: Mapping[Any, Any], names: Sequence[str]
) -> list[tuple[str, list[Picture]]]:
    """Part ranked photos into those that gained most, each set's worst ten, and the rest."""
    if len(ranked) <= FEW or len(names) < 2:
        return [("", ranked)]
    best = ranked[: min(EXTREMES, len(ranked) // 3)]
    worst = _worst(ranked, len(best))
    parts = [("Gained most", best)]
    for group, chosen in worst.items():
        last = gain(figures.get((group, chosen[0].id), {}), names)
        lost = "Lost most" if last is not None and last < 0 else "Gained least"
        parts.append((f"{lost}, {GROUP_TITLES[group]}" if len(worst) > 1 else lost, chosen))
    taken = {(picture.group, picture.id) for _, chosen in parts for picture in chosen}
    return [*parts, (MORE, [p for p in ranked if (p.group, p.id) not in taken])]


def _worst(ranked: Sequence[Picture], best: int) -> dict[str, list[Picture]]:
    """Return the ten last of each set, or half of it if that is less, the last first."""
    found = {}
    for group in GROUP_TITLES:
        places = [i for i, picture in enumerate(ranked) if picture.group == group]
        last = [
            ranked[i] for i in places[len(places) - min(WORST, len(places) // 2) :] if i >= best
        ]
        if last:
            found[group] = last[::-1]
    return found


def _intro(report: Report, shown: int) -> Markup:
    total = sum(len(photos) for photos in report["photos"].values())
    which = "" if shown == total else f"{shown} of {number(total, 'photo')}. "
    return element(
        "p",
        f"{which}Move the line with the pointer, or with the arrow keys once a photo is focused.",
        class_="soft",
    )


def _choices(report: Report) -> Markup:
    names = [ORIGINAL, *labels(report).values()]
    chosen = (1, len(names) - 1) if len(names) > 2 else (0, 1)
    return element(
        "div",
        [
            element("label", title, _select(id, names, index))
            for title, id, index in zip(("Left", "Right"), ("left", "right"), chosen, strict=True)
        ],
        class_="compare",
    )


def _select(id: str, names: Sequence[str], chosen: int) -> Markup:
    options = [
        element("option", name, value=i, selected=i == chosen) for i, name in enumerate(names)
    ]
    return element("select", options, id=id)


def _shots(report: Report, pictures: Sequence[Picture], figures: Mapping[Any, Any]) -> Markup:
    shots = [_shot(report, p, figures.get((p.group, p.id), {})) for p in pictures]
    return element("div", shots, class_="shots")


def _shot(report: Report, picture: Picture, models: Mapping[str, Any]) -> Markup:
    height, width = picture.original.shape[:2]
    shown = labels(report)
    layers = [_layer(0, picture.original, f"{picture.name}, {ORIGINAL}")]
    for i, name in enumerate(shown):
        layers.append(_layer(i + 1, picture.models[name], f"{picture.name}, {shown[name]}"))
    slider = element(
        "input", type="range", min=0, max=100, step=0.5, value=50,
        aria_label=f"Line between the two versions of {picture.name}",
    )  # fmt: skip
    tags = [element("span", class_=f"tag {side}") for side in ("left", "right")]
    stage = element(
        "div",
        [layers, slider, element("span", class_="edge"), tags],
        class_="stage",
        style=f"--shape:{width}/{height};{zoom_style(picture)}",
    )
    caption = [
        element("span", picture.name, class_="name"),
        element("button", "Face" if picture.faces else "Zoom", type="button", aria_pressed="false"),
        _numbers(report, picture.group, models),
    ]
    return element("figure", stage, element("figcaption", caption), class_="shot")


def _layer(index: int, pixels: np.ndarray, alt: str) -> Markup:
    image = element("img", src=data_url(pixels), alt=alt, decoding="async")
    return element("div", image, class_="layer", data_shows=index)


def _numbers(report: Report, group: str, models: Mapping[str, Any]) -> Markup:
    """Write a photo's PSNR, first to last model, its change, and the set if there are two."""
    names = list(report["models"])
    first, last = (models.get(name, {}).get("psnr") for name in (names[0], names[-1]))
    values = ["–" if value is None else f"{value:.2f}" for value in (first, last)]
    line = [f"{GROUP_TITLES[group]} · "] if len(report["photos"]) > 1 else []
    line.append(f"PSNR {values[0]}")
    if len(names) > 1:
        kind = tone("psnr", first, last)
        line += [f" → {values[1]} ", element("span", signed(change("psnr", first, last)),
                                              class_=f"change {kind}")]  # fmt: skip
    return element("span", line, class_="numbers")


def signed(text: str) -> str:
    """Write numbers with the proper minus sign."""
    return text.replace("-", "−")


def zoom_style(picture: Picture) -> str:
    """Return how far and around which place the photo's button zooms: onto its largest face."""
    height, width = picture.original.shape[:2]
    face = picture.largest_face
    if face is None:
        return f"--zoom:{ZOOM};--zoom-x:50%;--zoom-y:50%"
    x, y, w, h = face
    zoom = min(6.0, max(1.3, 0.6 / max(w / width, h / height)))
    places = [((x + w / 2) / width, "x"), ((y + h / 2) / height, "y")]
    # the place that stays where it is when the middle of the face moves to the middle
    still = {axis: min(1.0, max(0.0, (zoom * c - 0.5) / (zoom - 1))) for c, axis in places}
    return f"--zoom:{zoom:.2f};--zoom-x:{still['x']:.1%};--zoom-y:{still['y']:.1%}"


def data_url(pixels: np.ndarray) -> str:
    """Write uint8 [H, W, 3] as a JPEG in a data URL: from pixels, so no metadata comes along."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
