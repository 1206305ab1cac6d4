"""An architecture out of shapes and metadata, exactly, or a refusal that names what is wrong."""

import json
import random
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from vae_core.architecture import (
    architecture_from,
    architecture_from_config,
    check_state,
    comfy_config,
    state_shapes,
)
from vae_core.header import CheckpointError

SD = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
KL: dict[str, dict[str, Any]] = {
    "sd": SD,
    "flux": {**SD, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    "small": {"block_out_channels": [32, 64, 96, 128], "layers_per_block": 1},
    "one level": {"block_out_channels": [32], "layers_per_block": 1},
    "deep": {"block_out_channels": [32, 32, 64, 32, 64], "layers_per_block": 4},
    "channels": {"block_out_channels": [32, 64], "in_channels": 1, "out_channels": 5},
    "no attention": {"block_out_channels": [32, 64], "mid_block_add_attention": False},
    "attention": {
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    },
    "groups": {"block_out_channels": [6, 12], "norm_num_groups": 3, "act_fn": "mish"},
}
TINY: dict[str, dict[str, Any]] = {
    "taesd": {},
    "taesd3": {"latent_channels": 16},
    "thin": {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [16] * 4},
    "short": {
        "encoder_block_out_channels": [8] * 2,
        "decoder_block_out_channels": [8] * 3,
        "num_encoder_blocks": [0, 2],
        "num_decoder_blocks": [1, 0, 2],
        "in_channels": 1,
        "out_channels": 2,
    },
}


def config_of(kind: str) -> dict[str, Any]:
    if kind in TINY:
        return {"_class_name": "AutoencoderTiny", **TINY[kind]}
    levels = len(KL[kind]["block_out_channels"])
    types = {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    return {"_class_name": "AutoencoderKL", **types, **KL[kind]}


def shapes_of(kind: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the real model, built without memory."""
    config = config_of(kind)
    name = config.pop("_class_name")
    with torch.device("meta"):
        model = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}[name](**config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", [*KL, *TINY])
def test_the_tensors_listed_are_those_of_the_real_model(kind: str) -> None:
    assert state_shapes(architecture_from_config(config_of(kind))) == shapes_of(kind)


@pytest.mark.parametrize("kind", [kind for kind in (*KL, *TINY) if kind != "groups"])
def test_shapes_alone_give_the_architecture(kind: str) -> None:
    found = architecture_from(shapes_of(kind), {})
    wanted = architecture_from_config({"scaling_factor": 1.0, **config_of(kind)})
    assert found == wanted
    check_state(shapes_of(kind), found)


def test_what_shapes_do_not_show_comes_from_our_metadata() -> None:
    wanted = architecture_from_config(config_of("groups"))
    shapes = shapes_of("groups")
    assert architecture_from(shapes, {"vae_lab.architecture": json.dumps(wanted)}) == wanted
    with pytest.raises(CheckpointError, match="can not part into 32 groups.*norm_num_groups"):
        architecture_from(shapes, {})


def test_without_metadata_no_scaling_is_claimed() -> None:
    """The class's default, 0.18215, would pass any VAE off as SD1's."""
    assert architecture_from(shapes_of("small"), {})["scaling_factor"] == 1.0


def test_metadata_that_contradicts_the_tensors_is_refused() -> None:
    stated = {**architecture_from_config(config_of("small")), "latent_channels": 16}
    with pytest.raises(CheckpointError, match="says latent_channels = 16, its tensors say 4"):
        architecture_from(shapes_of("small"), {"vae_lab.architecture": json.dumps(stated)})


@pytest.mark.parametrize("text", ["{", "[]", "3", '"x"', "[" * 100_000])
def test_damaged_metadata_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="damaged vae_lab.architecture"):
        architecture_from(shapes_of("small"), {"vae_lab.architecture": text})


# Exact keys and shapes


@pytest.mark.parametrize("kind", ["small", "thin"])
def test_each_key_that_is_missing_is_noticed(kind: str) -> None:
    shapes, architecture = shapes_of(kind), architecture_from_config(config_of(kind))
    for name in shapes:
        rest = {key: value for key, value in shapes.items() if key != name}
        with pytest.raises(CheckpointError, match=rf"1 missing \({name}\)"):
            check_state(rest, architecture)


@pytest.mark.parametrize("kind", ["small", "thin", "flux"])
def test_a_file_that_lacks_any_key_is_refused_whatever_its_shapes_suggest(kind: str) -> None:
    shapes = shapes_of(kind)
    for name in shapes:
        rest = {key: value for key, value in shapes.items() if key != name}
        with pytest.raises(CheckpointError):
            check_state(rest, architecture_from(rest, {}))


def test_wrong_shapes_and_strangers_are_named() -> None:
    shapes = dict(shapes_of("small"))
    shapes["bn.running_mean"] = (4,)
    shapes["decoder.conv_out.weight"] = (3, 32, 1, 1)
    words = (
        r"1 unexpected \(bn.running_mean\), 1 misshapen \(decoder.conv_out.weight is "
        r"\[3, 32, 1, 1\] instead of \[3, 32, 3, 3\]\)"
    )
    with pytest.raises(CheckpointError, match=words):
        check_state(shapes, architecture_from_config(config_of("small")))


def test_random_shapes_never_crash() -> None:
    generator, shapes = random.Random(0), shapes_of("small")
    for _ in range(500):
        odd = dict(shapes)
        for name in generator.sample(list(odd), 3):
            odd[name] = tuple(generator.choice((0, 1, 3, 32, 2**40)) for _ in odd[name][1:])
        try:
            check_state(odd, architecture_from(odd, {}))
        except CheckpointError:
            continue
        assert odd == shapes


# Configs from outside


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "describes 'UNet2DConditionModel'"),
        ({"_class_name": "VQModel"}, "describes 'VQModel'"),
        ({"_class_name": None}, "describes 'None'"),
        ({"_class_name": 5}, "describes '5'"),
        ({"block_out_channels": [2**20] * 4}, "at most 8192 is allowed"),
        ({"block_out_channels": [8192] * 4}, "parameters; a VAE of at most"),
        ({"block_out_channels": []}, "block_out_channels a value that makes no sense"),
        ({"block_out_channels": [32] * 50}, "makes no sense"),
        ({"block_out_channels": "many"}, "makes no sense"),
        ({"block_out_channels": [32, 64]}, "different number of levels"),
        ({"block_out_channels": [32, 64, 96, 0]}, "can not be 0"),
        ({"block_out_channels": [32, True, 64, 64]}, "makes no sense"),
        ({"layers_per_block": 10**9}, "at most 32 is allowed"),
        ({"latent_channels": -4}, "at most 8192 is allowed"),
        ({"latent_channels": 4.5}, "latent_channels a value that makes no sense"),
        ({"norm_num_groups": 0}, "groups"),
        ({"norm_num_groups": 5}, "can not part into 5 groups"),
        ({"scaling_factor": float("nan")}, "scaling_factor a value that makes no sense"),
        ({"act_fn": "tanh"}, "the activation 'tanh'"),
        ({"down_block_types": ["CrossAttnDownBlock2D"] * 4}, "a block 'CrossAttnDownBlock2D'"),
    ],
)
def test_a_config_that_can_not_be_built_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        architecture_from_config({**config_of("small"), **change})


def test_a_tiny_config_of_several_widths_is_refused() -> None:
    config = {**config_of("thin"), "encoder_block_out_channels": [8, 16, 8, 8]}
    with pytest.raises(CheckpointError, match="all must be the same width"):
        architecture_from_config(config)


def test_a_null_field_means_its_default() -> None:
    config = {**config_of("small"), "force_upcast": None, "mid_block_add_attention": None}
    assert architecture_from_config(config) == architecture_from_config(config_of("small"))


def test_private_and_unknown_fields_are_dropped() -> None:
    config = {**config_of("small"), "_name_or_path": "/home/me", "decay": 0.999, "power": 1}
    assert architecture_from_config(config) == architecture_from_config(config_of("small"))


# ComfyUI


def test_comfyui_gets_the_shape_it_wants() -> None:
    sd = comfy_config(architecture_from_config(config_of("sd")))["params"]
    assert sd["embed_dim"] == 4
    assert sd["ddconfig"] == {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    small = comfy_config(architecture_from_config(config_of("small")))["params"]["ddconfig"]
    assert (small["ch"], small["ch_mult"]) == (32, [1, 2, 3, 4])
    attends = comfy_config(architecture_from_config(config_of("attention")))["params"]["ddconfig"]
    assert attends["attn_resolutions"] == [128]


@pytest.mark.parametrize("kind", ["groups", "no attention", "taesd"])
def test_what_comfyui_can_not_hold_is_refused(kind: str) -> None:
    with pytest.raises(CheckpointError, match="ComfyUI's VAE class"):
        comfy_config(architecture_from_config(config_of(kind)))
