"""How near a reconstruction comes to its original: PSNR, SSIM, mean errors, per picture.

B batch, C image channels, H, W pixels. Every function takes x, the reconstruction, and y, the
original: [B, C, H, W] in [0, 1], rounded to 8 bits first (images.to_unit). Every function answers
per picture, in float32, and a batch gives what its pictures give one by one. What cannot be
computed is NaN, never 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Wang, Bovik, Sheikh, Simoncelli (2004), "Image quality assessment: from error visibility to
# structural similarity", section III: an 11-tap window of sigma 1.5, K1 = 0.01, K2 = 0.03.
WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2

BAND = 64  # rows at a time: as many bytes for any height, and several times faster


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Measure the peak signal-to-noise ratio: [B, C, H, W] twice in [0, 1] -> [B], in dB.

    10 log10(1 / MSE) per picture: the mean of it over a set is not that of the set's mean MSE.
    Identical pictures give +inf, which files write as null.
    """
    _check(x, y)
    return psnr_from_mse((_precise(x) - _precise(y)).square().flatten(1).mean(1))


def psnr_from_mse(mse: Tensor) -> Tensor:
    """Turn mean squared errors on [0, 1] into dB, any shape; 0 gives +inf, NaN stays NaN."""
    return (-10 * torch.log10(mse)).float()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Measure the structural similarity: [B, C, H, W] twice in [0, 1] -> [B], at most 1.

    The mean of ssim_map; NaN where a side is under 11 pixels.
    """
    return _ssim_map(x, y).flatten(1).mean(1).float()


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Map the structural similarity: [B, C, H, W] twice in [0, 1] -> [B, H - 10, W - 10].

    Each value belongs to one whole 11-tap gaussian window; the one at (i, j) is centred on pixel
    (i + 5, j + 5). Channel by channel, then their mean. Empty where a side is under 11 pixels.
    Reference: Wang, Bovik, Sheikh, Simoncelli (2004), https://doi.org/10.1109/TIP.2003.819861
    """
    return _ssim_map(x, y).float()


def mae(x: Tensor, y: Tensor) -> Tensor:
    """Measure the mean absolute error: [B, C, H, W] twice in [0, 1] -> [B]."""
    _check(x, y)
    return (_precise(x) - _precise(y)).abs().flatten(1).mean(1).float()


def channel_mean_error(x: Tensor, y: Tensor) -> Tensor:
    """Measure the shift of each channel's mean: [B, C, H, W] twice in [0, 1] -> [B, C], signed.

    mean(x) - mean(y): positive where the reconstruction is brighter.
    """
    _check(x, y)
    return (_precise(x) - _precise(y)).flatten(2).mean(2).float()


def _ssim_map(x: Tensor, y: Tensor) -> Tensor:
    _check(x, y)
    edge = WINDOW - 1
    starts = range(0, max(x.shape[2] - edge, 1), BAND)
    bands = [slice(start, start + BAND + edge) for start in starts]
    return torch.cat([_ssim_band(x[:, :, band], y[:, :, band]) for band in bands], 1)


def _ssim_band(x: Tensor, y: Tensor) -> Tensor:
    x, y = _precise(x), _precise(y)
    batch, channels, height, width = x.shape
    if min(height, width) < WINDOW:
        return x.new_empty(batch, max(height - WINDOW + 1, 0), max(width - WINDOW + 1, 0))
    moments = torch.cat([x, y, x * x, y * y, x * y])
    mean_x, mean_y, xx, yy, xy = _blur(moments).chunk(5)
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    covariance = xy - mean_x * mean_y
    structure = (2 * covariance + C2) / (variances + C2)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * structure).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Average over gaussian windows that lie inside: [B, C, H, W] -> [B, C, H - 10, W - 10]."""
    taps = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-0.5 * (taps / SIGMA) ** 2)
    window = window / window.sum()
    planes = x.flatten(0, 1).unsqueeze(0)  # grouped planes: 4 times faster than one by one
    count = planes.shape[1]
    down = window.view(1, 1, -1, 1).expand(count, 1, -1, -1)
    blurred = F.conv2d(F.conv2d(planes, down, groups=count), down.mT, groups=count)
    return blurred.view(*x.shape[:2], *blurred.shape[2:])


def _precise(x: Tensor) -> Tensor:
    """Widen to float64, where flat areas keep their variance; MPS has none, and takes float32."""
    return x.float() if x.device.type == "mps" else x.double()


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 4 or x.shape != y.shape:
        raise ValueError(
            "Expected two batches of one shape [B, C, H, W], "
            f"got {list(x.shape)} and {list(y.shape)}."
        )
    for name, picture in (("x", x), ("y", y)):
        if picture.numel() and not picture.is_floating_point():
            raise ValueError(f"Expected {name} as floats in [0, 1], got {picture.dtype}.")
        if (picture < 0).any() or (picture > 1).any():
            raise ValueError(
                f"Expected {name} in [0, 1], got values from {picture.min():.3f} "
                f"to {picture.max():.3f}: convert pixels with images.to_unit first."
            )
