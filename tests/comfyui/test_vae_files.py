"""The files that the trainer writes and the project ships, in a real ComfyUI, against diffusers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer.photos.demo_photos import demo_files
from vae_core.architecture import comfy_config

pytestmark = pytest.mark.comfyui

SD_VAE = {  # the shape of Stable Diffusion's VAE: 83,653,863 parameters
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}


def photo(side: int) -> torch.Tensor:
    """The middle of the demo's astronaut, [1, side, side, 3] in [0, 1]."""
    image = Image.open(demo_files("train")[0]).convert("RGB").resize((side, side))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3


def diffusers_images(vae: AutoencoderKL, latent: torch.Tensor) -> torch.Tensor:
    """Decode with diffusers, and clamp to [0, 1] as ComfyUI does: [B, H, W, 3]."""
    with torch.no_grad():
        pixels = vae.decode(latent).sample
    return (pixels / 2 + 0.5).clamp(0, 1).movedim(1, -1)


@pytest.fixture(scope="module")
def full_size_run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on random weights in the shape of Stable Diffusion's VAE."""
    folder = tmp_path_factory.mktemp("full-size")
    (folder / "config.json").write_text(json.dumps(SD_VAE), encoding="utf-8")
    options = {
        "--preset": "demo",
        "--vae": folder / "config.json",
        "--family": "sd1",
        "--resolution": 128,
        "--eval-resolution": 128,
        "--batch-size": 1,
        "--max-steps": 2,
        "--val-photos": 1,
        "--sample-photos": 1,
        "--checkpoint-every": 0,
        "--output": folder / "run",
    }
    launch = [sys.executable, "-m", "accelerate.commands.launch", "trainer/finetune_decoder.py"]
    command = [*launch, *(str(part) for option in options.items() for part in option)]
    answer = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder / "run"


def decode_prompt(latent: str, vae: str) -> dict:
    """Decode a latent and keep the exact values: the pixel VAE encodes without a change."""
    return {
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": vae}},
        "pixels": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
        "latent": {"class_type": "LoadLatent", "inputs": {"latent": latent}},
        "image": {
            "class_type": "VAEDecode",
            "inputs": {"samples": ["latent", 0], "vae": ["vae", 0]},
        },
        "values": {
            "class_type": "VAEEncode",
            "inputs": {"pixels": ["image", 0], "vae": ["pixels", 0]},
        },
        "save": {
            "class_type": "SaveLatent",
            "inputs": {"samples": ["values", 0], "filename_prefix": "decoded"},
        },
    }


def test_vae_loader_takes_the_exported_file(server, full_size_run):
    """Through /prompt: VAELoader loads the export, and decodes what diffusers decodes."""
    exported = full_size_run / "export" / "vae.safetensors"
    (server.base / "models/vae/tuned.safetensors").write_bytes(exported.read_bytes())
    latent = noise(1, 4, 8, 8)
    save_file(
        {"latent_tensor": latent, "latent_format_version_0": torch.empty(0)},
        server.base / "input/noise.latent",
    )
    entry = server.queue(decode_prompt("noise.latent", "tuned.safetensors"))
    assert entry["status"]["status_str"] == "success", entry["status"]
    (file,) = (kept["filename"] for out in entry["outputs"].values() for kept in out["latents"])
    decoded = (load_file(server.base / "output" / file)["latent_tensor"] / 2 + 0.5).movedim(1, -1)
    oracle = diffusers_images(
        AutoencoderKL.from_pretrained(full_size_run / "export" / "diffusers"), latent
    )
    assert oracle.std() > 0.01 and decoded.shape == (1, 64, 64, 3)
    torch.testing.assert_close(decoded, oracle, atol=2e-5, rtol=0)
    assert "missing vae keys" not in server.log.read_text("utf-8", "replace").lower()


def test_comfyui_own_class_holds_the_bundled_vae(comfyui, project, tmp_path):
    """In ComfyUI's process: given the shape out of the file, it reconstructs as diffusers does."""
    file = project / "models/kl-f8-small/vae.safetensors"
    with safe_open(file, "pt") as opened:
        architecture = json.loads(opened.metadata()["vae_lab.architecture"])
    (tmp_path / "config.json").write_text(json.dumps(comfy_config(architecture)), encoding="utf-8")
    image, latent = photo(128), noise(1, 4, 16, 16)
    save_file({"image": image, "latent": latent}, tmp_path / "in.safetensors")
    script = Path(__file__).with_name("reconstruct.py")
    paths = [tmp_path / name for name in ("config.json", "in.safetensors", "out.safetensors")]
    answer = comfyui.run(script, file, *paths)
    assert answer.returncode == 0, answer.stderr
    theirs = load_file(tmp_path / "out.safetensors")

    ours = AutoencoderKL.from_single_file(file, config=str(file.parent), torch_dtype=torch.float32)
    with torch.no_grad():
        encoded = ours.encode(image.movedim(-1, 1) * 2 - 1).latent_dist.mean
    decoded = diffusers_images(ours, latent)
    # ComfyUI computes attention in another order. Raw latents reach 20, so float32's rounding over
    # some thirty layers, about 1e-5 of the largest value, is no fixed number of units.
    bound = 1e-5 * float(encoded.abs().max())
    torch.testing.assert_close(theirs["encoded"], encoded, atol=bound, rtol=0)
    torch.testing.assert_close(theirs["decoded"], decoded, atol=5e-6, rtol=0)
    assert decoded.std() > 0.05 and encoded.std() > 0.5
