"""Which family a VAE belongs to, from everything but its name."""

import json
from typing import Any

import pytest

from vae_core.families import (
    FAMILIES,
    MODELSPEC,
    detect_family,
    family_and_source,
    resolve_family,
    with_scaling,
)
from vae_core.header import CheckpointError

XL = ["conditioner.embedders.0.transformer.x", "model.diffusion_model.label_emb.0.0.weight"]


def test_the_published_constants() -> None:
    constants = {name: (f.latent_channels, f.scale, f.shift) for name, f in FAMILIES.items()}
    assert constants == {
        "sd1": (4, 0.18215, 0.0),
        "sdxl": (4, 0.13025, 0.0),
        "sd3": (16, 1.5305, 0.0609),
        "flux": (16, 0.3611, 0.1159),
        "playground25": (4, 0.5, 0.0),
        "unknown": (None, None, 0.0),
    }
    assert FAMILIES["playground25"].mean == (-1.6574, 1.886, -1.383, 2.5155)
    assert FAMILIES["playground25"].std == (8.4927, 5.9022, 6.5498, 5.2299)
    assert all(f.source.startswith("https://") for f in FAMILIES.values() if f.scale)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("sd1", "sd1"),
        ("SD15", "sd1"),
        ("sd-1.5", "sd1"),
        ("SD2.1", "sd1"),
        ("SDXL", "sdxl"),
        ("FLUX.1", "flux"),
        ("flux1", "flux"),
        ("Playground-2.5", "playground25"),
        ("playground v2.5", "playground25"),
        ("unknown", "unknown"),
    ],
)
def test_names_as_people_type_them(typed: str, name: str) -> None:
    assert resolve_family(typed) == name


@pytest.mark.parametrize(("typed", "near"), [("sdlx", "sdxl"), ("flx", "flux"), ("", "sd")])
def test_a_wrong_name_gets_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(CheckpointError, match=f"did you mean {near}"):
        resolve_family(typed)


@pytest.mark.parametrize(
    ("channels", "config", "metadata", "others", "family", "source"),
    [
        (4, {"scaling_factor": 0.18215}, {}, [], "sd1", "config.json"),
        (4, {"scaling_factor": 0.13025}, {}, [], "sdxl", "config.json"),
        (16, {"scaling_factor": 1.5305, "latent_channels": 16}, {}, [], "sd3", "config.json"),
        (16, {"scaling_factor": 0.3611, "latent_channels": 16}, {}, [], "flux", "config.json"),
        (
            4,
            {"scaling_factor": 0.5, "latents_mean": [1] * 4},
            {},
            [],
            "playground25",
            "config.json",
        ),
        (4, {"_class_name": "AutoencoderKL"}, {}, [], "sd1", "config.json"),
        (4, {"_class_name": "AutoencoderTiny"}, {}, [], "unknown", "not known"),
        (
            4,
            {"_class_name": "AutoencoderTiny", "scaling_factor": 1.0},
            {},
            [],
            "unknown",
            "not known",
        ),
        (16, {"latent_channels": 16}, {}, [], "unknown", "not known"),
        (4, {"scaling_factor": 0.7}, {}, [], "unknown", "not known"),
        (4, None, {"vae_lab.family": '"sdxl"'}, [], "sdxl", "the file's metadata"),
        (4, None, {"vae_lab.family": "sdxl"}, [], "sdxl", "the file's metadata"),
        (4, None, {"vae_lab.family": "/etc/passwd"}, [], "unknown", "not known"),
        (4, None, {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, [], "sdxl", None),
        (4, None, {"modelspec.architecture": "stable-diffusion-v2-512"}, [], "sd1", None),
        (16, None, {"modelspec.architecture": "Flux.1-dev"}, [], "flux", None),
        (16, None, {"modelspec.architecture": "stable-diffusion-3-medium"}, [], "sd3", None),
        (4, None, {}, XL, "sdxl", "the checkpoint's other keys"),
        (4, None, {}, ["edm_mean", *XL], "playground25", "the checkpoint's other keys"),
        (4, None, {}, [*XL, "edm_mean"], "playground25", "the checkpoint's other keys"),
        (4, None, {}, ["cond_stage_model.transformer.x"], "sd1", "the checkpoint's other keys"),
        (16, None, {}, ["model.diffusion_model.joint_blocks.0.x"], "sd3", None),
        (16, None, {}, ["model.diffusion_model.double_blocks.0.x"], "flux", None),
        (4, None, {}, ["something.else"], "unknown", "not known"),
        (16, None, {}, XL, "unknown", "not known"),
        (4, None, {}, [], "unknown", "not known"),
    ],
)
def test_detection(
    channels: int,
    config: dict[str, Any] | None,
    metadata: dict[str, str],
    others: list[str],
    family: str,
    source: str | None,
) -> None:
    found = family_and_source(channels, config, metadata, others)
    assert found[0] == family
    assert source in (None, found[1])
    assert detect_family(channels, config, metadata, others) == family


def test_a_taesd_files_own_scale_tells() -> None:
    assert family_and_source(4, None, {}, [], 0.13025) == ("sdxl", "the file's vae_scale")
    assert family_and_source(4, None, {}, [], 1.0)[0] == "unknown"


def test_what_we_write_as_architecture_is_recognised() -> None:
    for name, architecture in MODELSPEC.items():
        channels = FAMILIES[name].latent_channels
        assert detect_family(channels, None, {"modelspec.architecture": architecture}, []) == name


def test_the_config_gets_the_familys_constants() -> None:
    base = {"_class_name": "AutoencoderKL", "scaling_factor": 1.0, "shift_factor": None}
    flux = with_scaling(base, "flux")
    assert (flux["scaling_factor"], flux["shift_factor"]) == (0.3611, 0.1159)
    assert with_scaling(base, "sd1")["shift_factor"] is None
    playground = with_scaling(base, "playground25")
    assert json.dumps(playground["latents_std"]) == "[8.4927, 5.9022, 6.5498, 5.2299]"
    assert with_scaling(base, "unknown") == base
    tiny = {"_class_name": "AutoencoderTiny", "scaling_factor": 1.0}
    assert with_scaling(tiny, "sd1") == tiny
    assert base["scaling_factor"] == 1.0
