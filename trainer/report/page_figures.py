"""The tables of figures in the report."""

from collections.abc import Sequence

from trainer.judge.sheets import CANVAS, ENOUGH, FACE_HEIGHT
from trainer.report.escape import Markup, element, join
from trainer.report.figures import GROUP_TITLES, Block, Cell, Report, blocks, groups, labels
from trainer.report.gallery import signed


def figures_section(report: Report) -> Markup | None:
    """Lay out all figures of all models, a table for each set."""
    found = groups(report)
    if not found:
        return None
    tables = [
        element("div", element("h3", GROUP_TITLES[group]), _table(report, blocks(report, group)))
        for group in found
    ]
    notes = [_sheets_note(report), _no_regions(report)]
    return join([element("div", tables, class_="two"), notes])


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
    spread = element("span", signed(cell.interval), class_="interval")
    return element(
        "td",
        signed(cell.value),
        delta if cell.change else None,
        [spread, element("span", f"{cell.gained} better", class_="gained")]
        if cell.interval
        else None,
        class_=cell.tone,
    )


def _sheets_note(report: Report) -> Markup | None:
    """Say which small faces were not measured in the photos themselves."""
    summaries = next(iter(report["models"].values()))
    found = [g for g in groups(report) if "from_sheets" in summaries[g].get("faces_small", {})]
    if not found:
        return None
    sets = " and ".join(GROUP_TITLES[group] for group in found)
    return element(
        "p",
        f"{sets}: the photos show fewer than {ENOUGH} small faces. So the figures of small faces "
        f"come from sheets: the photos with faces, reduced until their largest face is "
        f"{FACE_HEIGHT} px high, side by side on canvases of {CANVAS} x {CANVAS} px.",
        class_="soft",
    )


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
