"""Colours for numbers: two maps computed in OKLab, and the conversion they are computed with.

Values and colours are tensors of any shape [...] and [..., 3]; colours are sRGB in [0, 1].
OKLab is a space in which equal steps look equally large: Ottosson (2020),
https://bottosson.github.io/posts/oklab/. NaN is magenta in every picture of the pack.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NAN_COLOUR = (1.0, 0.0, 1.0)
KINDS = ("sequential", "diverging")
STEPS = 1024  # rows of a map's table: finer than the 256 levels of a file

# linear sRGB -> cones -> OKLab, as Ottosson gives them
_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)

# (lightness, chroma, hue in degrees): from near black over violet, red and orange to pale yellow
_HEAT = ((0.16, 0.03, 270), (0.32, 0.13, 290), (0.48, 0.18, 380), (0.68, 0.18, 405))
_HEAT += ((0.85, 0.16, 445), (0.98, 0.06, 465))
# from a deep blue to a neutral grey, and from it to a deep red of the same lightness
_COLD = ((0.38, 0.13, 258), (0.66, 0.12, 250), (0.93, 0.0, 250))
_WARM = ((0.93, 0.0, 40), (0.66, 0.15, 40), (0.38, 0.13, 25))


def sequential(values: Tensor) -> Tensor:
    """Colour values in [0, 1]: any shape [...] -> [..., 3], dark to light.

    Lightness rises evenly, so the order survives printing in grey. Values beyond are clamped,
    infinite ones too; NaN is magenta.
    """
    return _look_up(values.float(), _table(_HEAT))


def diverging(values: Tensor) -> Tensor:
    """Colour values in [-1, 1]: any shape [...] -> [..., 3]; blue below 0, grey at 0, red above.

    Equal distances from 0 are equally dark. Values beyond are clamped; NaN is magenta.
    """
    cold, warm = _table(_COLD, STEPS + 1), _table(_WARM, STEPS + 1)
    return _look_up((values.float() + 1) / 2, torch.cat([cold, warm[1:]]))


def mark_nan(image: Tensor) -> Tensor:
    """Paint pixels [..., 3] magenta where a channel is NaN; infinities are clamped to [0, 1]."""
    lost = image.isnan().any(-1, keepdim=True)
    magenta = torch.tensor(NAN_COLOUR, dtype=image.dtype, device=image.device)
    return torch.where(lost, magenta, image.clamp(0, 1))


def oklab(image: Tensor) -> Tensor:
    """Convert sRGB [..., 3] in [0, 1] to OKLab [..., 3]: lightness 0 to 1, then a and b."""
    cones = _linear(image.float()) @ _matrix(_TO_CONES, image).T
    return cones.clamp(min=0).pow(1 / 3) @ _matrix(_TO_LAB, image).T


def srgb(lab: Tensor) -> Tensor:
    """Convert OKLab [..., 3] to sRGB [..., 3]; colours beyond the gamut lie outside [0, 1]."""
    cones = (lab.float() @ _matrix(_TO_LAB, lab).inverse().T) ** 3
    return _gamma(cones @ _matrix(_TO_CONES, lab).inverse().T)


def _table(knots: tuple[tuple[float, float, float], ...], steps: int = STEPS) -> Tensor:
    """Draw a map through knots at even distances: [steps, 3] sRGB, in gamut."""
    at = torch.linspace(0, len(knots) - 1, steps, dtype=torch.float64)
    left = at.floor().long().clamp(max=len(knots) - 2)
    share = (at - left).unsqueeze(1)
    points = torch.tensor(knots, dtype=torch.float64)
    lightness, chroma, hue = (points[left] * (1 - share) + points[left + 1] * share).unbind(1)
    return _fit(lightness, chroma, hue * math.pi / 180)


def _fit(lightness: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """Reduce each colour's chroma until sRGB holds it; its lightness stays."""
    fits, beyond = torch.zeros_like(chroma), chroma
    for _ in range(20):
        colour = srgb(torch.stack([lightness, chroma * hue.cos(), chroma * hue.sin()], 1))
        inside = ((colour >= 0) & (colour <= 1)).all(1)
        fits, beyond = torch.where(inside, chroma, fits), torch.where(inside, beyond, chroma)
        chroma = (fits + beyond) / 2
    grey = torch.stack([lightness, fits * hue.cos(), fits * hue.sin()], 1)
    return srgb(grey).clamp(0, 1)


def _look_up(unit: Tensor, table: Tensor) -> Tensor:
    lost = unit.isnan()
    rows = (unit.nan_to_num(0.0).clamp(0, 1) * (len(table) - 1)).round().long()
    colours = table.to(unit.device)[rows]
    colours[lost] = torch.tensor(NAN_COLOUR, device=unit.device)
    return colours


def _linear(srgb_values: Tensor) -> Tensor:
    low = srgb_values / 12.92
    return torch.where(srgb_values <= 0.04045, low, ((srgb_values + 0.055) / 1.055) ** 2.4)


def _gamma(linear: Tensor) -> Tensor:
    high = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, high)


def _matrix(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32, device=like.device)
