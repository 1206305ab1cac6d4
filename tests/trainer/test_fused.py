"""Blocks that make their activations anew: the same numbers, a third of the memory."""

import copy
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.saved_bytes import gpu_rules, saved_bytes
from benchmarks.step_memory import step_at
from benchmarks.steps import random_perceptual
from tests.conftest import TINY
from trainer.vae import recompute
from trainer.vae.autoencoder import decode, encode
from trainer.vae.fused import fuse, unfuse
from trainer.vae.lora import add_adapters

SD = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
NARROW_SD = SD | {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8}
LAYOUTS = {
    "small": TINY,
    "sd": NARROW_SD,
    "sdxl": NARROW_SD | {"force_upcast": True, "scaling_factor": 0.13025},
    "flux": NARROW_SD
    | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    "no middle attention": NARROW_SD | {"mid_block_add_attention": False},
}


def build(layout: dict[str, Any], seed: int = 0) -> AutoencoderKL:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(**layout).train()
        for name, weight in vae.named_parameters():  # norms that do something
            if "norm" in name:
                nn.init.normal_(weight, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return vae


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents(vae: nn.Module, batch: int = 1, h: int = 6, w: int = 5) -> Tensor:
    return draw(batch, vae.config.latent_channels, h, w)


def outcome(vae: nn.Module, forward: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the output, and the gradient of every weight for a loss that sees each pixel apart."""
    vae.zero_grad()
    output = forward()
    (output.float() * draw(*output.shape, seed=2)).mean().backward()
    found = vae.named_parameters()
    return output.detach(), {name: w.grad.clone() for name, w in found if w.grad is not None}


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm().clamp(min=1e-12))


def assert_same_gradients(
    got: dict[str, Tensor], expected: dict[str, Tensor], most: float, least: float = 1e-7
) -> None:
    """A key's bias has no gradient but rounding, as softmax takes no notice of it."""
    assert got.keys() == expected.keys()
    telling = [name for name in expected if expected[name].norm() > least]
    assert len(telling) > 0.9 * len(expected)
    assert max(relative(got[name], expected[name]) for name in telling) < most


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_decoder_gives_the_same_bits_and_gradients(name: str, batch: int) -> None:
    vae = build(LAYOUTS[name])
    latent = latents(vae, batch)
    expected = outcome(vae, lambda: decode(vae, latent))
    assert fuse(vae) > 5
    got = outcome(vae, lambda: decode(vae, latent))
    assert torch.equal(got[0], expected[0])
    assert_same_gradients(got[1], expected[1], 1e-6)


def test_the_encoder_too() -> None:
    vae = build(NARROW_SD)
    pixels = draw(2, 3, 48, 40)
    expected = outcome(vae, lambda: torch.cat(encode(vae, pixels), 1))
    fuse(vae)
    got = outcome(vae, lambda: torch.cat(encode(vae, pixels), 1))
    assert torch.equal(got[0], expected[0])
    assert_same_gradients(got[1], expected[1], 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_output_is_the_same_and_gradients_are_as_near(
    dtype: torch.dtype,
) -> None:
    vae = build(NARROW_SD)
    latent = latents(vae, 2)
    exact = outcome(vae, lambda: decode(vae, latent))[1]

    def lowered() -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return decode(vae, latent)

    expected = outcome(vae, lowered)
    fuse(vae)
    got = outcome(vae, lowered)
    assert got[0].dtype == dtype and torch.equal(got[0], expected[0])
    assert all(gradient.dtype == torch.float32 for gradient in got[1].values())
    for name in exact:  # as far from float32's gradients as eager's are, not further
        if exact[name].norm() > 1e-6:
            far = relative(got[1][name], exact[name])
            assert far < 1.5 * relative(expected[1][name], exact[name]) + 1e-3, name


def test_norms_widened_to_float32_are_taken_a_few_pictures_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(recompute, "WIDENED_BYTES", 1)  # one picture
    vae = build(NARROW_SD)
    latent = latents(vae, 3)

    def lowered() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16), gpu_rules():
            return decode(vae, latent)

    expected = outcome(vae, lowered)
    fuse(vae)
    with gpu_rules():
        got = outcome(vae, lowered)
    assert torch.equal(got[0], expected[0])
    assert_same_gradients(got[1], expected[1], 2e-2, 1e-6)


def test_adapters_are_seen_through() -> None:
    vae = build(NARROW_SD)
    vae.requires_grad_(False)
    add_adapters(vae, rank=3, alpha=6.0, seed=0)
    for name, weight in vae.named_parameters():
        if ".lora_B." in name:  # zero at first: the other half would get no gradient
            nn.init.normal_(weight, 0, 0.1)
    latent = latents(vae, 2)
    expected = outcome(vae, lambda: decode(vae, latent))
    fuse(vae)
    got = outcome(vae, lambda: decode(vae, latent))
    torch.testing.assert_close(got[0], expected[0])
    assert all(".lora_" in name for name in got[1])
    assert_same_gradients(got[1], expected[1], 1e-5)


def test_three_steps_of_training_give_the_same_weights() -> None:
    plain, fused = build(NARROW_SD), build(NARROW_SD)
    fuse(fused)
    for vae in (plain, fused):
        optimizer = torch.optim.SGD(vae.decoder.parameters(), lr=1.0)
        for step in range(3):
            optimizer.zero_grad()
            decode(vae, latents(vae, 2) + step).square().mean().backward()
            optimizer.step()
    start = build(NARROW_SD).state_dict()
    moved = plain.state_dict()
    for name, weight in fused.decoder.state_dict(prefix="decoder.").items():
        torch.testing.assert_close(weight, moved[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(moved["decoder.conv_in.weight"], start["decoder.conv_in.weight"])


def test_a_block_may_be_used_twice_in_one_graph() -> None:
    vae = build(TINY)
    one, other = latents(vae), latents(vae) * 2
    expected = outcome(vae, lambda: decode(vae, one) + decode(vae, other))
    fuse(vae)
    got = outcome(vae, lambda: decode(vae, one) + decode(vae, other))
    assert torch.equal(got[0], expected[0])
    assert_same_gradients(got[1], expected[1], 1e-6)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    vae = build(NARROW_SD)
    trained = "decoder.up_blocks.2.resnets.1."
    for name, weight in vae.named_parameters():
        weight.requires_grad_(name.startswith(trained))
    expected = outcome(vae, lambda: decode(vae, latents(vae)))
    fuse(vae)
    got = outcome(vae, lambda: decode(vae, latents(vae)))
    assert set(got[1]) == {n for n, _ in vae.named_parameters() if n.startswith(trained)}
    assert_same_gradients(got[1], expected[1], 1e-6)


def test_names_stay_and_the_blocks_can_be_had_back() -> None:
    vae = build(TINY)
    names, classes = list(vae.state_dict()), [type(module) for module in vae.modules()]
    fuse(vae)
    assert fuse(vae) == 0  # fused already
    assert list(vae.state_dict()) == names
    assert isinstance(vae.decoder, type(build(TINY).decoder))
    twin = copy.deepcopy(vae)
    unfuse(vae)
    assert [type(module) for module in vae.modules()] == classes
    assert [type(module) for module in twin.modules()] != classes
    assert torch.equal(decode(twin, latents(vae)), decode(vae, latents(vae)))


def test_without_gradients_hooks_on_the_layers_are_called() -> None:
    vae, seen = build(TINY), []
    fuse(vae)
    vae.decoder.conv_norm_out.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        decode(vae, latents(vae))
    assert seen == [1]


@pytest.mark.parametrize(("lowered", "most"), [(False, 0.34), (True, 0.21)])
def test_the_sd_decoder_keeps_a_third_and_under_autocast_a_fifth(
    lowered: bool, most: float
) -> None:
    """bf16 on fake tensors, which have shapes alone: some CPUs take minutes to compute in it."""
    with FakeTensorMode() if lowered else nullcontext():
        vae = build(SD)
        latent = torch.zeros(1, 4, 64, 64) if lowered else latents(vae, 1, 16, 16)

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16) if lowered else nullcontext(), gpu_rules():
                return decode(vae, latent)

        eager = saved_bytes(forward, vae)
        fuse(vae)
        assert saved_bytes(forward, vae) <= most * eager


@pytest.mark.parametrize("lowered", [False, True])
def test_it_compiles_in_one_piece(lowered: bool) -> None:
    vae, compiled = build(TINY), build(TINY)
    latent = latents(vae, 2)
    fuse(vae)
    fuse(compiled)
    compiled.decoder.compile(backend="aot_eager", fullgraph=True)

    def run(model: nn.Module) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            return decode(model, latent)

    expected = outcome(vae, lambda: run(vae))
    got = outcome(compiled, lambda: run(compiled))
    torch.testing.assert_close(got[0], expected[0])
    assert_same_gradients(got[1], expected[1], 1e-2 if lowered else 1e-6)


def test_a_whole_step_of_four_pictures_at_512_stays_under_seven_gib() -> None:
    """From cached latents, bf16, LPIPS-vgg, averaged weights: by count, norms as on a GPU."""
    options = Namespace(batch_size=4, precision="bf16")
    found = step_at(512, "fused", options, random_perceptual("vgg", "cpu"))
    assert 4.0 < found["peak by count, GiB"] <= 7.0
