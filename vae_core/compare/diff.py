"""Pictures of what differs between a reconstruction and its original.

x, the reconstruction, and y, the original, are [1, 3, H, W] in [0, 1], rounded to 8 bits
(pairs.pair), with NaN where a pixel was lost; lost pixels are magenta in every picture.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..drawn import colours
from ..lpips import SMALLEST_SIDE
from ..metrics import WINDOW, ssim_map
from .figures import Perceptual, distance_map

KINDS = ("auto", "lpips", "ssim", "colour", "absolute")
HIGHEST = {"lpips": 0.5, "ssim": 1.0, "colour": 0.1}  # the error that is brightest
UNITS = {
    "lpips": "LPIPS",
    "ssim": "1 - SSIM",
    "colour": "OKLab distance",
    "absolute": "mean |error|",
}
BLUR = 1.5  # pixels, sigma: finer than that, colours mix in the eye


class HeatMap(NamedTuple):
    """A map of errors [H, W], 0 where nothing differs, and what its brightest colour stands for."""

    kind: str
    values: Tensor
    highest: float


def absolute(x: Tensor, y: Tensor, gain: float) -> Tensor:
    """Show |x - y| * gain, channel by channel: an image [H, W, 3] in [0, 1]; black is equal."""
    return _image((x - y).abs() * gain)


def signed(x: Tensor, y: Tensor, gain: float) -> Tensor:
    """Show 0.5 + (x - y) * gain / 2, channel by channel: an image [H, W, 3] in [0, 1].

    Grey is equal, lighter is where the reconstruction is larger. Both signs are linear.
    """
    return _image(0.5 + (x - y) * (gain / 2))


def choose_kind(kind: str, size: tuple[int, int], perceptual: Perceptual | None) -> str:
    """Choose what a heat map shows: LPIPS where it can be had, else SSIM, else colour distance.

    size is (height, width) in pixels. Raises ValueError where the map that is asked for by name
    cannot be had.
    """
    if kind not in KINDS:
        raise ValueError(f"Expected a heat map among {', '.join(KINDS)}, got {str(kind)[:80]!r}.")
    smallest = {"ssim": WINDOW}
    if perceptual is not None:
        smallest["lpips"] = SMALLEST_SIDE[perceptual.net]
    possible = [name for name in ("lpips", "ssim") if min(size) >= smallest.get(name, 2**31)]
    if kind == "auto":
        return (possible + ["colour"])[0]
    if kind == "lpips" and perceptual is None:
        raise ValueError(
            "Expected LPIPS weights for a heat map of LPIPS, got none: choose the network under "
            "'lpips_net' and put its file into models/vae_lab, or choose another heat map."
        )
    if kind in smallest and kind not in possible:
        raise ValueError(
            f"Expected at least {smallest[kind]} pixels a side for a heat map of {kind}, got "
            f"{size[1]} x {size[0]}: choose another heat map."
        )
    return kind


def heat_map(
    x: Tensor, y: Tensor, kind: str, perceptual: Perceptual | None, gain: float, highest: float = 0
) -> HeatMap:
    """Map the error of a pair as `kind` says, one that choose_kind gave.

    highest: the error of the brightest colour; 0 takes the kind's own, so that maps of different
    runs can be compared. That of "absolute" is 1 / gain.
    """
    values = _VALUES[kind](x, y) if kind in _VALUES else distance_map(x, y, perceptual)
    lost = (x + y).isnan().any(1)[0]
    values = values.clamp(min=0).masked_fill(lost, torch.nan)
    return HeatMap(kind, values, highest or HIGHEST.get(kind, 1 / gain))


def heat_colours(heat: HeatMap) -> Tensor:
    """Colour a heat map: an image [H, W, 3] in [0, 1], dark where nothing differs."""
    return colours.sequential(heat.values / heat.highest)


def _structure(x: Tensor, y: Tensor) -> Tensor:
    """Map 1 - SSIM: [H, W]; the outer five pixels repeat the nearest window."""
    similarity = ssim_map(x.nan_to_num(0.0), y.nan_to_num(0.0))
    edge = (WINDOW // 2,) * 4
    return 1 - F.pad(similarity.unsqueeze(1), edge, mode="replicate")[0, 0]


def _colour(x: Tensor, y: Tensor) -> Tensor:
    """Map the distance in OKLab of both pictures, slightly blurred as the eye does: [H, W].

    Two colours side by side are told apart from about 0.02 on.
    """
    labs = [colours.oklab(p.nan_to_num(0.0).movedim(1, -1)).movedim(-1, 1) for p in (x, y)]
    return _blur(labs[0] - labs[1]).norm(dim=1)[0]


def _mean_error(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean(1)[0]


_VALUES = {"ssim": _structure, "colour": _colour, "absolute": _mean_error}


def _blur(x: Tensor) -> Tensor:
    """Blur [1, C, H, W] with a gaussian; weights near an edge are those that lie inside."""
    taps = torch.arange(-4, 5, dtype=x.dtype)
    window = torch.exp(-0.5 * (taps / BLUR) ** 2).view(1, 1, -1, 1)
    planes = torch.cat([x[0], torch.ones_like(x[0, :1])]).unsqueeze(1)
    down = F.conv2d(planes, window, padding=(4, 0))
    both = F.conv2d(down, window.mT, padding=(0, 4)).movedim(1, 0)
    return both[:, :-1] / both[:, -1:]


def _image(picture: Tensor) -> Tensor:
    """Turn [1, 3, H, W] into an image [H, W, 3] in [0, 1], lost pixels magenta."""
    return colours.mark_nan(picture[0].movedim(0, -1))
