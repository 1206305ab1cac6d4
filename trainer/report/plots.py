"""Charts as inline SVG, drawn by ourselves: crisp, small, and coloured by the page's style.

Classes in page/report.css give the colours, so a chart is light or dark as the page is.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from trainer.report.escape import Markup, element

WIDTH, WIDE, HEIGHT = 360, 440, 210  # of a curve, of bars, of both
LEFT, RIGHT, TOP, BOTTOM = 48, 20, 10, 34
MOST_POINTS = 300  # a curve of more is shown by the means of as many equal stretches
LOG_ABOVE = 30  # largest over smallest value from which on an axis is logarithmic

Point = tuple[float, float]


class Line(NamedTuple):
    """One curve: its name in the legend, its points, its class in the style sheet."""

    label: str
    points: Sequence[Point]
    style: str
    dots: bool = False


class Axis(NamedTuple):
    """A scale from values to places in the drawing, with its ticks."""

    ticks: list[float]
    place: Callable[[float], float]


def line_chart(title: str, lines: Iterable[Line], x_label: str) -> Markup | None:
    """Draw curves over a common x axis; None if none of them has two points."""
    lines = [line for line in lines if line.points]
    if not any(len(line.points) > 1 for line in lines):
        return None
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    across = linear_axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, widen=False)
    use_log = min(ys) > 0 and max(ys) > LOG_ABOVE * min(ys)
    up = (log_axis if use_log else linear_axis)(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    drawing = [_grid(WIDTH, across, up, x_label), [_curve(line, across, up) for line in lines]]
    legend = [element("span", line.label, class_=f"key {line.style}") for line in lines]
    heading = title + (" (logarithmic)" if use_log else "")
    return _figure(heading, legend, _svg(WIDTH, heading, drawing))


def bar_chart(title: str, bars: Sequence[tuple[str, float]], unit: str) -> Markup | None:
    """Draw one bar a photo around zero, in the order given; None under two of them."""
    if len(bars) < 2:
        return None
    values = [value for _, value in bars]
    up = linear_axis(min(0, *values), max(0, *values), HEIGHT - BOTTOM, TOP)
    step = (WIDE - LEFT - RIGHT) / len(bars)
    shown = []
    for i, (name, value) in enumerate(bars):
        top, foot = sorted((up.place(value), up.place(0)))
        shown.append(
            element(
                "rect",
                element("title", f"{name}: {value:+.2f} {unit}"),
                class_="gain" if value >= 0 else "loss",
                x=_short(LEFT + i * step + step * 0.1),
                y=_short(top),
                width=_short(step * 0.8),
                height=_short(max(foot - top, 0.5)),
            )
        )
    across = Axis([], lambda value: value)
    drawing = [_grid(WIDE, across, up, "photos, sorted"), shown]
    return _figure(title, [], _svg(WIDE, title, drawing))


# Data


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Reduce a curve to at most `most` points, each the mean of an equal stretch."""
    if len(points) <= most:
        return list(points)
    edges = [i * len(points) // most for i in range(most + 1)]
    stretches = [points[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    return [
        (math.fsum(x for x, _ in s) / len(s), math.fsum(y for _, y in s) / len(s))
        for s in stretches
    ]


def smooth(points: Sequence[Point], share: float = 0.08) -> list[Point]:
    """Replace each value by the mean of its neighbours within `share` of the curve around it."""
    reach = max(1, round(len(points) * share / 2))
    spans = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    return [
        (x, math.fsum(y for _, y in span) / len(span))
        for (x, _), span in zip(points, spans, strict=True)
    ]


# Axes


def linear_axis(low: float, high: float, start: float, end: float, widen: bool = True) -> Axis:
    """Scale [low, high] onto [start, end]; widened to whole ticks if asked to."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    step = nice_step((high - low) / 4)
    if widen:
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(
        [i * step for i in range(first, last + 1)],
        lambda value: start + (value - low) / (high - low) * (end - start),
    )


def log_axis(low: float, high: float, start: float, end: float) -> Axis:
    """Scale the logarithms of [low, high], widened to whole powers of ten, onto [start, end]."""
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, (top - bottom) // 4)
    return Axis(
        [10.0**power for power in range(bottom, top + 1, every)],
        lambda value: start + (math.log10(value) - bottom) / (top - bottom) * (end - start),
    )


def nice_step(rough: float) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


# Drawing


def _curve(line: Line, across: Axis, up: Axis) -> list[Markup]:
    places = [(across.place(x), up.place(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    drawn = [element("path", class_=f"curve {line.style}", d=path)]
    if line.dots:
        drawn += [
            element(
                "circle",
                element("title", f"{line.label}, step {x:,.0f}: {y:.4g}"),
                class_=f"dot {line.style}",
                cx=f"{cx:.1f}",
                cy=f"{cy:.1f}",
                r=3,
            )
            for (x, y), (cx, cy) in zip(line.points, places, strict=True)
        ]
    return drawn


def _grid(width: int, across: Axis, up: Axis, x_label: str) -> list[Markup]:
    drawn = []
    for tick in up.ticks:
        y = _short(up.place(tick))
        style = "zero" if tick == 0 else "grid"
        drawn.append(element("line", class_=style, x1=LEFT, x2=width - RIGHT, y1=y, y2=y))
        drawn.append(element("text", tick_text(tick), class_="tick right", x=LEFT - 6, y=y, dy=4))
    for tick in across.ticks:
        x = _short(across.place(tick))
        drawn.append(
            element("text", tick_text(tick), class_="tick middle", x=x, y=HEIGHT - BOTTOM + 15)
        )
    middle = (LEFT + width - RIGHT) / 2
    drawn.append(element("text", x_label, class_="tick middle", x=middle, y=HEIGHT - 4))
    return drawn


def tick_text(value: float) -> str:
    """Write a tick's number without a tail of zeros: 1,500, 0.25, 1e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("e-0", "e-")


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _svg(width: int, title: str, drawing: object) -> Markup:
    return element("svg", drawing, viewBox=f"0 0 {width} {HEIGHT}", role="img", aria_label=title)


def _figure(title: str, legend: Sequence[Markup], svg: Markup) -> Markup:
    caption = element("figcaption", element("strong", title), legend)
    return element("figure", caption, svg, class_="chart")
