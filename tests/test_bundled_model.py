"""The VAE that comes with the project: whole, in LDM keys, described rightly, and a working one."""

import json
import re
import subprocess
import sys

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
    assert options.trainable == "decoder" and options.teacher_share == 0.33


@pytest.mark.slow
def test_one_command_gives_its_cards_figures_again(folder, project, assets, tmp_path):
    photos, weights = assets / "data", assets / "models/lpips_squeeze.safetensors"
    flags = ["--vae", "bundled:kl-f8-small", "--lpips-net", "squeeze", "--lpips-weights", weights]
    flags += ["--data", photos / "faces/val", "--general-val-data", photos / "general/val"]
    command = [sys.executable, project / "trainer/evaluate.py", *flags]
    subprocess.run([*command, "--output", tmp_path / "card"], check=True)
    found = json.loads((tmp_path / "card/report.json").read_text("utf-8"))["models"]
    (of_model,) = found.values()
    said = re.findall(r"^\| (\d+) .*? \| ([\d.]+), ([\d.]+) \|", _figures(folder), re.MULTILINE)
    for name, (n, decibels, distance) in zip(("val", "general"), said, strict=True):
        score = of_model[name]["all"]
        assert score["n"] == int(n)
        assert score["psnr"] == pytest.approx(float(decibels), abs=0.01)
        assert score["lpips"] == pytest.approx(float(distance), abs=0.001)


def _figures(folder):
    return (folder / "README.md").read_text("utf-8").split("## Figures")[1].split("```")[0]
