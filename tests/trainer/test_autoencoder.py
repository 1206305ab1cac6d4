"""The uniform way to encode and decode, held against diffusers' own methods."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn

from trainer.vae.autoencoder import (
    architecture_of,
    build,
    canonical_sha256,
    decode,
    encode,
    from_state,
    image_channels,
    latent_channels,
    ratio,
    trainable_names,
)

SMALL = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
SMALL |= {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}


@pytest.fixture
def small_taesd() -> AutoencoderTiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(**SMALL, latent_channels=5).eval()


@pytest.fixture(params=["kl", "kl without quant convs", "tiny"])
def vae(request: pytest.FixtureRequest, tiny_vae, small_taesd) -> nn.Module:
    if request.param == "tiny":
        return small_taesd
    if request.param == "kl":
        return tiny_vae
    fields = {**architecture_of(tiny_vae), "use_quant_conv": False, "use_post_quant_conv": False}
    fields.pop("_class_name")
    return AutoencoderKL(**{**fields, "latent_channels": 16}).eval()


def pixels(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1


@torch.no_grad()
def test_encode_and_decode_are_those_of_diffusers(vae: nn.Module) -> None:
    posterior, theirs = encode(vae, pixels()), vae.encode(pixels())
    decoded = decode(vae, posterior.mean), vae.decode(posterior.mean).sample
    if isinstance(vae, AutoencoderTiny):
        # ours runs channels last on a CPU, and not every CPU adds in the same order then
        torch.testing.assert_close(posterior.mean, theirs.latents, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(*decoded, rtol=1e-5, atol=1e-6)
        assert posterior.logvar is None
    else:
        assert torch.equal(posterior.mean, theirs.latent_dist.mean)
        assert torch.equal(posterior.logvar, theirs.latent_dist.logvar)
        assert torch.equal(*decoded)
    cells = 16 // ratio(vae), 24 // ratio(vae)
    assert posterior.mean.shape == (2, latent_channels(vae), *cells)
    assert image_channels(vae) == 3


def test_logvar_is_clamped_as_in_ldm(tiny_vae: AutoencoderKL) -> None:
    tiny_vae.quant_conv.bias.data[4:] = torch.tensor([-1e3, 1e3, 0.0, 0.0])
    with torch.no_grad():
        logvar = encode(tiny_vae, pixels()).logvar
    assert logvar.min() == -30
    assert logvar.max() == 20


def test_a_tiny_encoder_maps_the_range_with_gradient_checkpointing_too(
    small_taesd: AutoencoderTiny,
) -> None:
    plain = encode(small_taesd, pixels()).mean
    small_taesd.enable_gradient_checkpointing()
    assert torch.equal(encode(small_taesd.train(), pixels()).mean, plain)


def test_building_draws_from_its_seed_and_leaves_the_global_state(tiny_vae: AutoencoderKL) -> None:
    architecture = architecture_of(tiny_vae)
    before = torch.get_rng_state()
    states = [build(architecture, seed).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    same = [
        torch.equal(states[0]["decoder.conv_in.weight"], s["decoder.conv_in.weight"])
        for s in states
    ]
    assert same == [True, True, False]


def test_from_state_copies_into_float32(vae: nn.Module) -> None:
    state = {name: tensor.half() for name, tensor in vae.state_dict().items()}
    again = from_state(architecture_of(vae), state)
    assert all(parameter.dtype == torch.float32 for parameter in again.parameters())
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert not again.training
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name].float())
        tensor.zero_()
        assert state[name].abs().sum() > 0 or state[name].eq(0).all()
    full = vae.state_dict()
    from_state(architecture_of(vae), full).decoder.requires_grad_(True)
    for tensor in from_state(architecture_of(vae), full).state_dict().values():
        tensor.fill_(7.0)
    assert not any(tensor.eq(7.0).all() for tensor in full.values())


def test_the_architecture_is_plain_and_builds_the_same(vae: nn.Module) -> None:
    architecture = architecture_of(vae)
    assert not [key for key in architecture if key.startswith("_") and key != "_class_name"]
    again = build(architecture)
    assert architecture_of(again) == architecture
    assert again.state_dict().keys() == vae.state_dict().keys()


def test_exactly_decoder_and_post_quant_conv_train(tiny_vae: AutoencoderKL) -> None:
    names = set(trainable_names(tiny_vae, "decoder"))
    expected = {f"decoder.{name}" for name, _ in tiny_vae.decoder.named_parameters()}
    assert names == expected | {"post_quant_conv.weight", "post_quant_conv.bias"}
    assert set(trainable_names(tiny_vae, "all")) == {n for n, _ in tiny_vae.named_parameters()}


def test_the_canonical_hash_sees_values_names_and_shapes_only() -> None:
    state = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([0.5])}
    same = {"b": torch.tensor([0.5]).half(), "a": torch.tensor([[1.0], [2.0]]).T}
    digest = canonical_sha256(state)
    assert canonical_sha256(same) == digest
    for other in (
        {**state, "b": torch.tensor([0.25])},
        {**state, "a": torch.tensor([1.0, 2.0])},
        {"a": state["a"], "c": state["b"]},
    ):
        assert canonical_sha256(other) != digest
