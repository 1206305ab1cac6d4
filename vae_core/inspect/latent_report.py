"""What was found in a latent, as text for people and as JSON for programs.

What cannot be computed is "not known" in the text and null in JSON, never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import compression
from .compression import Row
from .inspection import Moments, Summary, pooled, summaries

MOST_CELLS = 4096  # items times channels that are listed one by one
MOST_LINES = 32  # items or channels that the text lists


class Divergence(NamedTuple):
    """KL from N(0, I) in nats: one number an item, values of an item, and what it rests on."""

    items: list[float]
    elements: int
    words: str

    @property
    def mean(self) -> float:
        """The mean over the batch; NaN where one is not known."""
        return math.fsum(self.items) / len(self.items)


class Findings(NamedTuple):
    """All that Latent Inspect found."""

    shape: list[int]  # [B, C, h, w] or [B, C, t, h, w]
    dtype: str
    space: str
    parts: Moments  # [B, C]
    percentiles: dict[float, float]
    divergence: Divergence
    rows: list[Row]
    ratio: str  # what the rows rest on
    pictures: list[str]  # how the pictures were made, one sentence each
    warnings: list[str]

    @property
    def whole(self) -> Summary:
        """The figures of the whole batch."""
        return summaries(pooled(self.parts))[0]

    @property
    def table(self) -> list[tuple[str, ...]]:
        """The table of sizes, its head first."""
        return compression.cells(self.rows)


def as_text(found: Findings) -> str:
    """Write the findings for people."""
    whole, items = found.whole, summaries(pooled(found.parts, [1]))
    points = ", ".join(f"{percent:g} %: {_word(v)}" for percent, v in found.percentiles.items())
    lines = [
        f"Latent {found.shape}, {found.dtype}: {_in_words(found.shape)}",
        f"Space: {found.space}",
        *[f"WARNING: {words}" for words in found.warnings],
        "",
        f"All: {_figures(whole)}",
        f"Percentiles: {points}",
        f"Not finite: {whole.non_finite:,} of {whole.values:,} values",
        *(_listed("Item", items) if len(items) > 1 else []),
        *_listed("Channel", summaries(pooled(found.parts, [0]))),
        "",
        f"KL from N(0, I): {_kl(found.divergence)}",
        "",
        f"Size: {found.ratio}",
        *compression.lines(found.rows),
        "",
        *found.pictures,
    ]
    return "\n".join(lines)


def as_json(found: Findings) -> str:
    """Write the findings for programs: per batch, item and channel; NaN is null."""
    items = [_plain(s) for s in summaries(pooled(found.parts, [1]))]
    channels = [_plain(s) for s in summaries(pooled(found.parts, [0]))]
    cells = [_plain(s) for s in summaries(found.parts)]
    for index, (item, kl) in enumerate(zip(items, found.divergence.items, strict=True)):
        item["kl"] = _number(kl)
        if len(cells) <= MOST_CELLS:
            item["channels"] = cells[index * len(channels) : (index + 1) * len(channels)]
    content = {
        "shape": found.shape,
        "dtype": found.dtype,
        "space": found.space,
        "batch": _plain(found.whole) | {"kl": _number(found.divergence.mean)},
        "percentiles": {f"{p:g}": _number(value) for p, value in found.percentiles.items()},
        "items": items,
        "channels": channels,
        "sizes": [_size(row) for row in found.rows],
        "warnings": found.warnings,
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)


def lost_in_words(whole: Summary) -> list[str]:
    """Warn of values that are not finite."""
    if not whole.non_finite:
        return []
    return [f"NaN or infinite: {whole.non_finite:,} of {whole.values:,} values"]


def _in_words(shape: Sequence[int]) -> str:
    frames = f" and {shape[2]} frames" if len(shape) == 5 else ""
    return f"{shape[0]} items of {shape[1]} channels{frames}, {shape[-1]} x {shape[-2]} cells"


def _listed(name: str, parts: Sequence[Summary]) -> list[str]:
    lines = [f"{name} {index}: {_figures(part)}" for index, part in enumerate(parts[:MOST_LINES])]
    rest = len(parts) - MOST_LINES
    return [*lines, f"and {rest} more, in the JSON"] if rest > 0 else lines


def _figures(part: Summary) -> str:
    named = zip(("mean", "std", "min", "max"), part[2:], strict=True)
    figures = "  ".join(f"{name} {_word(value)}" for name, value in named)
    return f"{figures}  ({part.non_finite:,} not finite)" if part.non_finite else figures


def _kl(divergence: Divergence) -> str:
    if math.isnan(divergence.mean):
        return f"not known: {divergence.words}"
    each = divergence.mean / divergence.elements
    return f"{divergence.mean:.5g} nats an item, {each:.4g} a value; {divergence.words}"


def _plain(part: Summary) -> dict[str, Any]:
    return {
        name: _number(value) if isinstance(value, float) else value
        for name, value in part._asdict().items()
    }


def _size(row: Row) -> dict[str, Any]:
    values, fp32, fp16 = map(_number, row.ratios)
    return {
        "picture": row.name,
        "pixel_bytes": row.pixel_values,
        "latent_values": row.latent_values,
        "fp32_bytes": row.bytes32,
        "fp16_bytes": row.bytes16,
        "values_ratio": values,
        "fp32_ratio": fp32,
        "fp16_ratio": fp16,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _word(value: float) -> str:
    return "not known" if math.isnan(value) else f"{value:.5g}"
