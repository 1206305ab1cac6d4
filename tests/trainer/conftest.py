"""Fixtures for whole runs: a tiny base on disk, a few small photos, the entry called in process."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL
from PIL import Image

from tests.conftest import TINY
from tests.trainer.runs import call_entry, options


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
