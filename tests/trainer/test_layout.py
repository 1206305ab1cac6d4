"""The layout of a decoder in training on a CPU that has no AVX-512."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from trainer.vae.autoencoder import decode
from trainer.vae.fused import fuse
from trainer.vae.layout import keep_channels_first


def latent() -> Tensor:
    return torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))


def strides_after_attention(vae: AutoencoderKL) -> list[tuple[int, ...]]:
    seen = []
    attention = vae.decoder.mid_block.attentions[0]
    attention.register_forward_hook(lambda _, __, output: seen.append(output.stride()))
    decode(vae, latent())
    with torch.no_grad():
        decode(vae, latent())
    return seen


@pytest.mark.parametrize("fused", [False, True])
def test_training_goes_on_with_channels_first(
    tiny_vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    keep_channels_first(tiny_vae)
    if fused:
        fuse(tiny_vae)
    channels = tiny_vae.config.block_out_channels[-1]
    training, measuring = strides_after_attention(tiny_vae)
    assert training == (channels * 30, 30, 5, 1)
    assert measuring[1] == 1  # as diffusers hands it on: what is measured keeps its bits


def test_a_cpu_with_avx512_keeps_diffusers_layout(
    tiny_vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    keep_channels_first(tiny_vae)
    assert strides_after_attention(tiny_vae)[0][1] == 1


def test_gradients_stay_the_same_but_for_rounding(
    tiny_vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = copy.deepcopy(tiny_vae)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    keep_channels_first(tiny_vae)
    for vae in (plain, tiny_vae):
        decode(vae, latent()).square().mean().backward()
    for ours, theirs in zip(tiny_vae.decoder.parameters(), plain.decoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
