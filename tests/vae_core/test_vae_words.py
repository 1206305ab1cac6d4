"""A VAE file in words: family and scaling from the right source, hostile texts made harmless."""

import json
from pathlib import Path

import pytest
import torch

from vae_core.header import CheckpointError
from vae_core.scaling import NONE, Scaling, scaling_of
from vae_core.vae_config import KL_DEFAULTS, TINY_DEFAULTS
from vae_core.vae_file import VaeFile, read_vae
from vae_core.vae_words import (
    CHOICE,
    about,
    doubts,
    family_of,
    report_in_words,
    scaling_for,
    taesd_scaling,
)

BUNDLED = Path(__file__).resolve().parents[2] / "models/kl-f8-small/vae.safetensors"
METADATA = "the file's metadata"


def file(scale: float | None = None, tiny: bool = False, shape: dict | None = None, **metadata):
    architecture = {**(TINY_DEFAULTS if tiny else KL_DEFAULTS), "scaling_factor": 1.0}
    architecture |= shape or {}
    return VaeFile({"a": torch.zeros(3)}, architecture, metadata, [], scale, "ldm")


def test_the_bundled_vae_says_what_it_is() -> None:
    read = read_vae(BUNDLED)
    family = family_of(read, None, None)
    text = about(read, "kl-f8-small (bundled)", family, scaling_for(read, *family), 8)
    assert text.splitlines()[:5] == [
        "kl-f8-small (bundled): kl-f8-small",
        "family: SD1 / SD2 (from the file's metadata)",
        "scaling: scale 0.18215, shift 0 (SD1 / SD2)",
        "architecture: AutoencoderKL, widths 32-64-96-128, 1 layer a level, attention in the "
        "middle, quant convs",
        "latent: 4 channels, a cell for 8 x 8 pixels",
    ]
    count = sum(tensor.numel() for tensor in read.state.values())
    assert f"file: {count:,} parameters" in text and "licence: MIT" in text
    assert "warning" not in text


def test_a_choice_beats_the_file_and_the_contradiction_is_said() -> None:
    read = file(**{"vae_lab.family": "sd1"})
    assert family_of(read, None, None) == ("sd1", METADATA)
    family = family_of(read, None, "sdxl")
    assert family == ("sdxl", CHOICE) and scaling_for(read, *family) == scaling_of("sdxl")
    assert doubts(read, family, scaling_of("sdxl")) == [
        "the file's metadata says SD1 / SD2, the choice beats it"
    ]


def test_a_choice_of_other_channels_is_refused() -> None:
    with pytest.raises(CheckpointError, match="^has 4 latent channels, and FLUX.1 has 16"):
        family_of(file(), None, "flux")


def test_what_nobody_says_is_not_known() -> None:
    read = file()
    family = family_of(read, None, None)
    assert family[0] == "unknown" and scaling_for(read, *family) is None
    assert "choose one" in doubts(read, family, None)[0]


def test_a_scale_of_no_family_counts_as_it_is_stated() -> None:
    read = file(shape={"scaling_factor": 0.5, "shift_factor": 0.25, "latent_channels": 7})
    assert scaling_for(read, *family_of(read, None, None)) == Scaling(0.5, 0.25)


def test_a_taesd_is_scaled_by_its_own_numbers_unless_a_family_is_chosen() -> None:
    read = file(scale=0.18215, tiny=True)
    told = family_of(read, None, None)
    assert told == ("sd1", "the file's vae_scale")
    assert scaling_for(read, *told, 0.125) == Scaling(0.18215, 0.125)
    assert scaling_for(read, "sdxl", CHOICE, 0.125) == scaling_of("sdxl")


def test_a_taesd_without_numbers_passes_its_own_latents_and_says_so() -> None:
    read = file(tiny=True)
    assert taesd_scaling(scaling_for(read, *family_of(read, None, None))) == NONE
    assert "as a diffusion model sees them" in doubts(read, ("unknown", ""), None)[-1]
    playground = scaling_of("playground25")
    assert taesd_scaling(playground) == NONE
    assert "as a diffusion model sees them" in doubts(read, ("playground25", ""), playground)[-1]
    assert not doubts(read, ("sd1", METADATA), scaling_of("sd1"))


def report(**tuned: object) -> dict[str, str]:
    base = {"val": {"all": {"n": 8, "psnr": 30.0, "ssim": 0.9, "lpips": None}}}
    return {"vae_lab.report": json.dumps({"base": base, "tuned": {"val": {"all": tuned}}})}


def test_the_file_s_own_report_is_told() -> None:
    (line,) = report_in_words(report(n=8, psnr=31.234, ssim=0.91236, lpips=None))
    assert line == (
        "its own report of 8 held-out photos: PSNR 30.00 -> 31.23 dB, SSIM 0.9000 -> 0.9124"
    )


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"tuned": 3}', '{"tuned": {"val": {"all": {}}}}', "{" * 9999]
)
def test_a_damaged_report_is_left_out(text: str) -> None:
    assert report_in_words({"vae_lab.report": text}) == []


@pytest.mark.parametrize("number", [True, "31", {}, 1e999])
def test_a_figure_that_is_no_number_is_left_out(number: object) -> None:
    assert report_in_words(report(psnr=number)) == []


def test_hostile_texts_become_one_short_plain_line() -> None:
    title = "<img src=x onerror=1>\n\x1b[31m\u202e" + "A" * 5000
    read = file(**{"modelspec.title": title, "modelspec.license": title})
    text = about(read, "a\nb.safetensors", ("sd1", METADATA), scaling_of("sd1"), 8)
    assert all(line.isprintable() and len(line) < 200 for line in text.splitlines())
    assert text.splitlines()[0].startswith("a?b.safetensors: <img src=x onerror=1>??[31m?AAA")
