"""The layers that an AutoencoderKL consists of, and the checks that a module is such a layer.

A layer holds the module's own submodules: weights are shared, never copied.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn


class UnknownNetwork(ValueError):
    """A module that is not of this shape; the message says in one sentence what differs."""


@dataclass(frozen=True)
class Convolution:
    """A convolution of stride 1: 3 x 3 with one zero pixel around, or 1 x 1."""

    conv: nn.Conv2d


@dataclass(frozen=True)
class Upsampling:
    """Every pixel becomes 2 x 2, then a 3 x 3 convolution with one zero pixel around."""

    conv: nn.Conv2d


@dataclass(frozen=True)
class Downsampling:
    """A 3 x 3 convolution of stride 2, with one zero row below and one zero column at the right."""

    conv: nn.Conv2d


@dataclass(frozen=True)
class Residual:
    """conv2(silu(norm2(conv1(silu(norm1(x)))))) + x, or + shortcut(x) where channels change."""

    norm1: nn.GroupNorm
    conv1: nn.Conv2d
    norm2: nn.GroupNorm
    conv2: nn.Conv2d
    shortcut: nn.Conv2d | None


@dataclass(frozen=True)
class Attention:
    """x + out(attention of one head over all pixels of norm(x)); the maps are 1 x 1 or linear."""

    norm: nn.GroupNorm
    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module


@dataclass(frozen=True)
class Closing:
    """conv(silu(norm(x))): how encoder and decoder end."""

    norm: nn.GroupNorm
    conv: nn.Conv2d


Layer: TypeAlias = Convolution | Upsampling | Downsampling | Residual | Attention | Closing
Program: TypeAlias = tuple[Layer, ...]


def check_parts(
    module: nn.Module, needed: Set[str], allowed: Set[str] = frozenset(), *, name: str
) -> None:
    """Require submodules by name; one more than is known could change the result unseen."""
    parts = {part for part, _ in module.named_children()}
    if missing := sorted(needed - parts):
        raise UnknownNetwork(
            f"Expected {name} with the parts {', '.join(sorted(needed))}, "
            f"got a {type(module).__name__} without {', '.join(missing)}."
        )
    if more := sorted(parts - needed - allowed):
        raise UnknownNetwork(
            f"Expected {name} with no other parts than are known, "
            f"got a {type(module).__name__} with {', '.join(more)}."
        )


def conv_of(module: nn.Module, size: int, *, stride: int = 1, name: str) -> nn.Conv2d:
    """Require a plain square convolution of this size and stride."""
    padding = size // 2 if stride == 1 else 0
    expected = (size, stride, padding, 1, 1, "zeros")
    if isinstance(module, nn.Conv2d) and not any(module.children()):
        fields = (module.kernel_size, module.stride, module.padding, module.dilation)
        if (*fields, module.groups, module.padding_mode) == (
            *((number, number) for number in expected[:4]),
            *expected[4:],
        ):
            return module
    raise UnknownNetwork(
        f"Expected {name} to be a convolution of {size} x {size} with stride {stride} and "
        f"{padding} zero pixels around, got {module}."
    )


def norm_of(module: nn.Module, *, name: str) -> nn.GroupNorm:
    """Require a GroupNorm with weights."""
    if isinstance(module, nn.GroupNorm) and module.affine:
        return module
    raise UnknownNetwork(f"Expected {name} to be a GroupNorm with weights, got {module}.")


def map_of(module: nn.Module, *, name: str) -> nn.Module:
    """Require a map of each pixel's channels: a linear layer or a 1 x 1 convolution."""
    if isinstance(module, nn.Linear) and not any(module.children()):
        return module
    return conv_of(module, 1, name=name)
