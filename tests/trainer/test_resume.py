"""A run that was cut off and resumed is the run that was never cut off, bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.trainer.runs import call_entry, cut_back, exported
from vae_core.files import sha256_file, write_json

EVERY_STEP = ("--checkpoint-every", 1, "--keep-checkpoints", 20)


def records(run: Path) -> list[dict]:
    """The logged steps, without the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocked = ("seconds", "wait")
    return [{k: line[k] for k in line if k not in clocked} for line in lines if "loss" in line]


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--gradient-accumulation-steps", 2, "--ema-decay", 0.5, "--mixed-precision", "bf16"),
        ("--lora-rank", 2, "--batch-size", 5),  # ten photos: every other step ends an epoch
        ("--cache-latents", "latents", "--cache-crops", 2, "--batch-size", 5),
        ("--gan-weight", 0.5, "--gan-start", 2, "--hf-weight", 0.1),
    ],
    ids=[
        "plain",
        "accumulation bf16",
        "adapters across epochs",
        "cached latents across epochs",
        "discriminator",
    ],  # fmt: skip
)
def test_three_pieces_are_one_run(train, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    flags = ("--max-steps", 12, *EVERY_STEP, *flags)
    assert train(tmp_path / "whole", *flags) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "pieces")
    for step in (9, 5):
        cut_back(tmp_path / "pieces", step)
        assert train(tmp_path / "pieces", *flags, "--resume") == 0
    assert records(tmp_path / "pieces") == records(tmp_path / "whole")
    assert exported(tmp_path / "pieces") == exported(tmp_path / "whole")


def test_resuming_needs_no_options_but_the_folder(train, tmp_path):
    assert train(tmp_path / "run", "--max-steps", 3, *EVERY_STEP) == 0
    before = exported(tmp_path / "run")
    cut_back(tmp_path / "run", 2)
    assert call_entry(["--output", str(tmp_path / "run"), "--resume"]) == 0
    assert exported(tmp_path / "run") == before


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(train, tmp_path, capsys):
    assert train(tmp_path / "run", *EVERY_STEP) == 0
    before = exported(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step_000004" / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert train(tmp_path / "run", *EVERY_STEP, "--resume") == 0
    said = capsys.readouterr().out
    assert "step_000004 is not used: training.safetensors has" in said
    assert "resumed from step_000003" in said
    assert exported(tmp_path / "run") == before


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_says_so(train, tmp_path, capsys):
    assert train(tmp_path / "run") == 0
    before = exported(tmp_path / "run")
    cut_back(tmp_path / "run", 0)
    assert train(tmp_path / "run", "--resume") == 0
    assert "no checkpoint yet to resume from: the run begins at step 0" in capsys.readouterr().out
    assert exported(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--seed", 1), "the seed is not what this run began with"),
        (("--lora-rank", 2), "trains other weights than these options do"),
    ],
)
def test_another_run_is_not_taken_for_this_one(train, tmp_path, capsys, flags, complaint):
    assert train(tmp_path / "run", "--max-steps", 1) == 0
    assert train(tmp_path / "run", "--max-steps", 2, *flags, "--resume") == 1
    assert complaint in capsys.readouterr().err


def test_other_photos_are_not_taken_for_the_same(train, tmp_path, capsys, photo_folder):
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    assert train(tmp_path / "run", "--max-steps", 1, "--data", photos) == 0
    (photos / "coffee0.png").unlink()
    assert train(tmp_path / "run", "--max-steps", 2, "--data", photos, "--resume") == 1
    assert "the photos are not what this run began with" in capsys.readouterr().err


def test_steps_of_another_size_are_said_and_the_photos_go_on(train, tmp_path, capsys):
    flags = ("--checkpoint-every", 1, "--keep-checkpoints", 20)
    assert train(tmp_path / "run", "--max-steps", 2, *flags) == 0
    more = ("--max-steps", 4, "--batch-size", 3, *flags)
    assert train(tmp_path / "run", *more, "--resume") == 0
    said = capsys.readouterr().out
    assert "a step takes 3 samples now" in said and "took 2 until here" in said
    assert "from sample 4," in said
    assert [line["images"] for line in records(tmp_path / "run")] == [2, 4, 7, 10]


@pytest.mark.parametrize("entry", ["position", "step", "best_step", "elapsed"])
def test_a_state_that_lacks_an_entry_is_an_error(train, tmp_path, capsys, entry):
    assert train(tmp_path / "run", "--max-steps", 1) == 0
    folder = tmp_path / "run" / "checkpoints" / "step_000001"
    state = json.loads((folder / "state.json").read_text())
    del state["run"][entry]
    write_json(folder / "state.json", state)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = {
        "bytes": (folder / "state.json").stat().st_size,
        "sha256": sha256_file(folder / "state.json"),
    }
    write_json(folder / "manifest.json", manifest)
    assert train(tmp_path / "run", "--max-steps", 2, "--resume") == 1
    assert entry in capsys.readouterr().err


def test_a_finished_run_is_left_alone_without_resume(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--max-steps", 1) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert train(tmp_path / "run", "--max-steps", 1) == 1
    assert "already holds a run, which is not written over" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before


def test_optimizer_state_is_read_without_running_code(train, tmp_path, capsys):
    class Marker:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    assert train(tmp_path / "run", "--max-steps", 1) == 0
    folder = tmp_path / "run" / "checkpoints" / "step_000001"
    torch.save({"optimizer": Marker()}, folder / "optimizer.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["optimizer.pt"] = {
        "bytes": (folder / "optimizer.pt").stat().st_size,
        "sha256": sha256_file(folder / "optimizer.pt"),
    }
    write_json(folder / "manifest.json", manifest)
    assert train(tmp_path / "run", "--max-steps", 2, "--resume") == 1
    assert "optimizer.pt" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()
