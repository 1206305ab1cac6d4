"""What a run says before it begins, and the room on the disk that it asks for."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from trainer.errors import UserError
from trainer.judge.perceptual import Perceptual, encoder_features
from trainer.options.config import TrainConfig, resolve_vae
from trainer.photos.skips import Skip
from trainer.photos.sources import open_photos
from trainer.training.disk import check_disk, checkpoint_bytes, disk_free, disk_needed, size
from trainer.training.dryrun import Plan, dry_run, start_text
from trainer.training.memory import planned_model
from trainer.training.optimizer import make_optimizer
from trainer.training.run import Photos
from trainer.vae.base import Base, load_base

CPU = torch.device("cpu")


@pytest.fixture
def base(tmp_path: Path) -> Base:
    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"_class_name": "AutoencoderKL", **TINY}), encoding="utf-8")
    return load_base(str(config))


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, side in enumerate((64, 72, 80, 96)):
        pixels = generator.integers(0, 256, (side, 2 * side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    all_of_them = open_photos(str(folder), 16)
    skips = (Skip("a", "too small", ""), Skip("b", "too small", ""), Skip("c", "unreadable", ""))
    return Photos(all_of_them.subset([0, 1, 2]), all_of_them.subset([3]), None, {"train": skips})


def make(tmp_path: Path, **values) -> TrainConfig:
    basics = {"vae": "tiny", "data": "photos", "output": str(tmp_path / "run"), "resolution": 64}
    return TrainConfig(**(basics | {"eval_resolution": 64} | values))


def fallback(base: Base) -> Perceptual:
    return encoder_features(base.vae, "cpu")


def lines_of(text: str) -> dict[str, str]:
    """Join the lines of each subject."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        subject = line[:12].strip() or list(found)[-1]
        found[subject] = f"{found.get(subject, '')} {line[12:]}".strip()
    return found


# What it says


def test_the_start_text(tmp_path: Path, base: Base, photos: Photos) -> None:
    config = make(tmp_path, gradient_accumulation_steps=3, max_train_minutes=2.5, max_steps=400)
    said = lines_of(start_text(Plan(config, base, photos, fallback(base), 2, CPU)))
    decoder = [
        weight
        for name, weight in base.vae.named_parameters()
        if name.startswith(("decoder.", "post_quant_conv."))
    ]
    assert base.found in said["base"]
    assert said["family"] == "unknown (not known)" or base.family in said["family"]
    parameters = sum(weight.numel() for weight in decoder)
    assert said["trains"].endswith(f"{len(decoder)} tensors, {parameters:,} parameters")
    assert said["photos"].startswith("3 to train on, 1 held out, no general")
    short = sorted(min(photo.width, photo.height) for photo in photos.train.photos)
    assert f"from {short[0]} to {short[-1]} pixels" in said["photos"]
    assert said["skipped"].startswith("3 photos: 2 too small, 1 unreadable")
    assert "64 x 64 pixels, 24 a step (batch 4 x accumulation 3 x 2 processes)" in said["crops"]
    assert "mse, mean over C, H, W, mean over the batch; weight 1" in said["loss"]
    assert "reported only: a frozen encoder gives it no gradient" in said["loss"]
    assert said["run"].startswith("400 steps or 2.5 minutes")
    assert "fp32 on cpu" in said["precision"]
    for absent in ("LPIPS weights", "faces", "general photos"):
        assert absent in said["missing"]


def test_what_is_there_is_not_missed(tmp_path: Path, base: Base, photos: Photos) -> None:
    config = make(tmp_path, face_detector_weights="yunet.onnx")
    complete = Photos(photos.train, photos.val, photos.val)
    lpips = Perceptual("lpips-squeeze", True, 16, fallback(base).distance, "a file")
    said = lines_of(start_text(Plan(config, base, complete, lpips, 1, CPU)))
    assert "missing" not in said and "skipped" not in said
    assert "1 general" in said["photos"]


def test_kl_that_trains_is_not_called_reported_only(
    tmp_path: Path, base: Base, photos: Photos
) -> None:
    config = make(tmp_path, trainable="all", kl_weight=0.5)
    said = lines_of(start_text(Plan(config, base, photos, fallback(base), 1, CPU)))
    assert "weight 0.5" in said["loss"] and "reported only" not in said["loss"]
    assert said["trains"].startswith("encoder and decoder")


def test_crops_must_fit_the_base_and_the_loss(tmp_path: Path, photos: Photos) -> None:
    wide = {key: value * 3 for key, value in TINY.items() if key.endswith("types")}
    file = tmp_path / "config.json"
    architecture = {**TINY, **wide, "block_out_channels": (8,) * 6}
    file.write_text(json.dumps({"_class_name": "AutoencoderKL", **architecture}), encoding="utf-8")
    base = load_base(str(file))
    with pytest.raises(UserError, match="multiple of 32, .* but got 72: take 64"):
        start_text(Plan(make(tmp_path, resolution=72), base, photos, None, 1, CPU))
    with pytest.raises(UserError, match="at least 64, the least that lpips-vgg can see"):
        config = make(tmp_path, resolution=32)
        blind = Perceptual("lpips-vgg", True, 64, fallback(base).distance)
        start_text(Plan(config, base, photos, blind, 1, CPU))


# The dry run


def test_a_dry_run_writes_nothing(tmp_path: Path, base: Base, photos: Photos) -> None:
    config = make(tmp_path, gradient_accumulation_steps=2)
    text = dry_run(Plan(config, base, photos, fallback(base), 2, CPU))
    assert text.startswith(start_text(Plan(config, base, photos, fallback(base), 2, CPU)))
    said = lines_of(text)
    assert said["memory"].startswith("about ") and "expected on cpu" in said["memory"]
    for part in ("weights", "gradients", "gradients in exchange", "optimizer", "averaged weights"):
        assert f"{part} " in said["memory"]
    for part in ("activations of the decoder", "the loss while it is computed"):
        assert part in said["memory"]
    assert "free" in said["disk"]
    assert text.endswith("nothing was trained and nothing written")
    assert not Path(config.output).exists()


def test_memory_that_cannot_be_counted_stops_nothing(
    tmp_path: Path, base: Base, photos: Photos
) -> None:
    strange = torch.device("hpu")  # no build of torch knows it without an extension
    said = lines_of(dry_run(Plan(make(tmp_path), base, photos, None, 1, strange)))
    assert said["memory"].startswith("not known: it could not be counted on hpu")


def test_a_dry_run_says_why_the_disk_is_too_small(
    tmp_path: Path, base: Base, photos: Photos
) -> None:
    config = make(tmp_path, keep_checkpoints=10**12, max_steps=10**12, checkpoint_every=1)
    with pytest.raises(UserError, match=r"of free disk at .*checkpoints of .*--keep-checkpoints"):
        dry_run(Plan(config, base, photos, fallback(base), 1))


# The disk


def test_a_checkpoint_is_as_large_as_said(tmp_path: Path) -> None:
    base = load_base(resolve_vae("bundled:kl-f8-small"))
    config = make(tmp_path)
    said = checkpoint_bytes(config, planned_model(config, base.architecture))
    trained = {
        name: weight
        for name, weight in base.vae.named_parameters()
        if name.startswith(("decoder.", "post_quant_conv."))
    }
    optimizer = make_optimizer(config, trained.values())
    for weight in trained.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    content = io.BytesIO()
    average = {name: weight.detach().clone() for name, weight in trained.items()}
    parts = [base.vae.state_dict(), dict(trained), average, optimizer.state_dict()]
    torch.save(parts, content)
    shared = sum(4 * weight.numel() for weight in trained.values())  # torch saves a storage once
    assert said == pytest.approx(content.tell() + shared, rel=0.03)


def test_adapters_are_merged_into_what_is_exported(tmp_path: Path, base: Base) -> None:
    config = make(tmp_path, lora_rank=2)
    vae = planned_model(config, base.architecture)
    adapters = sum(weight.numel() for weight in vae.parameters() if weight.requires_grad)
    whole = sum(weight.numel() for weight in base.vae.parameters())
    assert checkpoint_bytes(config, vae) == 4 * whole + (2 * 4 + 8) * adapters


def test_adapters_make_small_checkpoints(tmp_path: Path, base: Base) -> None:
    def needed(**changes) -> int:
        config = make(tmp_path, **changes)
        return disk_needed(config, planned_model(config, base.architecture))

    assert needed(lora_rank=1) < needed()
    assert needed(export_dtype="fp16") < needed()
    assert needed(keep_checkpoints=3) > needed()
    assert needed(max_steps=1) < needed()


def test_free_disk_is_asked_of_the_nearest_folder_there(tmp_path: Path, base: Base) -> None:
    assert disk_free(tmp_path / "not" / "yet" / "there") > 0
    vae = planned_model(make(tmp_path), base.architecture)
    check_disk(make(tmp_path), vae, tmp_path / "run")


def test_earlier_checkpoints_make_room(tmp_path: Path) -> None:
    file = tmp_path / "run" / "checkpoints" / "step_000001" / "weights.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(50_000_000))
    empty = disk_free(tmp_path / "other")
    assert disk_free(tmp_path / "run") - empty == pytest.approx(50_000_000, rel=0.2)


@pytest.mark.parametrize(
    ("count", "text"), [(2**30, "1.00 GiB"), (320 * 2**20, "320 MiB"), (1_500_000, "1.4 MiB")]
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert size(count) == text
