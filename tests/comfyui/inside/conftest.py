"""Tests that run in ComfyUI's own process and environment: the nodes as ComfyUI loaded them.

Started by tests/comfyui/test_inside.py, which says where ComfyUI and the laid-out pack are.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from launch import import_on_cpu  # noqa: E402

COMFYUI, PACK = Path(os.environ["VAE_LAB_COMFYUI"]), Path(os.environ["VAE_LAB_PACK"])
BASE = PACK.parents[1]

kept = sys.argv[:]
import_on_cpu(COMFYUI)
sys.argv[1:] = ["--cpu", "--base-directory", str(BASE)]
import folder_paths  # noqa: E402

import nodes as core  # noqa: E402

sys.argv = kept


@pytest.fixture(scope="session")
def node() -> Callable[[str], type]:
    """A function that gives one of ComfyUI's nodes by id: its own, and those of the pack."""
    if not any(name.startswith("VAELab") for name in core.NODE_CLASS_MAPPINGS):
        assert asyncio.run(core.load_custom_node(str(PACK))), f"{PACK} was not loaded"
    return core.NODE_CLASS_MAPPINGS.__getitem__


def run_node(cls: type, **inputs: Any) -> tuple[Any, ...]:
    """Run a node as ComfyUI does, under inference mode; what is not given has its default."""
    given = {part.id: part.default for part in cls.define_schema().inputs if _has_default(part)}
    with torch.inference_mode():
        out = cls.execute(**(given | inputs))
    return out.result if hasattr(out, "result") else out


def _has_default(part: Any) -> bool:
    return not part.optional and getattr(part, "default", None) is not None


@pytest.fixture(scope="session")
def run() -> Callable[..., tuple[Any, ...]]:
    """Runs a node's body with the defaults of its schema filled in; returns its outputs."""
    return run_node


@pytest.fixture(scope="session")
def tiling(node) -> ModuleType:
    """The pack's own tiling, as ComfyUI loaded the pack."""
    node("VAELabDecode")
    name = next(name for name in sys.modules if name.endswith(".vae_core"))
    return importlib.import_module(name + ".tiling")


@pytest.fixture(scope="session")
def vae() -> Any:
    """The bundled small VAE in ComfyUI's own class: 4 channels, ratio 8, a true posterior."""
    import comfy.sd
    import comfy.utils

    weights = comfy.utils.load_torch_file(str(PACK / "models/kl-f8-small/vae.safetensors"))
    shape = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": weights["encoder.conv_in.weight"].shape[0],
        "ch_mult": _widths(weights),
        "num_res_blocks": _blocks(weights),
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": shape, "embed_dim": 4}})


def _widths(weights: dict[str, torch.Tensor]) -> list[int]:
    first = weights["encoder.conv_in.weight"].shape[0]
    levels = sorted(
        {int(name.split(".")[2]) for name in weights if name.startswith("encoder.down.")}
    )
    last = [weights[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in levels]
    return [width // first for width in last]


def _blocks(weights: dict[str, torch.Tensor]) -> int:
    return 1 + max(
        int(name.split(".")[4]) for name in weights if name.startswith("encoder.down.0.block.")
    )


@pytest.fixture
def encode(node, run, vae) -> Callable[..., tuple[Any, ...]]:
    """Runs VAE Encode (Scaled) on pictures, with the bundled VAE and widgets as given."""
    return lambda images, **widgets: run(
        node("VAELabEncode"), **{"pixels": images, "vae": vae, **widgets}
    )


@pytest.fixture
def decode(node, run, vae) -> Callable[..., tuple[Any, ...]]:
    """Runs VAE Decode (Scaled) on a latent, likewise."""
    return lambda latent, **widgets: run(
        node("VAELabDecode"), **{"samples": latent, "vae": vae, **widgets}
    )


@pytest.fixture
def reconstruct(node, run, vae) -> Callable[..., tuple[Any, ...]]:
    """Runs VAE Reconstruct on pictures, likewise."""
    return lambda images, **widgets: run(
        node("VAELabReconstruct"), **{"pixels": images, "vae": vae, **widgets}
    )


@pytest.fixture(scope="session")
def pixel_vae() -> Any:
    """ComfyUI's own VAE that changes nothing: 3 channels, ratio 1."""
    import comfy.sd

    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


@pytest.fixture(scope="session")
def video_vae() -> Any:
    """Wan 2.1's VAE as ComfyUI builds it, narrow, with random weights; its ratios are tuples."""
    import comfy.sd
    from comfy.ldm.wan.vae import WanVAE

    widths = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    model = WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True], **widths)
    draw = torch.Generator().manual_seed(0)  # ComfyUI's own layers leave their memory as it was
    state = {
        name: torch.ones_like(value)
        if name.endswith("gamma")
        else torch.randn(value.shape, generator=draw) / max(1, value[0].numel()) ** 0.5
        for name, value in model.state_dict().items()
    }
    return comfy.sd.VAE(sd=state)


@pytest.fixture
def core_noise() -> Callable[..., torch.Tensor]:
    """Core's own noise for a latent and a seed; the process keeps its random state."""
    from comfy.sample import prepare_noise

    def prepare(latent, seed, indices=None):
        state = torch.random.get_rng_state()  # core's own way seeds the whole process
        drawn = prepare_noise(latent, seed, indices)
        torch.random.set_rng_state(state)
        return drawn

    return prepare


class OfFormat:
    """A MODEL as far as the nodes look: it names its latent format, one of core's own."""

    def __init__(self, latent_format: Any) -> None:
        self.latent_format = latent_format

    def get_model_object(self, name: str) -> Any:
        return getattr(self, name)


@pytest.fixture(scope="session")
def base() -> Path:
    """ComfyUI's base folder: models, input, output, temp."""
    assert Path(folder_paths.base_path) == BASE
    return BASE
