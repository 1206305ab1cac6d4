"""What a VAE saves: values and bytes of a picture against those of its latent.

Pixels are 8-bit, one byte a value; latents are float32 or float16, 4 or 2 bytes a value. The ratio
is how many pixels one latent cell stands for on each side; it is the VAE's, 8 for Stable Diffusion.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SIDES = (256, 512, 768, 1024, 2048)


class Row(NamedTuple):
    """One picture and its latent; the pixels' figures are None where the ratio is not known."""

    name: str
    pixel_values: int | None  # as many bytes, at 8 bits
    latent_values: int

    @property
    def bytes32(self) -> int:
        """Bytes of the latent in float32."""
        return 4 * self.latent_values

    @property
    def bytes16(self) -> int:
        """Bytes of the latent in float16 or bfloat16."""
        return 2 * self.latent_values

    @property
    def ratios(self) -> tuple[float, float, float]:
        """How many times fewer: values, bytes against float32, bytes against float16; or NaN."""
        if not self.pixel_values or not self.latent_values:
            return math.nan, math.nan, math.nan
        pixels = self.pixel_values
        return pixels / self.latent_values, pixels / self.bytes32, pixels / self.bytes16


def square(side: int, ratio: int, channels: int, image_channels: int = 3) -> Row:
    """Count for a square picture of `side` pixels, cropped to whole cells as ComfyUI crops it."""
    cells = side // ratio
    kept = cells * ratio
    name = f"{side} x {side} px" if kept == side else f"{side} x {side} px, cropped to {kept}"
    return Row(name, image_channels * kept**2, channels * cells**2)


def table(ratio: int, channels: int, image_channels: int = 3) -> list[Row]:
    """Count for square pictures from 256 to 2,048 pixels; those under one cell are left out."""
    sides = [side for side in SIDES if side >= ratio]
    return [square(side, ratio, channels, image_channels) for side in sides]


def cells(rows: list[Row]) -> list[tuple[str, ...]]:
    """Write the rows as a table of words, its head first; ratios stand behind their figures."""
    head = ("picture", "8-bit pixels, bytes", "latent values", "fp32 bytes", "fp16 bytes")
    return [head, *(_texts(row) for row in rows)]


def lines(rows: list[Row]) -> list[str]:
    """Set the rows as text, aligned where all letters are equally wide."""
    table = cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            words.rjust(width) if column else words.ljust(width)
            for column, (words, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]


def _texts(row: Row) -> tuple[str, ...]:
    pixels = "not known" if row.pixel_values is None else f"{row.pixel_values:,}"
    counts = (row.latent_values, row.bytes32, row.bytes16)
    figures = (_with_ratio(n, ratio) for n, ratio in zip(counts, row.ratios, strict=True))
    return row.name, pixels, *figures


def _with_ratio(count: int, ratio: float) -> str:
    return f"{count:,}" if math.isnan(ratio) else f"{count:,} ({ratio:.4g}x)"
