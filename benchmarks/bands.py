"""Curves with bands, drawn by matplotlib: a panel a figure, a colour a name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Okabe and Ito's palette, which tells apart without red and green, then dashed once more
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", ":")


class Band(NamedTuple):
    """A curve: its name, and points (x, y, low, high); low and high None where not known."""

    name: str
    points: Sequence[tuple[Any, ...]]


def plot_bands(
    path: Path, panels: Mapping[str, Sequence[Band]], x_label: str, ticks: bool = False
) -> None:
    """Draw panels side by side, by the label of their y axis, into a PNG file.

    With `ticks`, x is logarithmic and marked where points are.
    """
    from matplotlib.figure import Figure  # here, as it takes a second; and without a display

    figure = Figure(figsize=(5.2 * len(panels), 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (label, bands) in zip(axes, panels.items(), strict=True):
        for i, band in enumerate(bands):
            _draw(axis, band, COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)])
        axis.set(xlabel=x_label, ylabel=label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if ticks:
            _mark(axis, sorted({point[0] for band in bands for point in band.points}))
    axes[0].legend(frameon=False)
    figure.savefig(path)


def _draw(axis: Any, band: Band, colour: str, style: str) -> None:
    xs, ys, lows, highs = zip(*band.points, strict=True)
    axis.plot(xs, ys, style, color=colour, label=band.name, marker="o", markersize=3.5)
    if None not in lows:
        axis.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)


def _mark(axis: Any, places: Sequence[float]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.set_xticks([], minor=True)
