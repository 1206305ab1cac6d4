"""A VAE from scratch on digits: it learns, and each variant does what it says. Real small runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.trainer.conftest import signals_as_they_were
from tests.trainer.runs import call_entry
from trainer.options.command_line import parse_command_line
from trainer.options.config import TrainConfig, resolve_vae
from trainer.photos.sources import open_photos
from trainer.training.losses import TrainStep
from trainer.vae.autoencoder import DECODER_PREFIXES, input_pixels
from trainer.vae.base import load_base
from vae_core.comfy_weights import comfy_weights
from vae_core.vae_file import read_vae

ENTRY = Path(__file__).resolve().parents[2] / "trainer" / "finetune_decoder.py"
PRESET = ["--preset", "digits"]
BETA = 0.3  # of the preset
LEARNT = 31.0  # nats a digit: what the short run below reaches, and no random decoder does
BEYOND_THE_MEAN = 24.5  # what the whole preset reaches; the mean picture alone has some 27


def digits_run(output: Path, *flags: object) -> Path:
    """Train as the preset does, for fewer steps unless flags say otherwise."""
    short = {"--max-steps": 20, "--warmup-steps": 0, "--ema-decay": 0.5, "--sample-photos": 0}
    short |= {"--log-every": 1, "--val-photos": 4, "--batch-size": 16}
    argv = [*PRESET, "--output", output, *(part for pair in short.items() for part in pair)]
    with signals_as_they_were():
        assert call_entry([str(part) for part in [*argv, *flags]]) == 0
    return output


def lines(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if "loss" in line]


def exported(run: Path) -> dict[str, Tensor]:
    return load_file(run / "export" / "diffusers" / "diffusion_pytorch_model.safetensors")


def random_weights() -> dict[str, Tensor]:
    return load_base(resolve_vae("bundled:digits-vae")).vae.state_dict()


def some_digits(vae: nn.Module) -> Tensor:
    """256 digits as a VAE takes them, [256, 1, 8, 8]."""
    photos = open_photos("sklearn:digits", 8)
    levels = np.stack([np.array(photos.image(i)) for i in range(256)])
    return input_pixels(vae, torch.from_numpy(levels))


@torch.inference_mode()
def loss_of(vae: nn.Module) -> float:
    """The loss of the preset over 256 digits, by one draw."""
    noise = torch.randn(256, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    step = TrainStep(vae, None, "bce", 1.0, 0.0, BETA, True)
    return step(some_digits(vae), noise)["loss"].item()


def trained_rows(run: Path) -> tuple[bool, bool]:
    """Whether a run changed what gives μ, and what gives log σ²: rows of the last convolution."""
    name = "quant_conv.weight"
    changed = (exported(run)[name] != random_weights()[name]).flatten(1).any(1)
    return bool(changed[:4].any()), bool(changed[4:].any())


def test_the_preset_is_a_grey_vae_from_scratch() -> None:
    config = parse_command_line([*PRESET, "--output", "run"])
    assert (config.trainable, config.rec_loss, config.kl_weight) == ("all", "bce", BETA)
    assert (config.lpips_weight, config.posterior, config.flip) == (0.0, "sample", False)
    base = load_base(resolve_vae(config.vae), seed=config.seed)
    assert base.architecture["in_channels"] == base.architecture["out_channels"] == 1
    assert config.resolution % base.architecture["sample_size"] == 0


def test_the_run_learns_and_a_random_decoder_fails_the_same_loss(tmp_path) -> None:
    run = digits_run(tmp_path / "run", "--max-steps", 60)
    found = lines(run)
    assert found[0]["loss"] > LEARNT + 10
    sums = [line["rec"] + BETA * line["kl"] for line in found]
    assert [line["loss"] for line in found] == pytest.approx(sums, rel=1e-5)
    vae = load_base(str(run / "export" / "diffusers")).vae
    assert loss_of(vae) < LEARNT
    of_random = {n: t for n, t in random_weights().items() if n.startswith(DECODER_PREFIXES)}
    vae.load_state_dict(vae.state_dict() | of_random)
    assert loss_of(vae) > LEARNT


def test_what_it_exports_is_held_by_comfyuis_class(tmp_path) -> None:
    run = digits_run(tmp_path / "run", "--max-steps", 1)
    shape = comfy_weights(read_vae(run / "export" / "vae.safetensors")).config["params"]
    assert (shape["embed_dim"], shape["ddconfig"]["ch_mult"]) == (4, [1, 1, 1])


def test_a_plain_autoencoder_draws_nothing_and_never_trains_sigma(tmp_path, capsys) -> None:
    """What gives log σ² gets a gradient from draws and from KL alone."""
    run = digits_run(tmp_path / "run", "--posterior", "mode", "--kl-weight", 0)
    said = capsys.readouterr().out
    assert "the posterior's mode; nothing is drawn" in said and "ELBO" not in said
    assert all(line["loss"] == line["rec"] for line in lines(run))
    assert trained_rows(run) == (True, False)


def test_with_sampling_beta_0_trains_sigma_too(tmp_path) -> None:
    run = digits_run(tmp_path / "run", "--kl-weight", 0)
    assert all(line["loss"] == line["rec"] for line in lines(run))
    assert trained_rows(run) == (True, True)


def test_kl_alone_brings_the_posterior_to_the_prior_and_leaves_the_decoder(tmp_path) -> None:
    run = digits_run(tmp_path / "run", "--rec-weight", 0)
    found = lines(run)
    kl = [BETA * line["kl"] for line in found]
    assert [line["loss"] for line in found] == pytest.approx(kl, rel=1e-5)
    assert found[-1]["kl"] < 0.1 * found[0]["kl"]
    before, after = random_weights(), exported(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith(DECODER_PREFIXES) for name in changed)


def test_a_denoising_run_says_so_and_scores_more(tmp_path, capsys) -> None:
    """What is seen is disturbed, so from the first step on the same weights score otherwise."""
    flags = ("--posterior", "mode", "--kl-weight", 0, "--max-steps", 2)
    plain = lines(digits_run(tmp_path / "a", *flags))
    noisy = lines(digits_run(tmp_path / "b", *flags, "--noise-factor", 1))
    assert "clip(x + 1 N(0, I)) in [-1, 1], as 0.5 in [0, 1]" in capsys.readouterr().out
    assert noisy[0]["rec"] != plain[0]["rec"]


@pytest.mark.slow
def test_the_whole_preset_learns_more_than_the_mean_picture(tmp_path) -> None:
    """As README starts it, from another folder."""
    launch = Path(sys.executable).parent / "accelerate"
    command = [launch, "launch", ENTRY, *PRESET, "--output", tmp_path / "run"]
    ended = subprocess.run([str(part) for part in command], cwd=tmp_path, text=True)
    assert ended.returncode == 0
    vae = load_base(str(tmp_path / "run" / "export" / "vae.safetensors")).vae
    assert loss_of(vae) < BEYOND_THE_MEAN


def test_both_terms_stand_beside_the_bar(tmp_path, capsys) -> None:
    digits_run(tmp_path / "run", "--max-steps", 2)
    shown = capsys.readouterr().err
    assert "rec=" in shown and "kl=" in shown


def test_lpips_is_not_fetched_for_pictures_that_it_cannot_see(monkeypatch) -> None:
    from trainer.training import setup

    monkeypatch.setattr(setup, "load_perceptual", lambda *_, **__: pytest.fail("looked for"))
    config = TrainConfig(vae="x", data="y", output="z", lpips_weight=0.0, eval_resolution=8)
    assert setup.open_perceptual(config, None, None) is None
