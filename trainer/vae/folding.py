"""Upsampling by nearest neighbours and the convolution after it, in fewer than half the products.

Of the nine pixels that a 3x3 kernel sees of a picture of twice the size, those that came of the
same small pixel are alike. So each of the four pixels that a small one becomes is a 2x2
convolution of the small picture, with kernels whose entries are sums of the 3x3 kernel's: 16
products where there were 36, and no large picture to keep. The sums round differently: outputs
agree to about 1e-6.

B batch, C and O channels, H, W pixels of the small picture.
"""

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn


def fold_upsampling(vae: nn.Module) -> int:
    """Fold the upsamplings of an AutoencoderKL, in training; return how many.

    No module is added or renamed. Without gradients they run as they always did. Adapted ones
    are left as they are: an adapter's first half reads the large picture.
    """
    fit = [module for module in vae.modules() if _fits(module)]
    for module in fit:
        module.__class__ = FoldedUpsample
    return len(fit)


def is_upsampling(module: nn.Module) -> bool:
    """Tell whether a module doubles a picture by neighbours and convolves it, and nothing else."""
    plain = type(module) is Upsample2D and module.norm is None
    return plain and module.use_conv and module.interpolate


def conv_of(module: Upsample2D) -> nn.Module:
    """Give the convolution of such an upsampling."""
    return module.conv if module.name == "conv" else module.Conv2d_0


def _fits(module: nn.Module) -> bool:
    return is_upsampling(module) and _is_plain(conv_of(module))


def _is_plain(conv: nn.Module) -> bool:
    if type(conv) is not nn.Conv2d:  # an adapted one
        return False
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and conv.padding_mode == "zeros"


class FoldedUpsample(Upsample2D):
    """An upsampling that never makes the large picture that its convolution would read."""

    def forward(self, hidden_states: Tensor, output_size: int | None = None) -> Tensor:
        if output_size is not None or not torch.is_grad_enabled():
            return super().forward(hidden_states, output_size)
        conv = conv_of(self)
        return upsampled(hidden_states, conv.weight, conv.bias)


def upsampled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Double x [B, C, H, W] and convolve it by weight [O, C, 3, 3] -> [B, O, 2 H, 2 W]."""
    height, width = x.shape[2:]
    kernels = folded(weight).flatten(0, 2)
    # one row and one column too many, so that one convolution gives all four
    four = F.conv2d(x, kernels, None if bias is None else bias.repeat(4), padding=1)
    four = four.unflatten(1, (2, 2, -1))
    rows = [
        torch.stack([four[:, a, b, :, a : a + height, b : b + width] for b in (0, 1)], -1)
        for a in (0, 1)
    ]
    return torch.stack(rows, -3).flatten(4, 5).flatten(2, 3)


def folded(weight: Tensor) -> Tensor:
    """Sum a kernel [O, C, 3, 3] into those of the four pixels: [row, column, O, C, 2, 2]."""
    return _halves(_halves(weight, 2), 4).movedim(1, 0)


def _halves(weight: Tensor, axis: int) -> Tensor:
    """Sum three taps along an axis into the two of the even and of the odd pixel, in front."""
    first, second, third = weight.unbind(axis)
    even = torch.stack([first, second + third], axis)
    odd = torch.stack([first + second, third], axis)
    return torch.stack([even, odd])
