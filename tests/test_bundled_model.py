"""The VAE that comes with the project: whole, in LDM keys, described rightly, and a working one."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file

from trainer.options.command_line import parse_command_line
from trainer.options.config import resolve_vae
from trainer.photos.decoding import decode_photo
from trainer.photos.demo_photos import demo_files
from trainer.vae.autoencoder import DECODER_PREFIXES
from trainer.vae.base import load_base
from vae_core.images import from_bytes, to_unit
from vae_core.metrics import psnr
from vae_core.vae_file import read_vae


@pytest.fixture
def folder(project):
    return project / "models/kl-f8-small"


def test_its_card_counts_what_the_file_holds(folder):
    tensors = load_file(folder / "vae.safetensors")
    card = (folder / "README.md").read_text("utf-8")
    parameters = sum(tensor.numel() for tensor in tensors.values())
    assert f"{parameters:,} parameters" in card
    assert f"{len(tensors)} tensors, fp16" in card
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_its_keys_are_ldms_and_its_metadata_says_what_it_is(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    with safe_open(folder / "vae.safetensors", "pt") as opened:
        said, names = opened.metadata(), set(opened.keys())
    assert "decoder.up.0.block.0.conv1.weight" in names and "encoder.mid.attn_1.q.weight" in names
    architecture = json.loads(said["vae_lab.architecture"])
    assert {key: config[key] for key in architecture} == architecture
    assert said["vae_lab.family"] == "sd1"
    assert json.loads(said["vae_lab.scaling"])["scale"] == 0.18215


def test_it_reconstructs_a_photo(folder):
    """Loaded by diffusers alone, so that a wrong key or a mixed-up level would show."""
    vae = AutoencoderKL.from_single_file(
        folder / "vae.safetensors", config=str(folder), torch_dtype=torch.float32
    )
    image = decode_photo(demo_files("train")[0].read_bytes()).resize((256, 256))
    pixels = from_bytes(torch.from_numpy(np.array(image))[None])
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    assert psnr(to_unit(decoded), to_unit(pixels)).item() > 21


def test_the_trainer_finds_it_by_name(folder):
    base = load_base(resolve_vae("bundled:kl-f8-small"))
    assert base.family == "sd1"
    assert list(base.vae.config.block_out_channels) == [32, 64, 96, 128]


def test_its_encoder_is_the_published_one_and_its_decoder_learnt_more(folder, assets):
    """So latents made with either are the same."""
    published = load_file(assets / "models/kl-f8-small/diffusion_pytorch_model.safetensors")
    state = read_vae(folder / "vae.safetensors").state
    assert state.keys() == published.keys()
    trained = {
        name
        for name, tensor in state.items()
        if not torch.equal(tensor, published[name].reshape(tensor.shape))
    }
    assert trained and all(name.startswith(DECODER_PREFIXES) for name in trained)


def test_the_config_that_trained_it_ships(folder):
    config = folder / "training.toml"
    flags = ["--vae", "bundled:kl-f8-small", "--data", "demo:train", "--output", "run"]
    flags += ["--teacher", "taesd", "--config", str(config)]
    options = parse_command_line(flags)
    assert options.trainable == "decoder" and options.teacher_share == 0.25
