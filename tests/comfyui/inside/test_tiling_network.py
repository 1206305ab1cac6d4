"""Exact tiles of ComfyUI's own module: what it decodes and encodes whole, in its own process."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

DDCONFIG = {
    "double_z": True,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


@pytest.fixture(scope="module")
def live_bytes():
    """What follows the memory of operations; a file beside the tests, as a pack has no trainer."""
    path = Path(__file__).resolve().parents[3] / "trainer/training/live_bytes.py"
    spec = importlib.util.spec_from_file_location("live_bytes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LiveBytes


def engine(quantised: bool) -> torch.nn.Module:
    """ComfyUI's AutoencoderKL (SD) or its AutoencodingEngine (FLUX), with random weights."""
    from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine

    if quantised:
        shape = DDCONFIG | {"z_channels": 4, "ch_mult": [1, 2, 2]}
        vae = AutoencoderKL(ddconfig=shape, embed_dim=4)
    else:
        shape = DDCONFIG | {"z_channels": 16, "ch_mult": [1, 2]}
        place = "comfy.ldm.modules.diffusionmodules.model."
        vae = AutoencodingEngine(
            encoder_config={"target": place + "Encoder", "params": shape},
            decoder_config={"target": place + "Decoder", "params": shape},
            regularizer_config={
                "target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"
            },
        )
    draw = torch.Generator().manual_seed(0)  # ComfyUI's own layers leave their memory as it was
    for name, weight in vae.named_parameters():
        noise = torch.randn(weight.shape, generator=draw)
        norm = "norm" in name and name.endswith("weight")
        size = max(1, weight[0].numel()) ** 0.5 if weight.ndim > 1 else 5
        weight.data = 1 + 0.2 * noise if norm else noise / size
    return vae.eval().requires_grad_(False)


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("rows", [None, 1, 6])
def test_comfyui_s_module_decodes_the_same_in_strips(tiling, quantised, rows):
    vae = engine(quantised)
    network = tiling.read_network(vae)
    latent = torch.randn(
        2, network.latent_channels, 9, 7, generator=torch.Generator().manual_seed(1)
    )
    plan = tiling.plan_decode(network, latent.shape, torch.float32, None, rows)
    found = tiling.decode(network, latent, plan)
    torch.testing.assert_close(found, vae.decode(latent), atol=1e-5, rtol=0)


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("rows", [None, 1, 6])
def test_comfyui_s_module_encodes_the_same_in_strips(tiling, quantised, rows):
    vae = engine(quantised)
    network = tiling.read_network(vae)
    pixels = torch.randn(2, 3, 27, 22, generator=torch.Generator().manual_seed(1))
    plan = tiling.plan_encode(network, pixels.shape, torch.float32, None, rows)
    moments = vae.encoder(pixels)
    if quantised:
        moments = vae.quant_conv(moments)
    torch.testing.assert_close(tiling.encode(network, pixels, plan), moments, atol=1e-5, rtol=0)


def test_the_bundled_vae_gives_the_same_under_inference_mode(tiling, vae):
    module = vae.first_stage_model
    network = tiling.read_network(module)
    latent = torch.randn(1, 4, 17, 13, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        plan = tiling.plan_decode(network, latent.shape, torch.float32, None, 8)
        found = tiling.decode(network, latent, plan)
        torch.testing.assert_close(found, module.decode(latent), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("cells", "dominates"), [((9, 9), False), ((72, 64), True)])
@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_the_whole_pass_takes_what_is_foretold_its_attention_s_scores_included(
    tiling, live_bytes, direction, cells, dominates
):
    vae = engine(True)
    network = tiling.read_network(vae)
    channels, side = (4, 1) if direction == "decode" else (3, network.ratio)
    given = torch.zeros(1, channels, *(side * cell for cell in cells))
    with torch.inference_mode(), live_bytes() as live:
        getattr(vae, direction)(given)
    with_scores, without = (
        tiling.untiled_bytes(network, given.shape, torch.float32, direction, scores=scores)
        for scores in (True, False)
    )
    assert (with_scores > without) == dominates
    assert (0.95 if dominates else 0.55) < live.peak / with_scores < 1.02


def test_other_vaes_of_comfyui_are_refused(tiling, pixel_vae, video_vae):
    for other in (pixel_vae, video_vae):
        with pytest.raises(tiling.UnknownNetwork, match="^Expected"):
            tiling.read_network(other.first_stage_model)
    latent_norm = copy.copy(engine(True))
    latent_norm.bn = torch.nn.BatchNorm2d(16)
    with pytest.raises(tiling.UnknownNetwork, match="bn"):
        tiling.read_network(latent_norm)
