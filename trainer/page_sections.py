"""The sections of the report below its photos: figures, gains, all photos, options, method."""

from collections.abc import Sequence
from typing import Any

from trainer.escape import Markup, element, join
from trainer.figures import (
    GROUP_TITLES,
    Block,
    Cell,
    Report,
    blocks,
    figure_title,
    groups,
    labels,
    number,
)
from trainer.gallery import gain, signed
from trainer.plots import bar_chart
from trainer.scores import HIGHER_IS_BETTER

MOST_BARS = 150

# Figures


def figures_section(report: Report) -> Markup | None:
    """Lay out all figures of all models, a table for each set."""
    found = groups(report)
    if not found:
        return None
    tables = [
        element("div", element("h3", GROUP_TITLES[group]), _table(report, blocks(report, group)))
        for group in found
    ]
    return join([element("div", tables, class_="two"), _no_regions(report)])


def _table(report: Report, parts: Sequence[Block]) -> Markup:
    names = [element("th", name, scope="col") for name in labels(report).values()]
    header = element("thead", element("tr", element("th", ""), names))
    return element("div", element("table", header, map(_block, parts)), class_="scroll")


def _block(block: Block) -> Markup:
    width = len(block.rows[0].cells) + 1 if block.rows else 2
    name = [block.title, " ", element("span", block.count, class_="count")]
    title = element("th", name, colspan=width, scope="rowgroup")
    rows = [
        element("tr", element("th", row.label, scope="row"), map(_cell, row.cells))
        for row in block.rows
    ]
    return element("tbody", element("tr", title, class_="region"), rows)


def _cell(cell: Cell) -> Markup:
    delta = element("span", signed(cell.change), class_=f"change {cell.tone}")
    return element("td", signed(cell.value), delta if cell.change else None, class_=cell.tone)


def _no_regions(report: Report) -> Markup | None:
    if any("faces" in sets.get(g, {}) for sets in report["models"].values() for g in sets):
        return None
    if report["faces_looked_for"]:
        reason = "No face was found in these photos, so there are no figures for faces."
    else:
        reason = (
            "There are no figures for faces: the photos came without face boxes, and no face "
            "detector was given (--face-detector-weights)."
        )
    return element("p", reason, class_="soft")


# Photos


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


# Words


def skipped(report: Report) -> Markup | None:
    """Say how many photos were left out of each set, and why."""
    lines = []
    for name, data in (report.get("data") or {}).items():
        if data.get("skipped"):
            title = GROUP_TITLES.get(name, "Training")
            lines.append((f"{title}, when the photos were read", data["skipped"]))
    for group, reasons in report["skipped"].items():
        if reasons:
            lines.append((f"{GROUP_TITLES[group]}, when it was measured", reasons))
    if not lines:
        return None
    items = [
        [element("dt", title), element("dd", ", ".join(f"{n:,} {r}" for r, n in reasons.items()))]
        for title, reasons in lines
    ]
    return element(
        "details",
        element("summary", f"{number(sum(sum(r.values()) for _, r in lines), 'photo')} left out"),
        element("dl", items),
        open=True,
    )


def config_section(report: Report) -> Markup | None:
    """List every option of the run, places cut down to their last part."""
    if not report.get("config"):
        return None
    items = [
        [element("dt", element("code", key)), element("dd", element("code", _plain(value)))]
        for key, value in report["config"].items()
    ]
    return element(
        "details", element("summary", number(len(items), "option")), element("dl", items)
    )


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return str(value).lower() if isinstance(value, bool) else str(value)


def method(report: Report) -> Markup:
    """Say how every figure was computed."""
    perceptual = (
        f"LPIPS (Zhang et al., 2018) in float32 with the {report['lpips_net']} network, weights "
        "v0.1; lower is better. Figures of different networks cannot be compared."
        if report["lpips_net"]
        else "Encoder distance: squared difference of unit-length features of the base VAE's own "
        "encoder, mean over its levels; lower is better. It is not LPIPS, and stands in for it "
        "where its weights cannot be had."
        if report["perceptual"]
        else "No perceptual distance was computed."
    )
    entries = {
        "Photos": f"Reduced (never enlarged), antialiased, to {report['eval_resolution']} px on "
        "the short side, cropped around the centre to multiples of 8 px, and seen whole.",
        "Reconstruction": "Encoded and decoded in float32, one photo at a time, through the "
        "posterior's mode; clamped and rounded to 8 bits before anything is measured.",
        "PSNR": "10 log10(1 / mean squared error) on [0, 1], per photo, then the mean over the "
        "photos; higher is better.",
        "SSIM": "Wang et al. (2004): 11-tap gaussian window, sigma 1.5, data range 1, per channel; "
        "higher is better. None under 11 px.",
        "Perceptual": perceptual,
        "Colour": "Mean of reconstruction minus photo per channel, in levels of 8 bits; best at 0.",
        "Sharpness": "Mean squared difference between neighbouring pixels, reconstruction over "
        "photo: below 1 softer than the photo, above 1 harder.",
        "Faces": "PSNR over the pooled pixels of a photo's face boxes, SSIM over its map there, "
        "the perceptual distance on the square around each face, 25 % larger than its box, "
        "resampled to 128 px. Sizes are heights of faces in the evaluated photo. Background is "
        "what lies outside all boxes, in photos with faces.",
        "Certainty": "The 95 % interval is of the mean change over the photos, from their spread: "
        "it speaks of photos like these.",
        "Not computed": "What cannot be computed is a dash here and null in report.json, never 0.",
    }
    items = [[element("dt", key), element("dd", value)] for key, value in entries.items()]
    summary = element("summary", "How every figure was computed")
    return element("details", summary, element("dl", items))
