"""Whole small runs with a discriminator: when it begins, what is kept of it, what is exported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.runs import cut_back, exported, losses
from trainer.training import adversary, checkpoints
from trainer.training.discriminator import PatchDiscriminator

EVERY_STEP = ("--checkpoint-every", 1, "--keep-checkpoints", 20)
GAN = ("--gan-weight", 0.5, "--gan-start")


def kept(run: Path, step: int, part: str = "training") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step_{step:06d}" / f"{part}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def records(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_until_its_start_a_run_is_the_run_without_it(train, tmp_path, tiny_base):
    flags = ("--max-steps", 4, *EVERY_STEP)
    assert train(tmp_path / "without", *flags) == 0
    assert train(tmp_path / "with", *flags, *GAN, 2) == 0
    equal = [same(*(kept(tmp_path / run, n) for run in ("without", "with"))) for n in (1, 2, 3, 4)]
    # the first step that it judges only measures how much it will count
    assert equal == [True, True, True, False]
    new = PatchDiscriminator(3, 0).state_dict()
    judges = [kept(tmp_path / "with", n, "discriminator") for n in (1, 2, 3, 4)]
    assert [same(judge, new) for judge in judges] == [True, True, False, False]
    scales = [record.get("gan_scale") for record in records(tmp_path / "with")]
    assert scales[:3] == [None, None, 0] and scales[3] > 0
    assert [record.keys() >= {"gan", "disc"} for record in records(tmp_path / "with")][1:3] == [
        False,
        True,
    ]
    base = load_file(tiny_base / "diffusion_pytorch_model.safetensors")
    assert load_file(
        tmp_path / "with/export/diffusers/diffusion_pytorch_model.safetensors"
    ).keys() == (base.keys())
    assert exported(tmp_path / "with").keys() == exported(tmp_path / "without").keys()


@pytest.mark.slow
def test_accumulated_batches_give_the_run_of_one_large_one(train, tmp_path):
    assert train(tmp_path / "a", *GAN, 0, "--batch-size", 4) == 0
    assert train(tmp_path / "b", *GAN, 0, "--gradient-accumulation-steps", 2) == 0
    for name in ("gan", "disc", "gan_scale", "loss"):
        a, b = ([record[name] for record in records(tmp_path / run)] for run in "ab")
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6), name
    a, b = (kept(tmp_path / run, 4) for run in "ab")
    assert all(torch.allclose(a[name], b[name], atol=2e-5) for name in a)


def test_a_run_that_had_none_takes_one_up_from_its_last_step_on(train, tmp_path, capsys):
    assert train(tmp_path / "run", *EVERY_STEP) == 0
    cut_back(tmp_path / "run", 2)
    assert train(tmp_path / "run", "--resume", *GAN, 1) == 1
    said = capsys.readouterr().err
    assert "Expected step_000002 to hold the discriminator that --gan-start 1 began" in said
    assert "give --gan-start 2" in said
    assert train(tmp_path / "run", "--resume", *GAN, 2) == 0
    assert train(tmp_path / "whole", *GAN, 2) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert same(*(kept(tmp_path / run, 4, "discriminator") for run in ("run", "whole")))


def test_a_checkpoint_without_its_file_is_not_whole_and_a_run_goes_on_without_it(train, tmp_path):
    flags = ("--max-steps", 2, *EVERY_STEP)
    assert train(tmp_path / "run", *flags, *GAN, 0) == 0
    last = tmp_path / "run" / "checkpoints" / "step_000002"
    assert checkpoints.fault(last) is None
    (last / "discriminator.safetensors").unlink()
    assert checkpoints.fault(last) == "discriminator.safetensors is missing"
    cut_back(tmp_path / "run", 1)
    assert train(tmp_path / "run", *flags, "--gan-weight", 0, "--resume") == 0
    assert last.exists() and not (last / "discriminator.safetensors").exists()
    assert "disc" not in records(tmp_path / "run")[-1]


def test_adapters_in_bf16_train_against_it_too(train, tmp_path):
    flags = ("--hf-weight", 0.1, "--lora-rank", 2, "--mixed-precision", "bf16")
    assert train(tmp_path / "run", *GAN, 0, *flags) == 0
    last = records(tmp_path / "run")[-1]
    assert last["gan_scale"] > 0 and 0 < last["disc"] < 2 and last["hf"] > 0


def test_a_judge_that_is_broken_leaves_the_vae_whole(train, tmp_path, monkeypatch, capsys):
    """A judgement that is not finite skips the step; a loss of its own that is not, its own."""
    real = adversary.Adversary.judge

    def breaking(self, output, pixels, rest):
        self.calls = getattr(self, "calls", 0) + 1
        seen = pixels * float("nan") if self.calls == 2 else pixels
        judgement, scalars = real(self, output, seen, rest)
        return (judgement * float("nan") if self.calls == 3 else judgement), scalars

    monkeypatch.setattr(adversary.Adversary, "judge", breaking)
    assert train(tmp_path / "run", "--max-steps", 4, *GAN, 0, *EVERY_STEP) == 0
    said = capsys.readouterr().out
    assert "skipped  1 steps whose loss was not finite" in said
    assert "judge    1 of its steps skipped, as not finite" in said
    judges = [kept(tmp_path / "run", n, "discriminator") for n in (1, 2, 3)]
    weights = [[v for k, v in judge.items() if "._" not in k] for judge in judges]
    equal = [all(map(torch.equal, a, b)) for a, b in zip(weights, weights[1:], strict=False)]
    assert equal == [True, False]
    last = tmp_path / "run" / "checkpoints" / "step_000004" / "optimizer.pt"
    state = torch.load(last, weights_only=True)["adversary"]
    assert state["optimizer"]["state"][0]["step"] == 3  # of five tries
    assert state["skipped"] == 1
    for step in (1, 2, 3, 4):
        assert all(tensor.isfinite().all() for tensor in kept(tmp_path / "run", step).values())


def test_the_terms_are_said_and_shown(train, tmp_path, capsys):
    assert train(tmp_path / "run", *GAN, 1, "--hf-weight", 0.25) == 0
    said = capsys.readouterr().out
    assert "hf: L1 of what a Gaussian blur of 1.5 pixels takes away" in said
    assert "gan: -D(x) of a PatchGAN" in said and "weight 0.5, from step 1 on" in said
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "High-frequency loss" in page and "Discriminator&#x27;s own loss" in page
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "gan_weight" in card and "gan_start" in card and "hf_weight" in card
