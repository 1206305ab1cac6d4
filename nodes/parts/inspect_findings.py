"""What Latent Inspect measures: a VAE's ratio and sizes, KL, the map of a batch, all findings."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from ...vae_core.drawn.chart_frame import message_chart
from ...vae_core.drawn.latent_charts import map_chart
from ...vae_core.drawn.latent_pictures import frame_at
from ...vae_core.inspect.compression import Row, table
from ...vae_core.inspect.inspection import kl, moments, percentiles, pooled, summaries
from ...vae_core.inspect.latent_report import Divergence, Findings, lost_in_words
from ...vae_core.inspect.projection import project_items
from ...vae_core.inspect.reading import Reading, doubts, in_space
from ..shared.latent_dict import STD, Latent

MOST_DRAWN = 32  # batch items with pictures of their own
MOST_POINTS = 1024  # items in a map: their products are kept


class View(NamedTuple):
    """What is shown of a latent: its values in one space, and of these one frame."""

    space: str
    values: Tensor  # [B, C, h, w] or [B, C, t, h, w]
    words: str
    flat: Tensor  # [B, C, h, w]
    frame: str  # words; "" where there are no frames

    @property
    def drawn(self) -> int:
        """How many items get pictures of their own."""
        return min(len(self.flat), MOST_DRAWN)


def view_of(reading: Reading, space: str, frame: int) -> View:
    """Look at a latent in a space, at a frame."""
    values, words = in_space(reading, space)
    return View(space, values, words, *frame_at(values, frame))


def findings(
    samples: Latent, reading: Reading, view: View, clip: float, vae: Any | None, colours: str
) -> Findings:
    """Measure the values; `colours` says how the colours were made."""
    points = sorted({1.0, clip, 50.0, 100 - clip, 99.0})
    rows, ratio = sizes(view.values, vae)
    parts = moments(view.values)
    lost = lost_in_words(summaries(pooled(parts))[0])
    count = len(view.flat)
    few = f"channels and rgb: the first {view.drawn} of {count} items." * (view.drawn < count)
    return Findings(
        shape=list(view.values.shape),
        dtype=str(samples["samples"].dtype).removeprefix("torch."),
        space=view.words,
        parts=parts,
        percentiles=dict(zip(points, percentiles(view.values, points), strict=True)),
        divergence=divergence(samples, reading),
        rows=rows,
        ratio=ratio,
        pictures=[words for words in (view.frame, colours, few) if words],
        warnings=[*lost, *doubts(reading, view.space)],
    )


def tile_title(index: int, view: View, clip: float) -> str:
    """Say what the tiles of an item show."""
    frame = f", {view.frame}" if view.frame else ""
    limits = f"range: percentiles {clip:g} to {100 - clip:g}; magenta: not finite"
    return f"item {index}, {view.words}{frame}\n{limits}"


def map_of(values: Tensor, words: str) -> Any:
    """Draw the map of a batch, or why there is none."""
    count = len(values)
    title = f"map of {count} items, {words}"
    if count < 2:
        return message_chart(title, "The map compares batch items: it needs 2 or more.")
    if count > MOST_POINTS:
        title = f"map of the first {MOST_POINTS} of {count} items, {words}"
    found = project_items(values[:MOST_POINTS])
    lost = int(found.places[:, 0].isnan().sum())
    return map_chart(found, f"{title}; {lost} left out: not finite" if lost else title)


def divergence(samples: Latent, reading: Reading) -> Divergence:
    """Measure KL where the latent carries its posterior's σ, in raw units."""
    std, raw = samples.get(STD), reading.raw
    words = "the latent taken as the posterior's mean, with the σ it carries"
    if std is None:
        words = "the latent carries no σ; VAE Encode (Scaled) keeps it where a VAE has a posterior"
    elif not isinstance(std, Tensor) or std.shape != raw.shape:
        std, words = None, "the σ that the latent carries has another shape than the latent"
    numbers = kl(raw, std)
    if std is not None and not numbers.isfinite().all():
        words = "values are not finite, or a σ is 0"
    return Divergence(numbers.tolist(), raw[0].numel(), words)


def sizes(values: Tensor, vae: Any | None) -> tuple[list[Row], str]:
    """Make the table of sizes: from the VAE's ratio and channels, else of this latent alone."""
    own = math.prod(values.shape[1:])
    if vae is None:
        return [Row("this latent", None, own)], "no VAE is connected: its ratio is not known"
    ratio, channels = ratio_of(vae), vae.latent_channels
    pictures = getattr(vae, "output_channels", 3)
    height, width = (side * ratio for side in values.shape[-2:])
    frames = _frames(vae, values)
    pixels = None if frames is None else pictures * frames * height * width
    count = f", {frames} frames" if frames not in (None, 1) else ""
    rows = [
        *table(ratio, channels, pictures),
        Row(f"this: {width} x {height} px{count}", pixels, own),
    ]
    words = f"{ratio} x {ratio} pixels a cell, {channels} channels (from the VAE)"
    if values.shape[1] != channels:
        words += f"; this latent has {values.shape[1]} channels, so it is not this VAE's"
    return rows, words


def ratio_of(vae: Any) -> int:
    return int(vae.spacial_compression_decode())


def _frames(vae: Any, values: Tensor) -> int | None:
    """Count the frames that a latent decodes to; None if the VAE does not tell."""
    if values.ndim == 4:
        return 1
    if not isinstance(vae.upscale_ratio, tuple):
        return None
    along_time = vae.upscale_ratio[0]
    return int(along_time(values.shape[2])) if callable(along_time) else None
