"""What goes wrong in the midst of a run ends in a sentence and costs no work."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.runs import options
from trainer.training import session
from trainer.training.checkpoints import all_checkpoints, fault
from trainer.training.losses import TrainStep

FIRST = 3  # the forward pass at which things go wrong


@pytest.fixture
def at_forward(monkeypatch) -> Callable:
    """Let something happen at forward passes of the real step, from the third on."""

    def arrange(happen: Callable) -> None:
        real, passes = TrainStep.forward, iter(range(1, 1000))

        def forward(self, pixels, noise, *more):
            terms = real(self, pixels, noise, *more)
            return happen(next(passes), self, terms) or terms

        monkeypatch.setattr(TrainStep, "forward", forward)

    return arrange


def not_a_number(terms: dict) -> dict:
    return terms | {"loss": terms["loss"] * float("nan")}


def saved_steps(run: Path) -> list[str]:
    folders = all_checkpoints(run / "checkpoints")
    assert all(fault(folder) is None for folder in folders)
    return [folder.name for folder in folders]


def test_a_loss_that_is_no_number_is_skipped_and_counted(train, at_forward, tmp_path, capsys):
    at_forward(lambda n, step, terms: not_a_number(terms) if n in (2, 3) else None)
    assert train(tmp_path / "run") == 0
    state = json.loads((tmp_path / "run/checkpoints/step_000004/state.json").read_text())["run"]
    assert (state["step"], state["skipped"], state["position"]) == (4, 2, 12)
    assert "skipped  2 steps whose loss was not finite" in capsys.readouterr().out


def test_ten_in_a_row_stop_the_run_with_the_last_good_state_saved(
    train, at_forward, tmp_path, capsys
):
    at_forward(lambda n, step, terms: not_a_number(terms) if n >= FIRST else None)
    assert train(tmp_path / "run") == 1
    assert "not finite 10 times in a row, so the run stopped at step 2, saved" in (
        capsys.readouterr().err
    )
    assert saved_steps(tmp_path / "run") == ["step_000002"]


def test_a_poisoned_weight_is_never_saved_or_exported(train, at_forward, tmp_path, capsys):
    def poison(n, step, terms):
        if n == FIRST:
            step.vae.decoder.conv_in.weight.data[0] = float("nan")

    at_forward(poison)
    assert train(tmp_path / "run", "--checkpoint-every", 1) == 1
    assert "are no longer finite" in capsys.readouterr().err
    assert saved_steps(tmp_path / "run") == ["step_000001", "step_000002"]
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(torch.isfinite(t).all() for t in load_file(path).values()), path
    assert not (tmp_path / "run" / "export").exists()


def test_a_diverging_run_keeps_its_good_checkpoints(train, tmp_path, capsys):
    flags = ("--learning-rate", 1e25, "--checkpoint-every", 1, "--max-grad-norm", 0)
    assert train(tmp_path / "run", *flags, "--max-steps", 30) == 1
    assert "learning-rate" in capsys.readouterr().err
    saved_steps(tmp_path / "run")
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(torch.isfinite(t).all() for t in load_file(path).values()), path


def test_a_full_disk_ends_in_a_sentence_and_the_old_checkpoint_stands(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--max-steps", 2) == 0
    old, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        code = train(tmp_path / "run", "--max-steps", 4, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (old, hard))
    assert code == 1
    err = capsys.readouterr().err
    assert "File too large (errno 27)" in err and "Traceback" not in err
    assert saved_steps(tmp_path / "run") == ["step_000002"]
    assert not [p for p in (tmp_path / "run").rglob(".*") if p.name != ".lock"]
    assert train(tmp_path / "run", "--max-steps", 4, "--resume") == 0
    assert train(tmp_path / "whole", "--max-steps", 4) == 0
    assert saved_steps(tmp_path / "run") == ["step_000002", "step_000004"]


def test_a_vanished_folder_is_made_again_and_the_work_saved(train, at_forward, tmp_path, capsys):
    run = tmp_path / "run"
    at_forward(lambda n, step, terms: shutil.rmtree(run) if n == FIRST else None)
    assert train(run) == 1
    assert "metrics.jsonl: No such file or directory" in capsys.readouterr().err
    assert saved_steps(run) == ["step_000003"]
    assert train(run, "--resume") == 0


def test_a_run_that_failed_while_it_began_can_begin_again(train, tmp_path, monkeypatch):
    def broken(path, skips):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(session, "write_skipped", broken)
    assert train(tmp_path / "run") == 1
    monkeypatch.undo()
    assert train(tmp_path / "run", "--resume") == 0


def test_a_photo_that_vanishes_is_replaced_and_named(train, photo_folder, tmp_path, at_forward):
    photos = shutil.copytree(photo_folder, tmp_path / "photos")

    def vanish(n, step, terms):
        for path in photos.glob("chelsea*"):
            path.unlink()

    at_forward(vanish)
    assert train(tmp_path / "run", "--data", photos, "--max-steps", 12) == 0
    named = (tmp_path / "run" / "skipped.csv").read_text()
    assert "chelsea" in named and "unreadable" in named


@pytest.mark.parametrize("jump", [-86_400, 86_400], ids=["back", "forward"])
def test_a_clock_set_by_a_day_changes_nothing(
    train, at_forward, tmp_path, capsys, monkeypatch, jump
):
    right = time.time

    def set_clock(n, step, terms):
        if n == FIRST:
            monkeypatch.setattr(time, "time", lambda: right() + jump)

    at_forward(set_clock)
    run = tmp_path / "run"
    flags = ("--max-train-minutes", 60, "--checkpoint-every", 1, "--keep-checkpoints", 2)
    assert train(run, *flags, "--max-steps", 5) == 0
    for age, folder in enumerate(all_checkpoints(run / "checkpoints")):
        for path in (folder, *folder.iterdir()):
            os.utime(path, (right() - age * 86_400,) * 2)  # the newest step has the oldest files
    assert train(run, *flags, "--max-steps", 6, "--resume") == 0
    assert "resumed from step_000005" in capsys.readouterr().out
    assert saved_steps(run) == ["step_000005", "step_000006"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    assert len(seconds) == 6 and seconds == sorted(seconds) and 0 < seconds[0] < seconds[-1] < 600


def test_running_out_of_memory_names_the_ways_out(train, at_forward, tmp_path, capsys):
    def exhausted(n, step, terms):
        if n == FIRST:
            raise torch.OutOfMemoryError("none left")

    at_forward(exhausted)
    assert train(tmp_path / "run", "--activation-memory", "eager") == 1
    err = capsys.readouterr().err
    assert "out of memory, as the run expects" in err and "stopped at step 2, saved" in err
    for flag in ("--activation-memory fused: ", "--mixed-precision bf16: "):
        assert re.search(flag + r"[\d.]+ MiB", err), flag
    assert re.search("--batch-size 1 --gradient-accumulation-steps 2: [0-9.]+ MiB", err)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits Linux's address space")
def test_a_real_lack_of_memory_saves_and_names_the_ways_out(tiny_base, photo_folder, tmp_path):
    flags = ("--resolution", 64, "--checkpoint-every", 0)
    command = options(tiny_base, photo_folder, tmp_path / "run", "--batch-size", 64, *flags)
    script = Path(__file__).with_name("short_of_memory.py")
    done = subprocess.run(
        [sys.executable, script, *command],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "16384", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "finetune_decoder: the device is out of memory, as the run expects" in done.stderr
    assert "--batch-size 32 --gradient-accumulation-steps 2: " in done.stderr
    assert "stopped at step 2, saved; go on by" in done.stderr
    assert saved_steps(tmp_path / "run") == ["step_000002"]
    state = json.loads((tmp_path / "run/checkpoints/step_000002/state.json").read_text())["run"]
    assert state["position"] == 128  # the step that broke off is taken anew
