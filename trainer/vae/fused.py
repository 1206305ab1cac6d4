"""`--activation-memory fused`: the blocks of an AutoencoderKL, keeping a third of what they kept.

Blocks get a subclass of their own class, which computes the same values and makes the inputs of
its convolutions anew in backward (trainer/vae/recompute.py). No module is added or renamed, so
state dicts, optimizers and averages see no difference; `unfuse` gives the classes back. Without
gradients the blocks run as they always did. Adapters of peft are seen through: an adapted layer
and the first half of its adapter read the same input, made once.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from trainer.vae.folding import conv_of, is_upsampling
from trainer.vae.recompute import (
    Before,
    Contiguous,
    NormAct,
    RemadeInput,
    Upsample,
    compute_dtype,
    laid_out,
    layer_of,
)

_ADAPTER = "default"  # peft's name for the only one


def keep_activations(vae: nn.Module, how: str) -> None:
    """Keep all that backward needs ("eager"), less ("fused") or least ("checkpoint").

    AutoencoderTiny has no norms: for it "fused" changes nothing.
    """
    if how == "fused":
        fuse(vae)
    elif how == "checkpoint":
        vae.enable_gradient_checkpointing()


def fuse(vae: nn.Module) -> int:
    """Let the blocks of a VAE make activations anew; return how many blocks do."""
    fit = [module for module in vae.modules() if _fits(module)]
    for module in fit:
        module.__class__ = _FUSED[type(module)]
    return len(fit)


def unfuse(vae: nn.Module) -> None:
    """Give the blocks of a VAE their own classes back."""
    own = {fused: plain for plain, fused in _FUSED.items()}
    for module in vae.modules():
        module.__class__ = own.get(type(module), type(module))


def _fits(module: nn.Module) -> bool:
    """Tell whether a module is a block of the form that VAEs have."""
    kind = type(module)
    if kind is ResnetBlock2D:
        same_size = module.upsample is None and module.downsample is None
        plain = isinstance(module.nonlinearity, nn.SiLU) and not module.dropout.p
        return same_size and plain and module.time_emb_proj is None
    if kind is Upsample2D:
        return is_upsampling(module)
    if kind is Attention:
        bare = module.norm_q is None and module.norm_k is None and module.spatial_norm is None
        return bare and module.group_norm is not None and not module.to_out[1].p
    return kind in (Decoder, Encoder) and isinstance(module.conv_act, nn.SiLU)


class FusedResnetBlock(ResnetBlock2D):
    """A residual block that keeps its input and what its first convolution gives."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None) -> Tensor:
        if temb is not None or not torch.is_grad_enabled():
            return super().forward(input_tensor, temb)
        x = laid_out(input_tensor)  # once for both of its readers
        hidden = norm_act_conv(x, self.norm1, self.conv1)
        hidden = norm_act_conv(hidden, self.norm2, self.conv2)
        if self.conv_shortcut is not None and self.training:
            (x,) = through(x, Contiguous(), [], [self.conv_shortcut])
        elif self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return (x + hidden) / self.output_scale_factor


class FusedUpsample(Upsample2D):
    """An upsampling that keeps the small picture."""

    def forward(self, hidden_states: Tensor, output_size: int | None = None) -> Tensor:
        if output_size is not None or not torch.is_grad_enabled():
            return super().forward(hidden_states, output_size)
        return through(hidden_states, Upsample(), [], [conv_of(self)])[0]


class FusedAttention(Attention):
    """Self-attention that makes anew what its three projections read."""

    def forward(self, hidden_states: Tensor, temb: Tensor | None = None) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(hidden_states, temb=temb)
        x = hidden_states.flatten(2)
        norm = NormAct(self.group_norm.num_groups, self.group_norm.eps, silu=False)
        affine = [self.group_norm.weight, self.group_norm.bias]
        found = through(x, norm, affine, [self.to_q, self.to_k, self.to_v])
        heads = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in found)
        out = nn.functional.scaled_dot_product_attention(*heads)
        out = self.to_out[0](out.transpose(1, 2).flatten(2))
        out = out.transpose(1, 2).reshape(hidden_states.shape)
        out = out + hidden_states if self.residual_connection else out
        return out / self.rescale_output_factor


class _FusedTail:
    """An encoder or decoder that keeps what comes before its last normalisation."""

    def forward(self, sample: Tensor, *more: Tensor | None) -> Tensor:
        if any(x is not None for x in more) or not torch.is_grad_enabled():
            return super().forward(sample, *more)
        for part in self.parts():
            sample = part(sample)
        return norm_act_conv(sample, self.conv_norm_out, self.conv_out)


class FusedDecoder(_FusedTail, Decoder):
    def parts(self) -> Iterable[nn.Module]:
        """List what comes before the last normalisation, in order."""
        return [self.conv_in, self.mid_block, *self.up_blocks]


class FusedEncoder(_FusedTail, Encoder):
    def parts(self) -> Iterable[nn.Module]:
        """List what comes before the last normalisation, in order."""
        return [self.conv_in, *self.down_blocks, self.mid_block]


_FUSED = {
    ResnetBlock2D: FusedResnetBlock,
    Upsample2D: FusedUpsample,
    Attention: FusedAttention,
    Decoder: FusedDecoder,
    Encoder: FusedEncoder,
}


def norm_act_conv(x: Tensor, norm: nn.GroupNorm, conv: nn.Module) -> Tensor:
    """Run GroupNorm, SiLU and a convolution, [B, C, H, W] -> [B, O, H, W]; x alone is kept."""
    before = NormAct(norm.num_groups, norm.eps, silu=True)
    return through(x, before, [norm.weight, norm.bias], [conv])[0]


def through(
    x: Tensor, before: Before, parameters: Sequence[Tensor], modules: Sequence[nn.Module]
) -> list[Tensor]:
    """Run modules that all read what `before` makes of x; one output a module."""
    layers = [layer for module in modules for layer in _readers(module)]
    weights = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    kinds = tuple(layer_of(layer) for layer in layers)
    x = laid_out(x) if isinstance(before, NormAct) else x
    outputs = iter(RemadeInput.apply(before, kinds, compute_dtype(x), x, *parameters, *weights))
    return [_joined(module, outputs) for module in modules]


def _readers(module: nn.Module) -> list[nn.Module]:
    """List the layers that read a module's input: itself; or the one adapted and its adapter."""
    if isinstance(module, LoraLayer):
        return [module.base_layer, module.lora_A[_ADAPTER]]
    return [module]


def _joined(module: nn.Module, outputs: Iterator[Tensor]) -> Tensor:
    """Take a module's output, and add what its adapter makes of the same input."""
    plain = next(outputs)
    if not isinstance(module, LoraLayer):
        return plain
    update = module.lora_B[_ADAPTER](next(outputs)) * module.scaling[_ADAPTER]
    return (plain + update).to(plain.dtype)
