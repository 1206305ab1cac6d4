"""Whole small runs: what trains, what does not, and that it adds up."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.runs import exported, losses
from trainer.options.config import TrainConfig
from trainer.options.toml_file import from_toml
from trainer.training.judging import held_out_loss


def weights(run: Path, step: int, part: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step_{step:06d}" / f"{part}.safetensors")


def test_the_decoder_alone_changes(train, tmp_path, tiny_base):
    assert train(tmp_path / "run") == 0
    before = load_file(tiny_base / "diffusion_pytorch_model.safetensors")
    after = weights(tmp_path / "run", 4)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    decoder = {n for n in before if n.startswith(("decoder.", "post_quant_conv."))}
    assert changed == decoder


def test_trainable_all_changes_the_encoder_and_the_loss_holds_the_kl(train, tmp_path, tiny_base):
    assert train(tmp_path / "run", "--trainable", "all", "--kl-weight", "0.01") == 0
    before = load_file(tiny_base / "diffusion_pytorch_model.safetensors")
    after = weights(tmp_path / "run", 4)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])
    assert line["loss"] == pytest.approx(line["rec"] + 0.01 * line["kl"], rel=1e-5)


def test_accumulation_gives_the_same_losses_as_one_large_batch(train, tmp_path):
    assert train(tmp_path / "a", "--batch-size", 4) == 0
    assert train(tmp_path / "b", "--batch-size", 2, "--gradient-accumulation-steps", 2) == 0
    # the order of sums differs, so equality is to float32 rounding
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-5)
    a, b = (weights(tmp_path / run, 4, "training") for run in "ab")
    assert all(torch.allclose(a[name], b[name], atol=2e-5) for name in a)


def test_the_same_run_twice_gives_the_same_bytes(train, tmp_path):
    assert train(tmp_path / "a") == 0
    assert train(tmp_path / "b", "--workers", 0) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert exported(tmp_path / "a") == exported(tmp_path / "b")


def test_a_run_learns(train, tmp_path):
    flags = ("--max-steps", 60, "--learning-rate", 3e-3, "--ema-decay", 0.9)
    assert train(tmp_path / "run", *flags) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    base, tuned = (report["models"][name]["val"]["all"]["psnr"] for name in ("base", "tuned"))
    assert tuned > base + 1


def test_bf16_keeps_float32_masters_that_small_steps_move(train, tmp_path):
    assert train(tmp_path / "run", "--mixed-precision", "bf16", "--learning-rate", 1e-6) == 0
    training = weights(tmp_path / "run", 4, "training")
    assert {tensor.dtype for tensor in training.values()} == {torch.float32}
    before = weights(tmp_path / "run", 4)
    # AdamW's first steps are about the learning rate in size: far under bf16's 0.4 % of a weight
    kernel = "decoder.conv_in.weight"
    moved = (training[f"weight.{kernel}"] - load_base(tmp_path, kernel)).abs()
    assert moved.max() < 1e-5 and (moved > 0).float().mean() > 0.9
    assert before[kernel].dtype == torch.float32


def load_base(tmp_path: Path, name: str) -> torch.Tensor:
    folder = from_toml(tmp_path / "run" / "config.toml")["vae"]
    return load_file(Path(folder) / "diffusion_pytorch_model.safetensors")[name]


@pytest.mark.parametrize("how", ["fused", "checkpoint"])
def test_activations_kept_otherwise_give_the_same_run(train, tmp_path, how):
    assert train(tmp_path / "a") == 0
    assert train(tmp_path / "b", "--activation-memory", how) == 0
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-6)


def test_adapters_train_and_are_merged_into_the_export(train, tmp_path, tiny_base):
    assert train(tmp_path / "run", "--lora-rank", 2) == 0
    before = load_file(tiny_base / "diffusion_pytorch_model.safetensors")
    after = weights(tmp_path / "run", 4)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    training = weights(tmp_path / "run", 4, "training")
    assert all(".lora_" in name for name in training)


@pytest.mark.parametrize("loss", ["l1", "charbonnier", "bce"])
def test_every_pixel_loss_trains(train, tmp_path, loss):
    assert train(tmp_path / "run", "--rec-loss", loss, "--max-steps", 2) == 0


def test_the_average_counts_real_steps_only(train, tmp_path):
    flags = ("--max-steps", 3, "--gradient-accumulation-steps", 2)
    assert train(tmp_path / "run", *flags, "--ema-decay", 0.9) == 0
    folder = tmp_path / "run" / "checkpoints" / "step_000003"
    state = json.loads((folder / "state.json").read_text())
    assert state["ema_updates"] == 3 and state["run"]["position"] == 12


def test_the_held_out_loss_weighs_faces_as_training_does() -> None:
    def loss(**weights: float) -> float:
        given = {"vae": "x", "data": "y", "output": "z", "rec_weight": 2.0}
        return held_out_loss(TrainConfig(**given, **weights), found)

    whole = {"psnr": 20.0, "lpips": 0.1}
    found = {"all": whole, "faces": {"lpips": 0.5}}
    assert loss(lpips_weight=0.0) == pytest.approx(0.04)  # 4 / 100: pixels alone, unweighted
    assert loss(lpips_weight=0.3) == pytest.approx(0.08 + 0.03)
    assert loss(lpips_weight=0.3, face_lpips_weight=0.4) == pytest.approx(0.08 + 0.03 + 0.2)
    found = {"all": whole}  # no face was found
    assert loss(lpips_weight=0.3, face_lpips_weight=0.4) == pytest.approx(0.08 + 0.03)
    found = {"all": {"psnr": 20.0, "lpips": None, "encoder_distance": 0.2}}
    assert loss(lpips_weight=0.5) == pytest.approx(0.08 + 0.1)
    found = {"all": {"psnr": None}}
    assert loss() is None


def test_photos_are_mixed_in_but_those_measured_on(train, tmp_path, photo_folder, capsys):
    """Of eight photos to mix in, four are in --data and one is held out: three are left."""
    own, general = tmp_path / "own", tmp_path / "general"
    for folder, names in ((own, ("astronaut", "coffee1")), (general, ("chelsea", "coffee"))):
        folder.mkdir()
        for photo in photo_folder.glob("*.png"):
            if photo.stem.startswith(names):
                shutil.copy(photo, folder)
    for photo in sorted(own.glob("astronaut*")):
        shutil.copy(photo, general)
    held = tmp_path / "held"
    held.mkdir()
    shutil.copy(general / "chelsea0.png", held)
    flags = ("--data", own, "--general-data", general, "--val-data", held, "--face-share", 0.25)
    assert train(tmp_path / "run", *flags) == 0
    said = capsys.readouterr().out
    # chelsea1 to 3 and coffee0, 2, 3: coffee1 and the astronauts are in --data
    assert "11 to train on (6 of them mixed in), 1 held out" in said
    assert "25% of the crops of photos of --data" in said and "the rest of photos mixed in" in said
    assert train(tmp_path / "none", *flags[:2], "--general-data", own, *flags[4:]) == 1
    assert "nothing is left of it to train on" in capsys.readouterr().err


def test_a_run_with_faces_says_what_it_draws_and_logs_what_it_sees(
    train, tmp_path, photo_folder, capsys
):
    photos = sorted(photo_folder.glob("*.png"))
    content = {
        "image": [photo.read_bytes() for photo in photos],
        "faces": [[[30.0, 20.0, 24.0, 32.0]]] * len(photos),
    }
    pq.write_table(pa.table(content), tmp_path / "photos.parquet")
    flags = (
        "--data",
        tmp_path / "photos.parquet",
        "--preset",
        "demo",
        "--vae",
        "bundled:kl-f8-small",
    )
    flags += ("--resolution", 64, "--eval-resolution", 64, "--face-lpips-weight", 0.1)
    assert train(tmp_path / "run", *flags, "--max-steps", 2) == 0
    assert "50% of the crops around a face, 24 to 64 pixels high, of" in capsys.readouterr().out
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])
    parts = line["rec"] + 0.0 * line.get("distance", 0.0) + 0.1 * line["face_distance"]
    assert line["face_distance"] > 0 and line["loss"] == pytest.approx(parts, rel=1e-4)
