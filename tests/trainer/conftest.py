"""Fixtures for whole runs: a tiny base on disk, a few small photos, the entry called in process."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL
from PIL import Image

from tests.conftest import TINY
from tests.trainer.runs import call_entry, options
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos

FACE = (170.0, 60.0, 110.0, 130.0)  # of the astronaut, seen by eye


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a tiny VAE whose decoder has something to learn."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(**TINY).save_pretrained(folder)
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


@pytest.fixture
def small_vae() -> AutoencoderKL:
    """A real AutoencoderKL of ratio 8, whose attention sees few cells of a sheet."""
    blocks = {
        "block_out_channels": (4,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(**blocks, layers_per_block=1, norm_num_groups=2).eval()


@pytest.fixture
def portraits(tmp_path: Path) -> PhotoSet:
    """Five portraits of the astronaut with her face marked, and a cat without."""
    folder = tmp_path / "portraits"
    folder.mkdir()
    for i in range(5):
        pixels = np.roll(skimage.data.astronaut()[:, 40 : 400 + 7 * i], i, axis=2)  # other colours
        Image.fromarray(pixels).save(folder / f"{i}.png")
    Image.fromarray(skimage.data.chelsea()).save(folder / "cat.png")
    photos = open_photos(str(folder), 8)
    left, *rest = FACE
    faces = [() if p.name == "cat.png" else ((left - 40, *rest),) for p in photos.photos]
    known = [replace(p, faces=boxes) for p, boxes in zip(photos.photos, faces, strict=True)]
    return replace(photos, photos=known)


Train = Callable[..., int]


@pytest.fixture
def train(tiny_base: Path, photo_folder: Path) -> Train:
    """Call the entry with small defaults, which flags given later replace; return its exit code."""

    def call(output: Path, *flags: object) -> int:
        return call_entry(options(tiny_base, photo_folder, output, *flags))

    with signals_as_they_were():
        yield call


@contextmanager
def signals_as_they_were() -> Iterator[None]:
    """Give the handlers of signals back that the entry takes over."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
