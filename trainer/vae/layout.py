"""The layout that an AutoencoderKL trains in on a CPU.

diffusers' attention hands its output on with channels last, and all layers of a decoder after it
follow. oneDNN's AVX2 kernels take several times as long for the gradients of convolutions of such
pictures, and torch for those of GroupNorm.
"""

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


def keep_channels_first(vae: nn.Module) -> None:
    """Let attention hand on [B, C, H, W] with channels first, in training on a CPU with AVX2 alone.

    Elsewhere all stays as it is: that it pays was measured on such a CPU alone.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return
    for module in vae.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(_channels_first)


def _channels_first(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
    on_cpu = output.device.type == "cpu"
    return output.contiguous() if on_cpu and torch.is_grad_enabled() else output
