"""LPIPS v0.1, the learned perceptual distance, as plain functions of a dict of weights.

Zhang, Isola, Efros, Shechtman, Wang (2018), "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", https://arxiv.org/abs/1801.03924. There is no module, so nothing can be trained
or dropped out by accident. Always float32, whatever autocast says. Gradients reach x alone.

The weights come from prepare. B batch, C feature channels, H, W pixels, h, w feature cells.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from .lpips_weights import (
    NETS,
    Weights,
    check_net,
    check_weights,
    fastest_layout,
    head_name,
    net_of,
    prepare,
)

__all__ = [
    "NETS",
    "SMALLEST_SIDE",
    "check_weights",
    "lpips",
    "lpips_from_features",
    "net_of",
    "prepare",
    "target_features",
    "unit_length",
]

Step = Callable[[Weights, Tensor], Tensor]

# Under these sides (in pixels) a pooling is left with nothing to pool.
SMALLEST_SIDE = {"vgg": 16, "alex": 31, "squeeze": 17}

# ImageNet's mean and std, for a range of [-1, 1] instead of [0, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

# Inside the square root: without it the gradient of a norm at zero is NaN.
EPSILON = 1e-10


# The backbones: slices of torchvision's `features`, a feature map is taken after each


def _conv(index: int, stride: int = 1, padding: int = 1) -> Step:
    """Convolution and ReLU."""
    return lambda weights, h: _convolve(weights, f"features.{index}", h, stride, padding)


def _fire(index: int) -> Step:
    """SqueezeNet's block: squeeze to few channels, expand by 1x1 and 3x3 kernels side by side."""

    def step(weights: Weights, h: Tensor) -> Tensor:
        h = _convolve(weights, f"features.{index}.squeeze", h)
        narrow = _convolve(weights, f"features.{index}.expand1x1", h)
        return torch.cat([narrow, _convolve(weights, f"features.{index}.expand3x3", h, 1, 1)], 1)

    return step


def _pool(size: int, ceil: bool = False) -> Step:
    return lambda _, h: F.max_pool2d(h, size, stride=2, ceil_mode=ceil)


def _convolve(weights: Weights, name: str, h: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return F.relu(F.conv2d(h, weight, bias, stride, padding))


SLICES: dict[str, tuple[tuple[Step, ...], ...]] = {
    "vgg": (
        (_conv(0), _conv(2)),
        (_pool(2), _conv(5), _conv(7)),
        (_pool(2), _conv(10), _conv(12), _conv(14)),
        (_pool(2), _conv(17), _conv(19), _conv(21)),
        (_pool(2), _conv(24), _conv(26), _conv(28)),
    ),
    "alex": (
        (_conv(0, stride=4, padding=2),),
        (_pool(3), _conv(3, padding=2)),
        (_pool(3), _conv(6)),
        (_conv(8),),
        (_conv(10),),
    ),
    "squeeze": (
        (_conv(0, stride=2, padding=0),),
        (_pool(3, ceil=True), _fire(3), _fire(4)),
        (_pool(3, ceil=True), _fire(6), _fire(7)),
        (_pool(3, ceil=True), _fire(9)),
        (_fire(10),),
        (_fire(11),),
        (_fire(12),),
    ),
}


# The distance


def lpips(state: Weights, net: str, x: Tensor, y: Tensor, spatial: bool = False) -> Tensor:
    """Measure the perceptual distance of pixels: [B, 3, H, W] twice in [-1, 1] -> [B].

    With spatial=True a map [B, H, W], each layer's enlarged to the input's size.
    `state` comes from prepare. Values beyond [-1, 1] are taken as they are: a training loss
    must not clamp them. Raises ValueError for shapes that differ or are too small for the net.
    """
    if x.shape != y.shape:
        raise ValueError(
            "Expected two batches of one shape [B, 3, H, W], "
            f"got {list(x.shape)} and {list(y.shape)}."
        )
    return lpips_from_features(state, net, x, target_features(state, net, y), spatial)


def target_features(state: Weights, net: str, y: Tensor) -> list[Tensor]:
    """Compute an original's features once, without graph: [B, 3, H, W] in [-1, 1] -> maps."""
    with torch.no_grad():
        return _features(state, net, y)


def lpips_from_features(
    state: Weights, net: str, x: Tensor, target: list[Tensor], spatial: bool = False
) -> Tensor:
    """Measure the distance of x, [B, 3, H, W] in [-1, 1], from target_features: [B] or a map."""
    with _float32(x):
        total: Tensor | float = 0.0
        for layer, (a, b) in enumerate(zip(_features(state, net, x), target, strict=True)):
            distance = F.conv2d((a - b).square(), state[head_name(layer)])  # [B, 1, h, w]
            total = total + _over_space(distance, x.shape[2:] if spatial else None)
        return total


def _over_space(distance: Tensor, size: torch.Size | None) -> Tensor:
    """Reduce one layer's map [B, 1, h, w] to its mean [B], or enlarge it to [B, H, W]."""
    if size is None:
        return distance.mean(dim=(1, 2, 3))
    return F.interpolate(distance, size, mode="bilinear", align_corners=False).squeeze(1)


def _features(state: Weights, net: str, x: Tensor) -> list[Tensor]:
    """Run the backbone: [B, 3, H, W] -> a map [B, C, h, w] per slice, of unit length over C."""
    check_net(net)
    _check_input(net, x)
    with _float32(x):
        h = fastest_layout((x.float() - _row(SHIFT, x)) / _row(SCALE, x))
        features = []
        for steps in SLICES[net]:
            for step in steps:
                h = step(state, h)
            features.append(unit_length(h))
        return features


def unit_length(h: Tensor) -> Tensor:
    """Scale each cell's features to length 1 over the channels: [B, C, h, w]; zero stays zero."""
    return h / (h.square().sum(dim=1, keepdim=True) + EPSILON).sqrt()


def _float32(x: Tensor) -> AbstractContextManager:
    """Switch autocast off on x's kind of device, where there is such a thing."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def _row(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, -1, 1, 1)


def _check_input(net: str, x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"Expected pixels [B, 3, H, W] in [-1, 1], got shape {list(x.shape)}.")
    side = SMALLEST_SIDE[net]
    if min(x.shape[2:]) < side:
        raise ValueError(
            f"Expected at least {side} x {side} pixels for LPIPS {net!r}, "
            f"got {x.shape[3]} x {x.shape[2]}: use a larger picture."
        )
