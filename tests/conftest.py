"""What several test files share: the tiny real VAE, the assets folder, the project's own files."""

import os
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

torch.set_num_threads(1)  # models this small only lose time by waiting for a second thread

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


@pytest.fixture
def tiny_vae() -> AutoencoderKL:
    """A real AutoencoderKL, two blocks deep, ratio 2, with weights from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(**TINY).eval()


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real photos and weights that VAE_LAB_ASSETS names."""
    folder = os.environ.get("VAE_LAB_ASSETS")
    if not folder:
        pytest.skip("VAE_LAB_ASSETS is not set: no real photos and weights to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root folder."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def sources(project: Path) -> list[Path]:
    """Every file of the project that git would keep, relative to the root, sorted."""
    return sorted(_files(project, _patterns(project / ".gitignore")))


@pytest.fixture(scope="session")
def shipped(project: Path) -> list[Path]:
    """Every file of the registry's archive: the sources without what .comfyignore names."""
    patterns = _patterns(project / ".gitignore") + _patterns(project / ".comfyignore")
    return sorted(_files(project, patterns))


def _patterns(ignore_file: Path) -> list[str]:
    """The names in an ignore file; ours hold plain names and `*`, and a slash at an end or both."""
    lines = (line.strip() for line in ignore_file.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _files(root: Path, patterns: list[str]) -> list[Path]:
    def is_ignored(name: str, is_folder: bool, at_root: bool) -> bool:
        names = [name, name + "/"] if is_folder else [name]
        if at_root:  # a leading slash ties a pattern to the root
            names += ["/" + each for each in names]
        return any(fnmatch(each, pattern) for each in names for pattern in patterns)

    found = []
    for folder, folders, names in os.walk(root):
        top = Path(folder) == root
        folders[:] = [f for f in folders if f != ".git" and not is_ignored(f, True, top)]
        found += [Path(folder, name) for name in names if not is_ignored(name, False, top)]
    return [path.relative_to(root) for path in found]
