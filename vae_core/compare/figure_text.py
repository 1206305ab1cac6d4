"""The figures of pairs as text: CSV for a table, JSON for a program.

What cannot be computed, and the infinite PSNR of identical pictures, is empty in CSV and null in
JSON, which has `identical` beside it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .figures import NAMES, Figures, PairFigures, combine

REGIONS = ("inside", "outside")
COLUMNS = (*NAMES, *(f"{region}_{name}" for region in REGIONS for name in NAMES))
DIGITS = 7  # significant ones, about what float32 holds


def column(pairs: Sequence[PairFigures], name: str) -> list[float]:
    """Take one column of the table, one of COLUMNS: a number per pair, NaN where it has none."""
    values = [_flat(one).get(name) for one in pairs]
    return [math.nan if value is None else value for value in values]


def batch(pairs: Sequence[PairFigures]) -> PairFigures:
    """Reduce all pairs to one: means, the largest maximum, the count of values lost."""
    regions = []
    for name in REGIONS:
        parts = [getattr(one, name) for one in pairs]
        regions.append(None if None in parts else combine(parts))
    return PairFigures(
        combine([one.whole for one in pairs]), *regions, None, sum(one.lost for one in pairs)
    )


def to_csv(pairs: Sequence[PairFigures], size: tuple[int, int], net: str | None) -> str:
    """Write a row per pair and a last one of the batch; size is (height, width) in pixels.

    psnr in dB, errors on [0, 1], maximum in the last row the largest. The column `lpips_net` names
    the network of lpips.
    """
    masked = any(one.inside is not None for one in pairs)
    names = [name for name in COLUMNS if masked or "_" not in name]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "width", "height", "identical", "not_finite", "lpips_net", *names])
    rows = [(str(number), one) for number, one in enumerate(pairs, 1)]
    for label, one in [*rows, ("batch", batch(pairs))]:
        flat = _flat(one)
        figures = [_rounded(flat.get(name)) for name in names]
        same = str(one.identical).lower()
        writer.writerow([label, size[1], size[0], same, one.lost, net or "", *figures])
    return text.getvalue()


def to_json(pairs: Sequence[PairFigures], about: dict[str, Any]) -> str:
    """Write `about`, `batch` and a list of `images`; numbers JSON cannot say are null."""
    rows = [{"image": number, **_entry(one)} for number, one in enumerate(pairs, 1)]
    document = {**about, "count": len(pairs), "batch": _entry(batch(pairs)), "images": rows}
    return json.dumps(_sayable(document), indent=2, allow_nan=False)


def _entry(one: PairFigures) -> dict[str, Any]:
    entry: dict[str, Any] = {"identical": one.identical, "not_finite": one.lost}
    entry |= _grouped(one.whole)
    for region in REGIONS:
        figures = getattr(one, region)
        if figures is not None:
            entry[region] = _grouped(figures)
    return entry | ({"box": one.box._asdict()} if one.box else {})


def _grouped(figures: Figures) -> dict[str, Any]:
    """Put the three channels under one name."""
    values = asdict(figures)
    shift = {channel: values.pop(channel) for channel in ("red", "green", "blue")}
    return values | {"colour_shift": shift}


def _flat(one: PairFigures) -> dict[str, float | None]:
    flat = asdict(one.whole)
    for region in REGIONS:
        figures = getattr(one, region)
        if figures is not None:
            flat |= {f"{region}_{name}": value for name, value in asdict(figures).items()}
    return flat


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None


def _sayable(value: Any) -> Any:
    """Round numbers, and replace what JSON cannot say by null, at any depth."""
    if isinstance(value, float):
        return _rounded(value)
    if isinstance(value, dict):
        return {key: _sayable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sayable(entry) for entry in value]
    return value
