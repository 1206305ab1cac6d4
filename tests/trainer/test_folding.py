"""Upsampling folded into the convolution after it: the same picture from fewer products."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.saved_bytes import saved_bytes
from tests.trainer.test_fused import LAYOUTS, build, latents, outcome, relative
from trainer.options.config import TrainConfig
from trainer.training.run import arrange_blocks
from trainer.vae.autoencoder import decode
from trainer.vae.folding import FoldedUpsample, fold_upsampling, upsampled
from trainer.vae.lora import add_adapters


def config(**changes: object) -> TrainConfig:
    return TrainConfig(vae="v", data="d", output="o", **changes)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 6)])
@pytest.mark.parametrize("channels", [(5, 4), (1, 3)])
def test_it_is_upsampling_and_the_convolution_after_it(
    channels: tuple[int, int], size: tuple[int, int]
) -> None:
    """Held against torch's own two operations in float64, and so are all three gradients."""
    x, weight, bias = draw(2, channels[0], *size), draw(*channels[::-1], 3, 3), draw(channels[1])
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)
    got = upsampled(x, weight, bias)
    torch.testing.assert_close(got, expected)
    pull = draw(*expected.shape, seed=1)
    for ours, theirs in zip(
        torch.autograd.grad(got, (x, weight, bias), pull),
        torch.autograd.grad(expected, (x, weight, bias), pull),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("way", ["eager", "fused", "checkpoint"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_decoder_agrees_with_diffusers_but_for_rounding(name: str, way: str) -> None:
    vae = build(LAYOUTS[name])
    latent = latents(vae, 3)
    expected = outcome(vae, lambda: decode(vae, latent))
    arrange_blocks(vae, config(activation_memory=way, fold_upsampling="on"), "cpu")
    assert any(isinstance(module, FoldedUpsample) for module in vae.modules())
    got = outcome(vae, lambda: decode(vae, latent))
    assert relative(got[0], expected[0]) < 3e-6
    for gradient, (weight, own) in zip(got[1].values(), expected[1].items(), strict=True):
        assert relative(gradient, own) < 1e-4 or own.norm() < 1e-7, weight


def test_it_takes_fewer_products_and_keeps_no_large_picture() -> None:
    vae = build(LAYOUTS["sd"])
    latent = latents(vae, 1, 16, 16)

    def work() -> tuple[int, int]:
        with FlopCounterMode(display=False) as counted:
            outcome(vae, lambda: decode(vae, latent))
        return counted.get_total_flops(), saved_bytes(lambda: decode(vae, latent), vae)

    plain = work()
    fold_upsampling(vae)
    folded = work()
    large = 4 * 32 * (32**2 + 64**2 + 128**2)  # bytes; the small ones are kept, and the kernels
    assert folded[0] < 0.9 * plain[0] and plain[1] - folded[1] > large / 2


def test_what_is_measured_and_exported_is_as_it_was(tiny_vae: AutoencoderKL) -> None:
    plain = copy.deepcopy(tiny_vae)
    names = list(tiny_vae.state_dict())
    assert fold_upsampling(tiny_vae) > 0
    latent = latents(tiny_vae)
    with torch.no_grad():
        assert torch.equal(decode(tiny_vae, latent), decode(plain, latent))
    assert list(tiny_vae.state_dict()) == names


def test_auto_folds_on_a_cpu_alone(tiny_vae: AutoencoderKL) -> None:
    def folds(choice: str, device: str) -> bool:
        vae = copy.deepcopy(tiny_vae)
        arrange_blocks(vae, config(fold_upsampling=choice), device)
        return any(isinstance(module, FoldedUpsample) for module in vae.modules())

    assert folds("auto", "cpu") and folds("on", "cuda")
    assert not folds("auto", "cuda") and not folds("off", "cpu")


def test_adapted_ones_are_left_alone(tiny_vae: AutoencoderKL) -> None:
    add_adapters(tiny_vae, 2, 2.0, seed=0)
    adapted = [
        module
        for module in tiny_vae.modules()
        if type(module).__name__ == "Upsample2D" and type(module.conv) is not nn.Conv2d
    ]
    fold_upsampling(tiny_vae)
    assert adapted and not any(isinstance(module, FoldedUpsample) for module in adapted)


def test_a_run_has_the_same_losses(train, tmp_path: Path) -> None:
    found = []
    for choice in ("off", "on"):
        run = tmp_path / choice
        flags = ["--fold-upsampling", choice, "--max-steps", 3, "--log-every", 1]
        assert train(run, *flags) == 0
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found.append([line["loss"] for line in lines if "loss" in line])
    assert len(found[0]) == 3 and found[0] == pytest.approx(found[1], rel=1e-4)
