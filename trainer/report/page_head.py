"""The head of the report: the verdict in words and the main figures as tiles."""

from collections.abc import Mapping
from typing import Any

from trainer.report.escape import Markup, element
from trainer.report.figures import DECIMALS, Report, change, compared, figure_title, labels, tone
from trainer.report.gallery import signed
from trainer.report.verdict import verdict

TILES = ("psnr", "ssim", "lpips", "encoder_distance")


def head(report: Report) -> Markup:
    """Say the verdict, what it rests on, and the main figures of the validation photos."""
    found = verdict(report)
    first, _, rest = found.headline.partition(":")
    parts = [
        element("p", what_it_is(report), class_="eyebrow"),
        element("h1", element("b", first), f":{signed(rest)}" if rest else None),
        element("ul", [element("li", signed(line)) for line in found.details]),
        element("div", _tiles(report), class_="tiles"),
    ]
    return element("header", element("div", parts, class_="wrap"), class_=f"hero {found.tone}")


def what_it_is(report: Report) -> str:
    """Say in a line which model was trained for how long, or which models are compared."""
    run, base = report.get("run") or {}, report.get("base") or {}
    parts = [base.get("name"), run.get("preset")]
    if run.get("steps") is not None:
        parts.append(f"{run['steps']:,} steps")
    if run.get("images"):
        parts.append(f"{run['images']:,} crops seen")
    if not any(parts):
        parts = [" · ".join(labels(report).values())]
    return "VAE Lab report · " + " · ".join(part for part in parts if part)


def _tiles(report: Report) -> list[Markup]:
    names = list(report["models"])
    wholes = [report["models"][name].get("val", {}).get("all", {}) for name in names]
    first, last = wholes[0], wholes[-1]
    tiles = [
        _tile(report, figure, first.get(figure), last.get(figure), len(names) > 1)
        for figure in TILES
        if first.get(figure) is not None or last.get(figure) is not None
    ]
    if len(names) > 1:
        tiles.append(_improved(compared(report, names[-1], "val").get("psnr")))
    return [tile for tile in tiles if tile]


def _tile(
    report: Report, figure: str, first: float | None, last: float | None, two: bool
) -> Markup:
    values = ["–" if v is None else f"{v:.{DECIMALS[figure]}f}" for v in (first, last)]
    delta = element(
        "span", signed(change(figure, first, last)), class_=f"change {tone(figure, first, last)}"
    )
    return element(
        "div",
        element("div", figure_title(report, figure), class_="what"),
        element("div", values[1], class_="now"),
        element("div", f"from {values[0]} ", delta, class_="from") if two else None,
        class_="tile",
    )


def _improved(psnr: Mapping[str, Any] | None) -> Markup | None:
    if psnr is None:
        return None
    share = psnr["better"] / psnr["n"]
    return element(
        "div",
        element("div", "Photos with higher PSNR", class_="what"),
        element("div", f"{psnr['better']} of {psnr['n']}", class_="now"),
        element("div", element("i", style=f"width:{share:.1%}"), class_="meter"),
        class_="tile",
    )
