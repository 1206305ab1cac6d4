"""--batch-size auto: what is chosen by count, and what a step that is tried leaves behind."""

import json
from pathlib import Path

import pytest
import torch

from trainer.options.config import TrainConfig
from trainer.options.toml_file import from_toml
from trainer.training import batch_size
from trainer.training.batch_size import CANDIDATES, SHARE
from trainer.training.losses import TrainStep
from trainer.training.memory import expected_memory
from trainer.vae.base import load_base

MIB = 2**20


@pytest.fixture
def free(monkeypatch):
    """Let the device have so many bytes free."""

    def give(size: int) -> None:
        monkeypatch.setattr(batch_size, "free_memory", lambda device: size)

    return give


def chosen(run: Path) -> int:
    return from_toml(run / "config.toml")["batch_size"]


def needed(train_config: dict, number: int, tiny_base: Path) -> int:
    config = TrainConfig(**train_config | {"batch_size": number})
    return expected_memory(config, load_base(str(tiny_base)).architecture, None).foretold


CONFIG = {"vae": "x", "data": "y", "output": "z", "resolution": 32, "eval_resolution": 32}
CONFIG |= {"lpips_weight": 0.0}


@pytest.mark.parametrize(("number", "more"), [(6, 0), (6, -1), (64, 10**12)])
def test_the_largest_that_fits_by_count_is_taken(
    train, free, tmp_path, tiny_base, capsys, number, more
):
    free(int(needed(CONFIG, number, tiny_base) / SHARE) + 2 * (more >= 0) + more)
    run = tmp_path / "run"
    assert train(run, "--batch-size", "auto", "--max-steps", 2) == 0
    expected = number if more >= 0 else CANDIDATES[CANDIDATES.index(number) - 1]
    assert chosen(run) == expected
    said = capsys.readouterr().out
    assert f"(batch {expected} x accumulation 1 x 1 process)" in said
    assert f"batch       {expected} by count" in said
    assert f"{expected} was tried by a step and fits" in said
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[1])
    assert line["images"] == expected
    assert train(run, "--max-steps", 3, "--batch-size", expected, "--resume") == 0


def test_a_run_with_auto_is_the_run_with_its_number(train, free, tmp_path, tiny_base):
    free(int(needed(CONFIG, 3, tiny_base) / SHARE) + 2)
    assert train(tmp_path / "auto", "--batch-size", "auto") == 0
    assert train(tmp_path / "three", "--batch-size", 3) == 0
    for file in ("weights.safetensors", "training.safetensors"):
        a, b = (tmp_path / n / "checkpoints/step_000004" / file for n in ("auto", "three"))
        assert a.read_bytes() == b.read_bytes()


def test_a_step_that_runs_out_of_memory_is_stepped_down_from(
    train, free, tmp_path, tiny_base, monkeypatch, capsys
):
    free(int(needed(CONFIG, 6, tiny_base) / SHARE) + 2)
    real = TrainStep.forward

    def forward(self, pixels, noise, *more):
        if len(pixels) > 3 and type(pixels) is torch.Tensor:  # the count's are fake
            raise torch.OutOfMemoryError("none left")
        return real(self, pixels, noise, *more)

    monkeypatch.setattr(TrainStep, "forward", forward)
    assert train(tmp_path / "run", "--batch-size", "auto") == 0
    assert chosen(tmp_path / "run") == 3
    assert "3 was tried by a step and fits" in capsys.readouterr().out


def test_where_not_even_one_fits_the_ways_out_are_named(train, free, tmp_path, capsys):
    free(MIB // 2)
    flags = ("--batch-size", "auto", "--activation-memory", "eager")
    assert train(tmp_path / "run", *flags) == 1
    err = capsys.readouterr().err
    assert "at least one crop to fit for --batch-size auto, but 85% of 0.5 MiB free on cpu" in err
    assert "--activation-memory fused: " in err


def test_a_dry_run_says_what_it_would_choose(train, free, tmp_path, tiny_base, capsys):
    free(int(needed(CONFIG, 4, tiny_base) / SHARE) + 2)
    assert train(tmp_path / "run", "--batch-size", "auto", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "batch       4 by count" in said and "tried" not in said
    assert not (tmp_path / "run").exists()


def test_this_machine_tells_its_free_memory():
    assert batch_size.free_memory(torch.device("cpu")) > 100 * MIB


def test_processes_share_main_memory(monkeypatch):
    alone = batch_size.free_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert batch_size.free_memory(torch.device("cpu")) == pytest.approx(alone / 2, rel=0.2)


def test_trying_a_step_leaves_no_trace(train, free, tmp_path, tiny_base, monkeypatch):
    free(int(needed(CONFIG, 2, tiny_base) / SHARE) + 2)
    real, seen = batch_size.settle_batch_size, []

    def settle(run, counted):
        before = torch.get_rng_state(), [p.detach().clone() for p in run.trained().values()]
        choice = real(run, counted)
        seen.append(torch.equal(before[0], torch.get_rng_state()))
        pairs = zip(before[1], run.trained().values(), strict=True)
        seen.append(all(torch.equal(a, b) for a, b in pairs))
        seen.append(all(p.grad is None for p in run.trained().values()))
        seen.append(not run.optimizer.state)
        return choice

    monkeypatch.setattr("trainer.training.session.settle_batch_size", settle)
    assert train(tmp_path / "run", "--batch-size", "auto") == 0
    assert seen == [True] * 4
