"""Fixtures for whole runs: a tiny base on disk, a few small photos, the entry called in process."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import AutoencoderKL
from PIL import Image

from trainer.finetune_decoder import main

SHAPE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a tiny VAE whose decoder has something to learn."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(**SHAPE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of 96 x 72 pixels, cut out of those that scikit-image carries."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        picture = Image.fromarray(getattr(skimage.data, name)())
        for i in range(4):
            cut = picture.crop((40 * i, 30 * i, 40 * i + 192, 30 * i + 144))
            cut.resize((96, 72)).save(folder / f"{name}{i}.png")
    return folder


Train = Callable[..., int]


@pytest.fixture
def train(tiny_base: Path, photo_folder: Path) -> Train:
    """Call the entry with small defaults, which flags given later replace; return its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(output: Path, *flags: object) -> int:
        small = {
            "--vae": tiny_base, "--data": photo_folder, "--output": output, "--resolution": 32,
            "--eval-resolution": 32, "--max-steps": 4, "--batch-size": 2, "--lpips-weight": 0,
            "--workers": 0, "--log-every": 1, "--eval-every": 0, "--sample-photos": 1,
            "--log-with": "none", "--learning-rate": 1e-3, "--warmup-steps": 0,
        }  # fmt: skip
        for state in (AcceleratorState, PartialState):
            state._reset_state()
        GradientState._reset_state()
        argv = [str(part) for pair in small.items() for part in pair]
        return main(argv + [str(flag) for flag in flags])

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
