"""A light VAE taught another's latents: through the step, whole runs, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from trainer.errors import UserError
from trainer.options.config import TrainConfig
from trainer.training.losses import TrainStep
from trainer.training.memory import expected_memory
from trainer.training.teacher import Teacher, make_teacher, mixed, taught_of
from trainer.vae.base import load_base

SD1 = 0.18215


@pytest.fixture
def taesd(tmp_path: Path) -> Path:
    """A real AutoencoderTiny of the tiny base's ratio, 2, in diffusers' folder."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
    vae.save_pretrained(tmp_path / "taesd")
    return tmp_path / "taesd"


@pytest.fixture
def teacher(taesd: Path, tiny_base: Path) -> Teacher:
    return make_teacher(
        load_base(str(taesd)), load_base(str(tiny_base), "sd1"), torch.device("cpu")
    )


def pixels() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make_step(vae: AutoencoderKL, teacher: Teacher, weight: float, share: float) -> TrainStep:
    options = {"teacher": teacher, "teacher_weight": weight, "teacher_share": share}
    return TrainStep(vae, None, "mse", 1.0, 0.0, 0.0, train_encoder=True, **options)


def test_its_latents_come_in_the_students_scale(teacher: Teacher, taesd: Path) -> None:
    """diffusers' own encode of a TAESD is a model latent: raw ones of SD1 are 1 / 0.18215 of it."""
    theirs = AutoencoderTiny.from_pretrained(taesd)
    with torch.no_grad():
        model = theirs.encode(pixels()).latents
    torch.testing.assert_close(teacher.latents(pixels()), model / SD1)


def test_the_term_is_the_distance_of_model_latents_and_trains_the_encoder(
    tiny_vae: AutoencoderKL, teacher: Teacher
) -> None:
    x, noise = pixels(), torch.zeros(4, 4, 8, 8)
    scalars = make_step(tiny_vae, teacher, 0.7, 0.0)(x, noise)
    mean = tiny_vae.encode(x).latent_dist.mean
    expected = ((mean - teacher.latents(x)) * SD1).square().mean()
    torch.testing.assert_close(scalars["teacher"], expected)
    torch.testing.assert_close(scalars["loss"], scalars["rec"] + 0.7 * expected)
    scalars["teacher"].backward()
    assert tiny_vae.encoder.conv_in.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in teacher.vae.parameters())
    assert not any("teacher" in name for name in make_step(tiny_vae, teacher, 1, 0).state_dict())


def test_a_share_of_the_batch_is_decoded_from_its_latents(
    tiny_vae: AutoencoderKL, teacher: Teacher
) -> None:
    x, noise = pixels(), torch.zeros(4, 4, 8, 8)
    rec = make_step(tiny_vae, teacher, 0.0, 0.5)(x, noise)["rec"]
    latents = torch.cat([teacher.latents(x)[:2], tiny_vae.encode(x).latent_dist.mean[2:]])
    torch.testing.assert_close(rec, (tiny_vae.decode(latents).sample - x).square().mean())


def test_the_teacher_sees_those_alone(tiny_vae: AutoencoderKL, teacher: Teacher) -> None:
    x, noise = pixels(), torch.zeros(4, 4, 8, 8)
    apart = make_step(tiny_vae, teacher, 1.0, 0.5)(x, noise)["teacher"]
    mean = tiny_vae.encode(x).latent_dist.mean
    expected = ((mean - teacher.latents(x))[:2] * SD1).square().mean()
    torch.testing.assert_close(apart, expected)


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 0), (0.1, 1), (0.3, 1), (0.4, 2), (0.5, 2), (1.0, 4)]
)
def test_so_many_of_a_batch(share: float, count: int) -> None:
    found = mixed(torch.zeros(4, 1, 1, 1), torch.ones(4, 1, 1, 1), taught_of(share, 4))
    assert found.flatten().tolist() == [1.0] * count + [0.0] * (4 - count)


def test_it_is_counted_in_what_a_run_needs(
    tiny_vae: AutoencoderKL, teacher: Teacher, taesd: Path, tiny_base: Path
) -> None:
    flags = {"teacher": "t", "teacher_weight": 1.0, "trainable": "all"}
    config = TrainConfig(
        vae="v", data="d", output="o", lpips_weight=0.0, resolution=64, batch_size=4, **flags
    )
    architecture = load_base(str(tiny_base)).architecture
    without = expected_memory(config, architecture, None)
    memory = expected_memory(config, architecture, None, teacher=teacher)
    encoder = AutoencoderTiny.from_pretrained(taesd).encoder
    assert memory.lasting["teacher"] == 4 * sum(weight.numel() for weight in encoder.parameters())
    assert "perceptual weights" not in memory.lasting and "teacher" not in without.lasting
    latents = 4 * 4 * 4 * 32 * 32  # of the teacher and of the student, until they are compared
    assert sum(memory.step.values()) >= sum(without.step.values()) + latents


def test_a_run_comes_nearer_to_the_teacher(train, tmp_path: Path, taesd: Path) -> None:
    run = tmp_path / "run"
    flags = ["--trainable", "all", "--family", "sd1", "--teacher", taesd, "--teacher-weight", 1]
    flags += ["--teacher-share", 0.5, "--max-steps", 30, "--learning-rate", 3e-3, "--log-every", 1]
    assert train(run, *flags) == 0
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    apart = [line["teacher"] for line in lines if "teacher" in line]
    assert sum(apart[-5:]) < 0.7 * sum(apart[:5])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher_weight": 1.0, "trainable": "all"}, "--teacher together with"),
        ({"teacher": "t"}, "both are 0"),
        ({"teacher": "t", "teacher_weight": 1.0}, "--trainable all"),
    ],
)
def test_options_that_do_not_go_together(changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainConfig(vae="v", data="d", output="o", **changes)


def test_a_teacher_of_another_shape_or_an_unknown_scale_is_refused(
    taesd: Path, tiny_base: Path, tmp_path: Path
) -> None:
    cpu, student = torch.device("cpu"), load_base(str(tiny_base), "sd1")
    AutoencoderTiny(latent_channels=4).save_pretrained(tmp_path / "f8")
    with pytest.raises(UserError, match="f8: give another teacher"):
        make_teacher(load_base(str(tmp_path / "f8")), student, cpu)
    with pytest.raises(UserError, match="--family"):
        make_teacher(load_base(str(taesd)), load_base(str(tiny_base), "unknown"), cpu)
