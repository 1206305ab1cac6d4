"""Evaluation in exact tiles: which photos, through which VAEs, with which figures and memory."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder, DecoderTiny, Encoder, EncoderTiny
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.trainer.conftest import signals_as_they_were
from tests.trainer.runs import forget_processes
from tests.trainer.test_memory import ARCHITECTURE, TAESD, make
from trainer.evaluate import main
from trainer.judge.evaluation import score_photos, summarise
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from trainer.training.live_bytes import LiveBytes
from trainer.training.memory import expected_memory, planned_model
from trainer.vae import tiles
from trainer.vae.autoencoder import build
from trainer.vae.lora import add_adapters

HALVES = (Encoder, EncoderTiny, Decoder, DecoderTiny)


@pytest.fixture
def whole() -> Iterator[list[str]]:
    """The encoders and decoders that a whole picture went through, as it happens."""
    seen: list[str] = []

    def note(module: nn.Module, inputs: object) -> None:
        if isinstance(module, HALVES):
            seen.append(type(module).__name__)

    handle = register_module_forward_pre_hook(note)
    yield seen
    handle.remove()


@pytest.fixture(autouse=True)
def low_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips as low as those of wide layers: narrow ones too need several for a small photo."""
    monkeypatch.setattr("vae_core.tiling.plan.STRIP", 2**14)


@pytest.fixture
def panoramas(tmp_path: Path) -> Path:
    """A real photo of 2,000 x 104 px: large, and quickly measured."""
    folder = tmp_path / "panoramas"
    folder.mkdir()
    Image.fromarray(skimage.data.coffee()).resize((2000, 104)).save(folder / "coffee.png")
    return folder


@pytest.fixture
def photos(photo_folder: Path) -> PhotoSet:
    """Photos of 96 x 72 px."""
    return open_photos(str(photo_folder), 8)


def evaluated(vae: nn.Module, data: Path, folder: Path) -> dict:
    """The report of trainer/evaluate.py, called as people call it."""
    vae.save_pretrained(folder / "vae")
    arguments = ["--vae", folder / "vae", "--data", data, "--output", folder / "out"]
    forget_processes()
    with signals_as_they_were():
        assert main([*map(str, arguments), "--eval-resolution=2048", "--lpips-net=none"]) == 0
    return json.loads((folder / "out" / "report.json").read_text("utf-8"))


def test_a_large_photo_is_measured_in_tiles_with_the_figures_of_the_whole(
    small_vae: AutoencoderKL,
    panoramas: Path,
    tmp_path: Path,
    whole: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (found,) = evaluated(small_vae, panoramas, tmp_path / "tiled")["models"].values()
    assert not whole and found["val"]["all"]["n"] == 1
    monkeypatch.setattr(tiles, "LARGE", 2001)
    (expected,) = evaluated(small_vae, panoramas, tmp_path / "whole")["models"].values()
    assert {"Encoder", "Decoder"} == set(whole)
    found, expected = found["val"]["all"], expected["val"]["all"]
    assert found["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)
    assert found["ssim"] == pytest.approx(expected["ssim"], abs=1e-5)


def test_photos_score_in_tiles_as_they_do_whole(
    tiny_vae: AutoencoderKL, photos: PhotoSet, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def figures() -> dict:
        scores = score_photos(tiny_vae, photos, None, device="cpu", eval_resolution=64)
        return summarise(scores)

    expected = figures()
    whole.clear()
    monkeypatch.setattr(tiles, "LARGE", 1)
    found = figures()
    assert not whole
    assert found["all"]["psnr"] == pytest.approx(expected["all"]["psnr"], abs=1e-3)


def test_a_vae_that_tiles_do_not_know_takes_a_large_photo_whole(
    panoramas: Path, tmp_path: Path, whole: list[str]
) -> None:
    (found,) = evaluated(build(TAESD), panoramas, tmp_path)["models"].values()
    assert "DecoderTiny" in whole and found["val"]["all"]["n"] == 1


def test_a_decoder_with_adapters_takes_it_whole(tiny_vae: AutoencoderKL) -> None:
    shape = (1, 3, 8, tiles.LARGE)
    assert tiles.plan_tiles(tiny_vae, shape, torch.float32)
    add_adapters(tiny_vae, 2, None, 0)
    assert tiles.plan_tiles(tiny_vae, shape, torch.float32) is None


def test_the_plan_tells_what_a_large_photo_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of single rows leave the plan little to be generous with: all it counts is seen."""
    monkeypatch.setattr(tiles, "LARGE", 1)
    monkeypatch.setattr("vae_core.tiling.plan.STRIP", 2**12)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2}
    kinds |= {"up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(block_out_channels=(32, 32), latent_channels=16, **kinds)
    pixels = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with LiveBytes() as live:
        tiles.round_trip(vae.requires_grad_(False), pixels)
    plan = tiles.plan_tiles(vae, pixels.shape, pixels.dtype)
    assert 0.9 < live.peak / plan.peak_bytes < 1.02  # 0.98; without the moments it would be 1.07


def test_the_forecast_counts_tiles_where_evaluation_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forecast(architecture: dict) -> int:
        memory = expected_memory(make(eval_resolution=64), architecture, None)
        return memory.evaluation["activations"]

    whole, tiny = forecast(ARCHITECTURE), forecast(TAESD)
    monkeypatch.setattr(tiles, "LARGE", 96)
    plan = tiles.plan_tiles(planned_model(make(), ARCHITECTURE), (1, 3, 64, 96), torch.float32)
    assert forecast(ARCHITECTURE) == plan.peak_bytes + 4 * 3 * 64 * 96 != whole
    assert forecast(TAESD) == tiny
