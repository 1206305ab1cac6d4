"""Layers that keep what came before their input, and make their input anew in backward.

Autograd keeps three tensors for GroupNorm - SiLU - convolution: the input of each. The last two
follow from the first by a few operations per value, where the convolution takes thousands. Here
the first is kept alone; backward makes the others anew, by the same operations and so to the same
bits, and no convolution runs twice. Upsample - convolution keeps the small picture in the same
way. After "Memory-Efficient Implementation of DenseNets" (Pleiss et al., 2017,
https://arxiv.org/abs/1707.06990), which makes concatenations and batch norms anew.

B batch, C channels, H, W pixels, L cells.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Tensors = tuple[Tensor | None, ...]

WIDENED_BYTES = 2**27  # of a float32 copy at a time


# What comes before the layers, and is made twice


class NormAct(NamedTuple):
    """GroupNorm with a weight and a bias, and SiLU behind it or not."""

    groups: int
    eps: float
    silu: bool
    parameters = 2

    def make(self, x: Tensor, compute: torch.dtype, *affine: Tensor) -> Tensor:
        """Normalise and activate [B, C, ...] bit for bit as torch does, in type `compute`."""
        if not is_widened(x, compute):
            return self._activated(x, affine)
        a = torch.empty_like(x, dtype=compute)
        for few in _few_at_a_time(x):
            a[few] = self._activated(x[few].float(), affine)
        return a

    def back(self, da: Tensor, x: Tensor, affine: Tensors, wanted: list[bool]) -> Tensors:
        """Give the gradients of input, weight and bias, as far as wanted."""
        if not is_widened(x, da.dtype):
            return self._gradients(da, x, affine, wanted)
        dx, rest = torch.empty_like(x), [None, None]
        for few in _few_at_a_time(x):
            part, *more = self._gradients(da[few].float(), x[few].float(), affine, wanted)
            rest = [d if r is None else r + d for r, d in zip(rest, more, strict=True)]
            if wanted[0]:
                dx[few] = part
        return dx if wanted[0] else None, *rest

    def _normed(self, x: Tensor, affine: Tensors) -> tuple[Tensor, Tensor, Tensor]:
        """Return what SiLU sees, and the mean and inverse deviation of the groups."""
        return torch.native_group_norm(x, *affine, *_sizes(x), self.groups, self.eps)

    def _activated(self, x: Tensor, affine: Tensors) -> Tensor:
        y = self._normed(x, affine)[0]
        return F.silu(y) if self.silu else y

    def _gradients(self, da: Tensor, x: Tensor, affine: Tensors, wanted: list[bool]) -> Tensors:
        y, *statistics = self._normed(x, affine)
        dy = torch.ops.aten.silu_backward(da, y) if self.silu else da
        del y  # the largest there is beside x
        dy = dy.contiguous(memory_format=_layout(x))
        return torch.ops.aten.native_group_norm_backward(
            dy, x, *statistics, affine[0], *_sizes(x), self.groups, wanted
        )


class Upsample(NamedTuple):
    """Twice the size by nearest neighbours."""

    parameters = 0

    def make(self, x: Tensor, compute: torch.dtype) -> Tensor:
        return F.interpolate(x.to(compute), scale_factor=2.0, mode="nearest")

    def back(self, da: Tensor, x: Tensor, _: Tensors, wanted: list[bool]) -> Tensors:
        """Add up the gradients of the four pixels that came of each."""
        sizes = list(da.shape[2:]), list(x.shape)
        return (torch.ops.aten.upsample_nearest2d_backward(da, *sizes, 2.0, 2.0),)


class Contiguous(NamedTuple):
    """The plain layout: what diffusers gives a shortcut's convolution in training."""

    parameters = 0

    def make(self, x: Tensor, compute: torch.dtype) -> Tensor:
        return x.to(compute).contiguous()

    def back(self, da: Tensor, x: Tensor, _: Tensors, wanted: list[bool]) -> Tensors:
        return (da,)


Before = NormAct | Upsample | Contiguous


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x[0, 0].numel()


def is_widened(x: Tensor, compute: torch.dtype) -> bool:
    """Tell whether autocast would widen x to float32 for GroupNorm: not on the CPU.

    https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
    """
    return compute != torch.float32 and x.device.type != "cpu"


def _few_at_a_time(x: Tensor) -> list[slice]:
    """Cut a batch so that a float32 copy of a part stays small: groups are of one picture each."""
    few = max(1, WIDENED_BYTES // (4 * x[0].numel()))
    return [slice(i, i + few) for i in range(0, len(x), few)]


def laid_out(x: Tensor) -> Tensor:
    """Give x in a layout that GroupNorm takes without a copy of its own."""
    return x.contiguous(memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    """Name the layout that GroupNorm's kernels want: on the CPU, channels may come last."""
    last = x.ndim == 4 and x.device.type == "cpu" and _channels_come_last(x)
    return torch.channels_last if last else torch.contiguous_format


def _channels_come_last(x: Tensor) -> bool:
    """Tell it by the strides, as torch's kernels do; is_contiguous says yes to both at a size of 1.

    https://github.com/pytorch/pytorch/blob/v2.9.0/c10/core/MemoryFormat.h
    """
    least = 0
    for side in (1, 3, 2, 0):
        stride = x.stride(side)
        if stride == 0 or stride < least or (side == 0 and least == x.stride(1)):
            return False
        least = stride * max(x.shape[side], 1)
    return True


# The layers


class Convolution(NamedTuple):
    """How a convolution moves over its input, [B, C, H, W] -> [B, O, H, W]."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def apply(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(a, weight, bias, *self)

    def gradients(self, dy: Tensor, a: Tensor, weight: Tensor, wanted: list[bool]) -> Tensors:
        """Give the gradients of input, weight and bias, as far as wanted."""
        stride, padding, dilation, groups = self
        return torch.ops.aten.convolution_backward(
            dy, a, weight, [len(weight)], stride, padding, dilation, False, [0, 0], groups, wanted
        )


class Projection(NamedTuple):
    """A linear layer over the channels, [B, C, L] -> [B, L, O]."""

    def apply(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(a.transpose(1, 2), weight, bias)

    def gradients(self, dy: Tensor, a: Tensor, weight: Tensor, wanted: list[bool]) -> Tensors:
        """Give the gradients of input, weight and bias, as far as wanted."""
        rows = dy.flatten(0, 1)
        return (
            (rows @ weight).unflatten(0, dy.shape[:2]).transpose(1, 2) if wanted[0] else None,
            (a.transpose(1, 2).flatten(0, 1).T @ rows).T if wanted[1] else None,
            dy.sum((0, 1)) if wanted[2] else None,
        )


Layer = Convolution | Projection


def layer_of(module: nn.Conv2d | nn.Linear) -> Layer:
    """Read how a module works, without its weights."""
    if isinstance(module, nn.Linear):
        return Projection()
    return Convolution(module.stride, module.padding, module.dilation, module.groups)


# Both together


class RemadeInput(torch.autograd.Function):
    """One or more layers that read the same input, which is made anew in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        before: Before,
        layers: tuple[Layer, ...],
        compute: torch.dtype,
        x: Tensor,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Run x through `before` and then through each layer, in type `compute`.

        `parameters` are those of `before`, then a weight and a bias (or None) for each layer.
        """
        own, pairs = _split(before, parameters)
        a = before.make(x, compute, *own)
        ctx.before, ctx.layers, ctx.compute = before, layers, compute
        ctx.save_for_backward(x, *parameters)
        return tuple(
            layer.apply(a, *(_cast(parameter, compute) for parameter in pair))
            for layer, pair in zip(layers, pairs, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outward: Tensor) -> Tensors:
        """Give the gradients of x and the parameters."""
        x, *parameters = ctx.saved_tensors
        own, pairs = _split(ctx.before, tuple(parameters))
        a = ctx.before.make(x, ctx.compute, *own)
        wanted = list(ctx.needs_input_grad[3:])
        da, inner = _through_layers(ctx, outward, a, pairs)
        del a
        outer: Tensors = (None,) * (1 + len(own))
        if da is not None:
            outer = ctx.before.back(da, x, own, wanted[: 1 + len(own)])
        return None, None, None, _cast(outer[0], x.dtype), *outer[1:], *inner


def _split(before: Before, parameters: Tensors) -> tuple[Tensors, list[Tensors]]:
    """Tell the parameters of what comes before from the pairs of the layers."""
    first = before.parameters
    rest = parameters[first:]
    return parameters[:first], [rest[i : i + 2] for i in range(0, len(rest), 2)]


def _through_layers(
    ctx: Any, outward: Tensors, a: Tensor, pairs: list[Tensors]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Give the gradient of what the layers read, and those of their weights and biases."""
    first = 4 + ctx.before.parameters
    before = any(ctx.needs_input_grad[3:first])
    total, inner = None, []
    for i in reversed(range(len(pairs))):  # last first, as autograd adds them up
        weight = pairs[i][0]
        wanted = [before, *ctx.needs_input_grad[first + 2 * i : first + 2 * i + 2]]
        args = (outward[i], a, weight.to(ctx.compute), wanted)
        da, dweight, dbias = ctx.layers[i].gradients(*args)
        inner = [_cast(dweight, weight.dtype), _cast(dbias, weight.dtype), *inner]
        total = da if total is None else total + da
    return total, inner


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type that a convolution of x computes in here: autocast's, or x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
