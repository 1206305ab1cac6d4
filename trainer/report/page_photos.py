"""The figures of every photo in the report: gains as bars, and all of them as a table."""

from collections.abc import Sequence
from typing import Any

from trainer.judge.scores import HIGHER_IS_BETTER
from trainer.report.escape import Markup, element, join
from trainer.report.figures import GROUP_TITLES, Report, figure_title, labels
from trainer.report.gallery import gain
from trainer.report.plots import bar_chart

MOST_BARS = 150


def gains(report: Report) -> Markup | None:
    """Draw the gain of every photo as a bar, sorted, for each set."""
    names = list(report["models"])
    if len(names) < 2:
        return None
    charts = []
    for group in report["photos"]:
        bars = [(p["name"], gain(p["models"], names)) for p in report["photos"][group]]
        bars = sorted((b for b in bars if b[1] is not None), key=lambda bar: -bar[1])
        charts.append(bar_chart(f"{GROUP_TITLES[group]}: gain in PSNR (dB)", _fewer(bars), "dB"))
    charts = [chart for chart in charts if chart]
    return element("div", charts, class_="two") if charts else None


def _fewer(bars: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Take evenly spaced bars, first and last among them, where there are too many to draw."""
    if len(bars) <= MOST_BARS:
        return bars
    return [bars[i * (len(bars) - 1) // (MOST_BARS - 1)] for i in range(MOST_BARS)]


def all_photos(report: Report) -> Markup | None:
    """Make the head of the table whose rows the page's script fills in from its data."""
    if not any(report["photos"].values()):
        return None
    headings = [
        element("th", element("button", column["title"], type="button"), scope="col")
        for column in photo_rows(report)["columns"]
    ]
    table = element("table", element("thead", element("tr", headings)), element("tbody"))
    return join(
        [
            element("noscript", element("p", "The figures of every photo are in report.json.")),
            element("div", table, class_="scroll"),
            element("button", "Show all", type="button", class_="button", id="more", hidden=True),
        ]
    )


def photo_rows(report: Report) -> dict[str, Any]:
    """Return columns and rows of the table of all photos, as the page's script takes them."""
    names, shown = list(report["models"]), labels(report)
    figures = [f for f in ("psnr", "lpips", "encoder_distance") if _has(report, f)]
    columns = [{"title": "Photo"}, {"title": "Set"}, {"title": "Faces", "decimals": 0}]
    for figure in figures:
        columns += _columns(report, figure, [shown[name] for name in names])
    rows = [
        [photo["name"], GROUP_TITLES[group], photo["faces"], *_values(photo, figures, names)]
        for group, photos in report["photos"].items()
        for photo in sorted(photos, key=lambda photo: -(gain(photo["models"], names) or 0))
    ]
    return {"columns": columns, "rows": rows}


def _columns(report: Report, figure: str, shown: Sequence[str]) -> list[dict[str, Any]]:
    """Return a column for each model's figure, and one for the change from first to last."""
    decimals = 2 if figure == "psnr" else 4
    title = figure_title(report, figure)
    columns: list[dict[str, Any]] = [
        {"title": f"{title} {name}", "decimals": decimals} for name in shown
    ]
    if len(shown) > 1:
        change = {"title": "Change", "decimals": decimals, "signed": True}
        columns.append(change | {"higher": HIGHER_IS_BETTER[figure]})
    return columns


def _has(report: Report, figure: str) -> bool:
    return any(
        models.get(figure) is not None
        for photos in report["photos"].values()
        for photo in photos
        for models in photo["models"].values()
    )


def _values(
    photo: dict[str, Any], figures: Sequence[str], names: Sequence[str]
) -> list[float | None]:
    values = []
    for figure in figures:
        found = [photo["models"].get(name, {}).get(figure) for name in names]
        values += found
        if len(names) > 1:
            values.append(None if None in (found[0], found[-1]) else found[-1] - found[0])
    return values
