"""The curves of the report: losses as they were logged, figures at every evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.report.escape import Markup, element
from trainer.report.figures import GROUP_TITLES, Report, figure_title
from trainer.report.plots import Line, Point, line_chart, smooth, thin

LOSSES = {
    "loss": "Training loss",
    "rec": "Pixel loss",
    "lpips": "LPIPS loss",
    "distance": "Encoder distance loss",
    "face_lpips": "LPIPS loss of faces",
    "face_distance": "Encoder distance loss of faces",
    "hf": "High-frequency loss",
    "gan": "Discriminator's judgement",
    "gan_scale": "Scale of its judgement",
    "disc": "Discriminator's own loss",
    "kl": "KL",
    "lr": "Learning rate",
}
EVALUATED = ("psnr", "ssim", "lpips", "encoder_distance")
ROUGH_FROM = 12  # points from which on a logged curve is shown smoothed, over its raw values

Lines = Sequence[Mapping[str, Any]]


def curves(report: Report, history: Lines) -> Markup | None:
    """Draw a chart for each figure and each logged loss; None if nothing was logged."""
    charts = [*_evaluation_charts(report, history), *_loss_charts(history)]
    return element("div", charts, class_="charts") if charts else None


def _evaluation_charts(report: Report, history: Lines) -> list[Markup]:
    evaluations = {line["step"]: line["eval"] for line in history if "eval" in line}
    charts = []
    for group, title in GROUP_TITLES.items():
        for figure in EVALUATED:
            lines = [
                Line(model, _evaluated(evaluations, model, group, figure), model, model == "tuned")
                for model in ("base", "tuned")
            ]
            heading = f"{title}: {figure_title(report, figure)}"
            charts.append(line_chart(heading, lines, "step"))
    return [chart for chart in charts if chart]


def _evaluated(
    evaluations: Mapping[int, Mapping[str, Any]], model: str, group: str, figure: str
) -> list[Point]:
    found = [
        (step, models.get(model, {}).get(group, {}).get("all", {}).get(figure))
        for step, models in sorted(evaluations.items())
    ]
    return [(step, value) for step, value in found if value is not None]


def _loss_charts(history: Lines) -> list[Markup]:
    # the last line of a step holds: a resumed run may have logged it twice
    logged = {line["step"]: line for line in history if "eval" not in line}
    charts = [
        line_chart(title, _loss_lines(title, _logged(logged.values(), name)), "step")
        for name, title in LOSSES.items()
    ]
    return [chart for chart in charts if chart]


def _logged(lines: Iterable[Mapping[str, Any]], name: str) -> list[Point]:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return sorted(points) if len({value for _, value in points}) > 1 else []


def _loss_lines(title: str, points: Sequence[Point]) -> list[Line]:
    points = thin(points)
    if title == LOSSES["lr"] or len(points) < ROUGH_FROM:
        return [Line("as logged", points, "tuned")]
    return [Line("as logged", points, "faint"), Line("smoothed", smooth(points), "tuned")]
