"""Load VAE through /prompt: each kind of file decodes and encodes as diffusers does."""

import json
import shutil
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.vae.forms import single_file
from trainer.vae.metadata import identity
from vae_core.families import FAMILIES
from vae_core.keys import to_ldm
from vae_core.vae_config import architecture_from_config

pytestmark = pytest.mark.comfyui

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
SMALL = {"block_out_channels": (32, 64, 64), "layers_per_block": 1}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
SD = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}


class Case(NamedTuple):
    """A VAE by diffusers, how its file is written, and the label of the file in the node."""

    model: Callable[[], Any]
    write: Callable[[Any], dict[str, Tensor]]
    label: str = "{}.safetensors"
    folder: str = "vae"
    family: str = "unknown"  # of a TAESD: between raw latents and its own


def kl(attends: tuple[bool, ...] = (), **fields: Any) -> AutoencoderKL:
    """An AutoencoderKL with random weights; `attends` tells levels with attention."""
    shape = SMALL | fields
    attends = attends or (False,) * len(shape["block_out_channels"])
    types = {
        "down_block_types": tuple("Attn" * yes + "DownEncoderBlock2D" for yes in attends),
        "up_block_types": tuple("Attn" * yes + "UpDecoderBlock2D" for yes in attends[::-1]),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(**types, **shape).eval()


def tiny(**fields: Any) -> AutoencoderTiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(**fields).eval()


def ldm(model: AutoencoderKL) -> dict[str, Tensor]:
    return to_ldm(model.state_dict())


def diffusers(model: Any) -> dict[str, Tensor]:
    return dict(model.state_dict())


def old_names(model: AutoencoderKL) -> dict[str, Tensor]:
    """Names of attention as diffusers wrote them until 2023, weights as 1x1 convolutions."""
    state = {}
    for name, tensor in model.state_dict().items():
        for new, old in OLD.items():
            name = name.replace(f".{new}.", f".{old}.")
        is_projection = name.endswith("weight") and "attentions" in name and tensor.ndim == 2
        state[name] = tensor[:, :, None, None] if is_projection else tensor
    return state


def checkpoint(model: AutoencoderKL) -> dict[str, Tensor]:
    """A full checkpoint, as far as a loader of VAEs looks."""
    state = {f"first_stage_model.{name}": tensor for name, tensor in ldm(model).items()}
    state["model_ema.decay"] = torch.tensor(0.999)
    state["cond_stage_model.transformer.text_model.embeddings.weight"] = torch.zeros(2, 2)
    return state | {"model.diffusion_model.time_embed.0.weight": torch.zeros(2, 2)}


def exported(family: str) -> Callable[[Any], dict[str, Tensor]]:
    """The one file that the trainer writes."""

    def write(model: Any) -> dict[str, Tensor]:
        architecture = architecture_from_config(dict(model.config))
        return single_file(model.state_dict(), architecture, family)

    return write


def bundled(project: Path) -> AutoencoderKL:
    folder = project / "models/kl-f8-small"
    return AutoencoderKL.from_single_file(
        folder / "vae.safetensors", config=str(folder), torch_dtype=torch.float32
    ).eval()


CASES = {
    "small, LDM keys": Case(kl, ldm),
    "small, diffusers keys": Case(kl, diffusers),
    "small, old attention names": Case(kl, old_names),
    "small, as the trainer writes it": Case(kl, exported("sd1")),
    "no quant convs": Case(lambda: kl(**NO_QUANT), diffusers),
    "one quant conv": Case(lambda: kl(use_post_quant_conv=False), ldm),
    "in a full checkpoint": Case(kl, checkpoint, "{}.safetensors (checkpoint)", "checkpoints"),
    "16 channels, small": Case(lambda: kl(latent_channels=16, **NO_QUANT), ldm),
    "16 channels, FLUX's shape": Case(lambda: kl(latent_channels=16, **NO_QUANT, **SD), diffusers),
    "64 channels": Case(lambda: kl(latent_channels=64), ldm),
    "attention in levels": Case(lambda: kl((False, True, True)), ldm),
    "five levels": Case(lambda: kl(block_out_channels=(32,) * 4 + (64,)), diffusers),
    "one level": Case(lambda: kl(block_out_channels=(64,), layers_per_block=3), ldm),
    "grey pictures": Case(lambda: kl(in_channels=1, out_channels=1), ldm),
    "TAESD, as the trainer writes it": Case(tiny, exported("sdxl"), family="sdxl"),
    "TAESD, diffusers keys": Case(tiny, diffusers),
    "TAESD of 16 channels": Case(lambda: tiny(latent_channels=16), exported("flux"), family="flux"),
}


def prompt(label: str, family: str = "from the file") -> dict[str, Any]:
    """Decode a latent and encode a picture, and keep the exact values as latents."""

    def saved(samples: list[Any], prefix: str) -> dict[str, Any]:
        inputs = {"samples": samples, "filename_prefix": prefix}
        return {"class_type": "SaveLatent", "inputs": inputs}

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    return {
        "vae": node("VAELabLoadVAE", vae_name=label, family=family),
        "pixels": node("VAELoader", vae_name="pixel_space"),  # changes nothing
        "latent": node("LoadLatent", latent="given.latent"),
        "photo": node("LoadImage", image="given.png"),
        "image": node("VAEDecode", samples=["latent", 0], vae=["vae", 0]),
        "values": node("VAEEncode", pixels=["image", 0], vae=["pixels", 0]),
        "encoded": node("VAEEncode", pixels=["photo", 0], vae=["vae", 0]),
        "save1": saved(["values", 0], "decoded"),
        "save2": saved(["encoded", 0], "encoded"),
        "info": node("PreviewAny", source=["vae", 1]),
    }


def oracle(model: Any, latent: Tensor, photo: Tensor, family: str) -> tuple[Tensor, Tensor]:
    """What diffusers decodes [B, H, W, 3] in [0, 1] and encodes [B, C, h, w], in raw units."""
    known, channels = FAMILIES[family], model.config.in_channels
    scale, shift = known.scale or 1.0, known.shift
    if channels == 1:
        luma = (photo * photo.new_tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    pixels = (photo if channels == 3 else luma).movedim(-1, 1) * 2 - 1
    with torch.no_grad():
        if isinstance(model, AutoencoderTiny):
            decoded = model.decode((latent - shift) * scale).sample
            encoded = model.encode(pixels).latents / scale + shift
        else:
            decoded, encoded = model.decode(latent).sample, model.encode(pixels).latent_dist.mean
    images = (decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    return images.expand(-1, -1, -1, 3), encoded


def photo_into(folder: Path, side: int = 64) -> Tensor:
    """Write a smooth picture as PNG; give what it holds, [1, side, side, 3] in [0, 1]."""
    small = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)
    levels = (large[0].movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(levels).save(folder / "given.png")
    return torch.from_numpy(levels.astype(np.float32) / 255)[None]


def run(server: Any, label: str, latent: Tensor, choice: str) -> tuple[Tensor, Tensor, str]:
    """Queue the prompt: decoded pictures, encoded latents, the node's info."""
    tensors = {"latent_tensor": latent, "latent_format_version_0": torch.empty(0)}
    save_file(tensors, server.base / "input/given.latent")
    for old in (server.base / "output").glob("*.latent"):
        old.unlink()
    entry = server.queue(prompt(label, choice))
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    found = {}
    for name in ("decoded", "encoded"):
        (file,) = (server.base / "output").glob(f"{name}*.latent")
        found[name] = load_file(file)["latent_tensor"]
    decoded = (found["decoded"] / 2 + 0.5).movedim(1, -1)
    (info,) = entry["outputs"]["info"]["text"]
    return decoded, found["encoded"], info


def check(server: Any, label: str, model: Any, family: str, choice: str = "from the file") -> str:
    """Hold decode and encode of a file against diffusers; return the node's info."""
    photo = photo_into(server.base / "input")
    channels = model.config.latent_channels
    latent = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(1)) * 3
    decoded, encoded, info = run(server, label, latent, choice)
    images, latents = oracle(model, latent, photo, family)
    assert images.std() > 0.005 and decoded.shape == images.shape
    torch.testing.assert_close(decoded, images, atol=2e-5, rtol=0)
    # float32's rounding grows with the values (trained latents reach 20) and with the layers:
    # how far diffusers itself is from float64 is allowed on top
    _, exact = oracle(model.double(), latent.double(), photo.double(), family)
    rounding = float((latents - exact).abs().max())
    bound = 2e-5 * max(1.0, float(latents.abs().max())) + rounding
    assert rounding < 1e-4
    torch.testing.assert_close(encoded, latents, atol=bound, rtol=0)
    return info


@pytest.mark.parametrize("name", CASES)
def test_decodes_and_encodes_as_diffusers_does(server, name):
    case, model = CASES[name], CASES[name].model()
    place = server.base / "models" / case.folder
    place.mkdir(exist_ok=True)
    file = f"case {list(CASES).index(name)}"
    state = {key: tensor.contiguous().clone() for key, tensor in case.write(model).items()}
    metadata = {}
    if case.write not in (ldm, diffusers, old_names, checkpoint):
        metadata = identity(architecture_from_config(dict(model.config)), case.family)
    save_file(state, place / f"{file}.safetensors", metadata or None)
    try:
        info = check(server, case.label.format(file), model, case.family)
    finally:
        (place / f"{file}.safetensors").unlink()
    assert type(model).__name__ in info
    assert "missing vae keys" not in server.log.read_text("utf-8", "replace").lower()


def test_the_bundled_vae_decodes_as_diffusers_does(server, project):
    info = check(server, "kl-f8-small (bundled)", bundled(project), "unknown")
    assert "family: SD1 / SD2" in info


def test_the_published_taesd_decodes_as_diffusers_does(server, assets):
    """Its file does not say whose latents it takes: the node's choice does."""
    place = server.base / "models/vae/taesd"
    shutil.copytree(assets / "models/taesd", place)
    model = AutoencoderTiny.from_pretrained(assets / "models/taesd").eval()
    label = "taesd/diffusion_pytorch_model.safetensors"
    info = check(server, label, model, "sd1", "SD1 / SD2")
    assert "family: SD1 / SD2 (from the node's choice)" in info and "warning" not in info


HOSTILE = ["../x.safetensors", "/etc/passwd", "..\\x", "C:\\x.safetensors", "a\0b", "x" * 5000]
HOSTILE += [["a", "b"], {"__value__": ["../x"]}, {"__value__": "../x"}, None, 7]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: str(name)[:16].replace("\0", "0"))
def test_a_hostile_name_is_refused_and_the_server_lives(server, name):
    """Row N1: refused at once, or by the node; core does not check the lists of V3 nodes."""
    try:
        entry = server.queue(prompt(name))
    except urllib.error.HTTPError as error:
        assert error.code == 400 and json.loads(error.read())["error"]
    else:
        (failed,) = (
            told for kind, told in entry["status"]["messages"] if kind == "execution_error"
        )
        words = "Load VAE (any size): expected a .safetensors file of models/vae"
        assert failed["exception_message"].startswith(words)
    assert server.get("/system_stats")
