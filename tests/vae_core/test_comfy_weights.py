"""What ComfyUI's classes take, made of files: shapes it knows, identities, kinds it has no way for.

That the result decodes as diffusers does is shown in a real ComfyUI (tests/comfyui).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image

from vae_core.checkpoint import write_safetensors
from vae_core.comfy_weights import comfy_weights, is_usual, other_kind, read_for_comfy, taesd_shift
from vae_core.header import CheckpointError, Header, TensorInfo
from vae_core.keys import to_ldm, to_taesd
from vae_core.scaling import Scaling
from vae_core.vae_config import architecture_from_config

SMALL = {"block_out_channels": (32, 64, 64), "layers_per_block": 1}
SD = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}


def kl(**fields: object) -> AutoencoderKL:
    shape = SMALL | fields
    levels = len(shape["block_out_channels"])
    types = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(**types, **shape)


def saved(path: Path, state: dict[str, torch.Tensor], **metadata: str) -> Path:
    write_safetensors(path, state, metadata)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vae.safetensors"


def architecture(**fields: object) -> dict:
    levels = len(fields["block_out_channels"])
    types = {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    return architecture_from_config({"_class_name": "AutoencoderKL", **types, **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (SD, True),
        ({**SD, "use_quant_conv": False, "use_post_quant_conv": False}, True),
        ({**SD, "latent_channels": 16}, True),
        ({"block_out_channels": [128, 256, 512], "layers_per_block": 2}, True),
        ({**SD, "use_quant_conv": False}, False),
        ({**SD, "latent_channels": 64}, False),
        ({**SD, "layers_per_block": 1}, False),
        ({**SD, "in_channels": 1, "out_channels": 1}, False),
        ({"block_out_channels": [32, 64], "layers_per_block": 2}, False),
        (
            {**SD, "down_block_types": ["AttnDownEncoderBlock2D"] + ["DownEncoderBlock2D"] * 3},
            False,
        ),
    ],
)
def test_only_shapes_that_comfyui_finds_out_go_without_one(fields: dict, expected: bool) -> None:
    assert is_usual(architecture(**fields)) is expected


@pytest.mark.parametrize("old_names", [False, True])
def test_a_small_vae_gets_its_shape_and_ldm_keys(file: Path, old_names: bool) -> None:
    vae = kl(latent_channels=3)
    state = dict(vae.state_dict())
    if old_names:
        new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for ours, old in new.items():
            state = {name.replace(f".{ours}.", f".{old}."): t for name, t in state.items()}
    found = comfy_weights(read_for_comfy(saved(file, state)))
    assert (found.latent_channels, found.ratio, found.width) == (3, 4, 32)
    assert found.config["params"]["embed_dim"] == 3
    expected = to_ldm(vae.state_dict())
    assert found.state.keys() == expected.keys()
    assert all(torch.equal(found.state[name], expected[name]) for name in expected)


def test_quant_convs_that_are_not_there_change_nothing(file: Path) -> None:
    vae = kl(use_quant_conv=False, use_post_quant_conv=False)
    found = comfy_weights(read_for_comfy(saved(file, vae.state_dict())))
    for name, channels in (("quant_conv", 8), ("post_quant_conv", 4)):
        values = torch.randn(2, channels, 3, 3, generator=torch.Generator().manual_seed(0))
        weight, bias = (found.state[f"{name}.{part}"] for part in ("weight", "bias"))
        assert torch.equal(torch.nn.functional.conv2d(values, weight, bias), values)


def test_one_quant_conv_stays_as_it_is(file: Path) -> None:
    vae = kl(use_post_quant_conv=False)
    found = comfy_weights(read_for_comfy(saved(file, vae.state_dict())))
    assert torch.equal(found.state["quant_conv.weight"], vae.quant_conv.weight)
    assert torch.equal(found.state["post_quant_conv.weight"][..., 0, 0], torch.eye(4))


def test_a_grey_vae_becomes_one_of_colour_that_sees_the_luma(file: Path) -> None:
    """Oracle: Pillow's own conversion to grey, rounded to bytes; and the grey VAE itself."""
    state = kl(in_channels=1, out_channels=1).state_dict()
    found = comfy_weights(read_for_comfy(saved(file, state)))
    assert found.config["params"]["ddconfig"]["in_channels"] == 3
    picture = torch.randint(0, 256, (9, 7, 3), generator=torch.Generator().manual_seed(0))
    grey = Image.fromarray(picture.byte().numpy()).convert("L")
    colour_pixels = (picture / 127.5 - 1).movedim(-1, 0)[None]
    grey_pixels = (torch.from_numpy(np.array(grey)) / 127.5 - 1)[None, None]
    weight, bias = state["encoder.conv_in.weight"], state["encoder.conv_in.bias"]
    given = torch.nn.functional.conv2d(
        colour_pixels, found.state["encoder.conv_in.weight"], bias, padding=1
    )
    expected = torch.nn.functional.conv2d(grey_pixels, weight, bias, padding=1)
    a_level = 0.5 / 127.5 * float(weight.abs().sum((1, 2, 3)).max()) * 1.2
    torch.testing.assert_close(given, expected, atol=a_level, rtol=0)
    for part in ("weight", "bias"):
        tripled = found.state[f"decoder.conv_out.{part}"]
        assert len(tripled) == 3
        assert all(torch.equal(one, state[f"decoder.conv_out.{part}"][0]) for one in tripled)


def test_taesd_gets_the_scalars_between_raw_and_model_latents(file: Path) -> None:
    state = {**to_taesd(AutoencoderTiny().state_dict()), "vae_shift": torch.tensor(0.25)}
    read = read_for_comfy(saved(file, state))
    found = comfy_weights(read, Scaling(0.5, 0.25))
    assert float(found.state["vae_scale"]) == 0.5 and float(found.state["vae_shift"]) == 0.25
    assert (found.config, found.latent_channels, found.ratio) == (None, 4, 8)
    assert taesd_shift(file) == 0.25


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: kl(in_channels=4, out_channels=4), "takes pictures of 4 channels"),
        (lambda: kl(in_channels=1, out_channels=3), "takes pictures of 1 channels and gives 3"),
        (lambda: kl(mid_block_add_attention=False), "does not have the shape"),
        (lambda: kl(block_out_channels=(64, 96)), "does not have the shape"),
        (
            lambda: AutoencoderTiny(
                encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
            ),
            r"does not have the shape of TAESD.*\[8, 8, 8, 8\] instead of \[64",
        ),
    ],
)
def test_what_no_class_of_comfyui_holds_is_refused(file: Path, model: object, words: str) -> None:
    read = read_for_comfy(saved(file, model().state_dict()))
    with pytest.raises(CheckpointError, match=f"^{words}"):
        comfy_weights(read)


def header(**shapes: tuple[int, ...]) -> Header:
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return Header({name: TensorInfo("F32", shape, 0, 0) for name, shape in names.items()}, {})


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"decoder__conv1__weight": (384, 16, 3, 3, 3)}, "video"),
        ({"first_stage_model__decoder__conv_in__weight": (4, 4, 3, 3, 3)}, "video"),
        ({"bn__running_mean": (128,), "decoder__conv_in__weight": (4, 4, 3, 3)}, "FLUX.2"),
        ({"decoder__layers__1__layers__0__beta": (9,)}, "sound"),
        ({"decoder__22__bias": (3,)}, "TAEHV"),
        ({"decoder__up_blocks__0__1__conv__weight": (4, 4, 3, 3)}, "DC-AE"),
    ],
)
def test_other_kinds_of_vae_are_called_by_name(shapes: dict, words: str) -> None:
    assert words in other_kind(header(**shapes))


def test_a_video_model_beside_a_vae_for_pictures_does_not_count(file: Path) -> None:
    state = {f"first_stage_model.{name}": t for name, t in kl().state_dict().items()}
    state["model.diffusion_model.patch.weight"] = torch.zeros(1, 1, 1, 1, 1)
    read = read_for_comfy(saved(file, state))
    assert read.other_keys == ["model.diffusion_model.patch.weight"]
    assert comfy_weights(read).latent_channels == 4


def test_a_video_vae_is_sent_to_the_node_that_takes_it(file: Path) -> None:
    saved(file, {"decoder.conv1.weight": torch.zeros(1, 1, 3, 3, 3)})
    with pytest.raises(CheckpointError, match="^'vae.safetensors' is a VAE for video; .*Load VAE"):
        read_for_comfy(file)
