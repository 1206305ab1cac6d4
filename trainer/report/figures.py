"""The figures of a report as rows of text, for the terminal, the page and the card alike.

All text is ASCII, as a terminal may know no more; the page puts in the finer signs.
"""

import ntpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from trainer.judge.regions import MEDIUM_BELOW, SMALL_BELOW
from trainer.judge.scores import DISTANCES, HIGHER_IS_BETTER
from trainer.names import printable

Report = Mapping[str, Any]

GROUP_TITLES = {"val": "Validation", "general": "General"}
REGION_TITLES = {
    "all": "All",
    "faces": "Faces",
    "faces_small": f"Small faces, under {SMALL_BELOW} px",
    "faces_medium": f"Medium faces, under {MEDIUM_BELOW} px",
    "faces_large": f"Large faces, from {MEDIUM_BELOW} px",
    "background": "Background",
}
DECIMALS = {"psnr": 2, "ssim": 4, "lpips": 4, "encoder_distance": 4, "sharpness": 3,
            "identity": 3}  # fmt: skip
SHIFT = "shift"  # of a channel's mean, best at 0
BEST = {"sharpness": 1.0, SHIFT: 0.0}  # figures that are neither better high nor better low
IN_PERCENT = DISTANCES
NOTHING = "-"


class Cell(NamedTuple):
    """One model's figure, its change from the first model, and whether that is "better".

    `interval` is where the change lies (95 %), `gained` how many of the photos got better.
    """

    value: str
    change: str = ""
    tone: str = ""
    interval: str = ""
    gained: str = ""


class Row(NamedTuple):
    """One figure of all models."""

    label: str
    cells: list[Cell]


class Block(NamedTuple):
    """The rows of one region, and how many photos and faces stand behind them."""

    title: str
    count: str
    rows: list[Row]


def blocks(report: Report, group: str) -> list[Block]:
    """Return the figures of one set, region by region, with changes from the first model."""
    summaries = [model.get(group, {}) for model in report["models"].values()]
    present = [name for name in REGION_TITLES if any(name in summary for summary in summaries)]
    return [
        _block(
            report,
            name,
            [summary.get(name, {}) for summary in summaries],
            [compared(report, model, group, name) for model in report["models"]],
        )
        for name in present
    ]


def compared(report: Report, model: str, group: str, region: str = "all") -> Mapping[str, Any]:
    """Return what a model changes in a region, by figure; nothing for the first model."""
    return report["difference"].get(model, {}).get(group, {}).get(region, {})


def groups(report: Report) -> list[str]:
    """Return the sets that the report has figures of: "val", then "general"."""
    return [name for name in GROUP_TITLES if any(m.get(name) for m in report["models"].values())]


def _block(
    report: Report,
    region: str,
    parts: Sequence[Mapping[str, Any]],
    changes: Sequence[Mapping[str, Any]],
) -> Block:
    rows = [
        Row(
            figure_title(report, name),
            [
                _certain(cell, name, change.get(name))
                for cell, change in zip(
                    _cells(name, [part.get(name) for part in parts]), changes, strict=True
                )
            ],
        )
        for name in DECIMALS
        if any(part.get(name) is not None for part in parts)
    ]
    rows += _shift_rows([part.get("channel_error") or () for part in parts])
    return Block(REGION_TITLES[region], count_of(parts), rows)


def _shift_rows(shifts: Sequence[Sequence[float | None]]) -> list[Row]:
    """Return a row for each channel's mean error: three, or one for pictures of grey."""
    channels = max(map(len, shifts))
    titles = ["Mean error, of 255"]
    if channels == 3:
        titles = [f"Mean {colour} error, of 255" for colour in ("red", "green", "blue")]
    return [
        Row(title, _cells(SHIFT, [shift[i] if shift else None for shift in shifts]))
        for i, title in enumerate(titles[:channels])
    ]


def count_of(parts: Iterable[Mapping[str, Any]]) -> str:
    """Say how many photos, and faces, stand behind a block."""
    part = max(parts, key=lambda part: part.get("n", 0))
    faces = f"{number(part['faces'], 'face')} in " if "faces" in part else ""
    sheets = part.get("from_sheets")
    on_sheets = f", reduced onto {number(sheets, 'sheet')}" if sheets else ""
    return faces + number(part.get("n", 0), "photo") + on_sheets


def number(count: int, what: str) -> str:
    """Say a count with its noun: 1 photo, 1,000 photos."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def figure_title(report: Report, name: str) -> str:
    """Name a figure, with its unit or its network."""
    titles = {
        "psnr": "PSNR (dB)",
        "ssim": "SSIM",
        "lpips": f"LPIPS ({report.get('lpips_net')})",
        "encoder_distance": "Encoder distance",
        "sharpness": "Sharpness",
        "identity": "Identity kept (SFace cosine)",
    }
    return titles[name]


def _cells(name: str, values: Sequence[float | None]) -> list[Cell]:
    return [_cell(name, values[0] if i else None, value) for i, value in enumerate(values)]


def _cell(name: str, first: float | None, value: float | None) -> Cell:
    if value is None:
        return Cell(NOTHING)
    if name == SHIFT:  # in levels of 8 bits, as people know colours
        value, first = 255 * value, None if first is None else 255 * first
    sign = "+" if name == SHIFT else ""
    shown = f"{value:{sign}.{DECIMALS.get(name, 2)}f}"
    return Cell(shown, change(name, first, value), tone(name, first, value))


def _certain(cell: Cell, name: str, entry: Mapping[str, Any] | None) -> Cell:
    """Add to a cell where its change lies; one that may be none is neither better nor worse."""
    if entry is None or not cell.change:
        return cell
    gained = f"{entry['better']} of {entry['n']}"
    interval = entry["relative_interval" if name in IN_PERCENT else "interval"]
    if interval is None:
        return cell._replace(gained=gained)
    unclear = interval[0] <= 0 <= interval[1]
    return cell._replace(
        interval=_interval_text(name, interval), gained=gained, tone="" if unclear else cell.tone
    )


def _interval_text(name: str, interval: Sequence[float]) -> str:
    """Write an interval in the unit of `change`: [+0.95, +1.26], or [-24.1, -18.0] %."""
    if name in IN_PERCENT:
        return "[" + ", ".join(f"{100 * end:+.1f}" for end in interval) + "] %"
    return "[" + ", ".join(f"{end:+.{DECIMALS[name]}f}" for end in interval) + "]"


def change(name: str, first: float | None, value: float | None) -> str:
    """Say the change of a figure: +1.10 in its unit, or -13.5 % for perceptual distances."""
    if first is None or value is None:
        return ""
    if name in IN_PERCENT:
        return f"{100 * (value - first) / first:+.1f} %" if first else ""
    return f"{value - first:+.{DECIMALS.get(name, 2)}f}"


def tone(name: str, first: float | None, value: float | None) -> str:
    """Say whether a change that can be seen in the figures is "better" or "worse", else ""."""
    if first is None or value is None:
        return ""
    first, value = (round(v, DECIMALS.get(name, 2)) for v in (first, value))
    gain = value - first
    if name in BEST:
        gain = abs(first - BEST[name]) - abs(value - BEST[name])
    elif not HIGHER_IS_BETTER[name]:
        gain = -gain
    return "better" if gain > 0 else "worse" if gain < 0 else ""


# Names


def labels(report: Report) -> dict[str, str]:
    """Return a short name for each model: of a place only its last part, and no name twice."""
    found: dict[str, str] = {}
    for key in report["models"]:
        name = place_name(key)
        same = sum(label == name or label.startswith(f"{name} (") for label in found.values())
        found[key] = f"{name} ({same + 1})" if same else name
    return found


def place_name(text: str) -> str:
    """Cut a path down to its last part, so that no report tells whose disk it came from.

    What can be no path on its own (one name, `org/name`, `org/name:subfolder`, `name:split`) stays.
    """
    name = ntpath.basename(text.rstrip("/\\")) or text
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w./-]+)?", text) is not None
    return printable(text if is_hub_id else name)


def private(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with every place cut down to its last part."""
    return {
        key: place_name(value) if isinstance(value, str) and value else value
        for key, value in config.items()
    }
