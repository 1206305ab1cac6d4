"""Every key layout there and back again, and held against diffusers' own conversion."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor, nn

from vae_core.header import CheckpointError
from vae_core.keys import to_diffusers, to_ldm, to_taesd, vae_tensors

SD = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
LAYOUTS = {
    "sd": SD,
    "flux": {**SD, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    "small": {"block_out_channels": (32, 64, 96), "layers_per_block": 1, "latent_channels": 3},
    "odd": {"block_out_channels": (5, 15, 10, 10, 20), "layers_per_block": 3, "norm_num_groups": 5},
    "deep": {"block_out_channels": (4,) * 11, "layers_per_block": 1, "norm_num_groups": 2},
    "grey": {
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "in_channels": 1,
        "out_channels": 1,
    },
    "no attention": {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    },
    "kl-f16 attention": {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "attends": (False, True),
    },
}


def kl(attends: tuple[bool, ...] = (), **fields: object) -> AutoencoderKL:
    levels = len(fields["block_out_channels"])
    attends = attends or (False,) * levels
    down = tuple("Attn" * yes + "DownEncoderBlock2D" for yes in attends)
    up = tuple("Attn" * yes + "UpDecoderBlock2D" for yes in attends[::-1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(down_block_types=down, up_block_types=up, **fields)


def meta_kl(**fields: object) -> AutoencoderKL:
    with torch.device("meta"):
        return kl(**fields)


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_shapes_survive_the_way_to_ldm_and_back(layout: str) -> None:
    state = meta_kl(**LAYOUTS[layout]).state_dict()
    there = to_ldm(state)
    assert vae_tensors(there).layout == "ldm"
    assert not any("blocks" in name or "to_" in name for name in there)
    assert shapes(to_diffusers(there, "ldm")) == shapes(state)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("sd", "flux")])
def test_values_survive_byte_for_byte_and_as_diffusers_converts(layout: str) -> None:
    fields = LAYOUTS[layout]
    state = {name: tensor.half() for name, tensor in kl(**fields).state_dict().items()}
    ldm = to_ldm(state)
    assert all(tensor.is_contiguous() for tensor in ldm.values())
    back = to_diffusers(ldm, "ldm")
    again = to_ldm(back)
    assert list(again) == list(ldm)
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert all(torch.equal(again[name], ldm[name]) for name in ldm)
    # diffusers' converter does not know attention in the levels, and takes level 10 for level 1
    if layout not in ("kl-f16 attention", "deep"):
        config = {"down_block_types": fields["block_out_channels"]}
        config["up_block_types"] = fields["block_out_channels"]
        theirs = convert_ldm_vae_checkpoint(dict(ldm), config)
        assert set(theirs) == set(state)
        assert all(torch.equal(theirs[name], state[name]) for name in state)


def test_the_full_layout_of_sd_survives_byte_for_byte() -> None:
    """248 tensors, 83,653,863 parameters, of random bits in half precision."""
    generator, state = torch.Generator().manual_seed(0), {}
    for name, tensor in meta_kl(**SD).state_dict().items():
        bits = torch.empty(tensor.shape, dtype=torch.int16).random_(generator=generator)
        state[name] = bits.view(torch.float16)
    ldm = to_ldm(state)
    assert len(ldm) == 248
    assert sum(tensor.numel() for tensor in ldm.values()) == 83_653_863
    config = {"down_block_types": [0] * 4, "up_block_types": [0] * 4}
    for back in (to_diffusers(ldm, "ldm"), convert_ldm_vae_checkpoint(dict(ldm), config)):
        assert set(back) == set(state)
        for name, tensor in state.items():
            assert torch.equal(back[name].view(torch.int16), tensor.view(torch.int16)), name


def test_ldm_names_and_shapes_are_those_of_the_published_files() -> None:
    ldm = shapes(to_ldm(meta_kl(**SD).state_dict()))
    assert ldm["decoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert ldm["encoder.mid.attn_1.proj_out.bias"] == (512,)
    assert ldm["decoder.up.3.upsample.conv.weight"] == (512, 512, 3, 3)
    assert ldm["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert ldm["decoder.up.1.block.0.nin_shortcut.weight"] == (256, 512, 1, 1)
    assert ldm["encoder.down.0.downsample.conv.weight"] == (128, 128, 3, 3)
    assert ldm["encoder.down.1.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert ldm["encoder.norm_out.weight"] == (512,)
    assert ldm["decoder.norm_out.weight"] == (128,)
    assert ldm["quant_conv.weight"] == (8, 8, 1, 1)
    assert "decoder.up.0.upsample.conv.weight" not in ldm
    assert "encoder.down.3.downsample.conv.weight" not in ldm


def test_decode_after_the_way_there_and_back_is_the_same() -> None:
    vae = kl(**LAYOUTS["small"]).eval()
    other = kl(**LAYOUTS["small"]).eval()
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(to_diffusers(to_ldm(vae.state_dict()), "ldm"))
    latent = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(other.decode(latent).sample, vae.decode(latent).sample)


# Attention's many names


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_names(state: dict[str, Tensor], ones: int) -> dict[str, Tensor]:
    """Rename as diffusers before 0.17, with `ones` dimensions of size 1 on the weights."""
    result = {}
    for name, tensor in state.items():
        for new, old in OLD.items():
            if f".{new}." in name:
                name = name.replace(f".{new}.", f".{old}.")
                if name.endswith("weight"):
                    tensor = tensor.reshape(*tensor.shape, *(1,) * ones)
        result[name] = tensor
    return result


@pytest.mark.parametrize("ones", [0, 1, 2])
def test_old_attention_names_are_understood(ones: int) -> None:
    state = kl(**LAYOUTS["kl-f16 attention"]).state_dict()
    old = old_names(state, ones)
    assert any("proj_attn" in name for name in old)
    back = to_diffusers(old, vae_tensors(old).layout)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_ldm_attention_without_1x1_dimensions_is_understood() -> None:
    state = kl(**LAYOUTS["small"]).state_dict()
    flat = {
        n: t.flatten(1) if ".attn_1." in n and t.ndim == 4 else t for n, t in to_ldm(state).items()
    }
    back = to_diffusers(flat, "ldm")
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_old_and_new_attention_names_together_are_refused() -> None:
    state = meta_kl(**LAYOUTS["small"]).state_dict()
    with pytest.raises(CheckpointError, match="same tensor twice"):
        to_diffusers({**state, **old_names(state, 0)}, "diffusers")


# TAESD


class Clamp(nn.Module):
    def forward(self, latent: Tensor) -> Tensor:
        return torch.tanh(latent / 3) * 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        conv = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Taesd(nn.Module):
    """The published network, where ComfyUI expects its two halves."""

    def __init__(self) -> None:
        super().__init__()

        def level(blocks: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(64, 64, 3, stride, 1, bias=False)
            rest = [Block() for _ in range(blocks)]
            return [conv, *rest] if stride == 2 else [*rest, nn.Upsample(scale_factor=2), conv]

        first, last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 4, 3, padding=1)
        down = [*level(3, 2), *level(3, 2), *level(3, 2)]
        self.taesd_encoder = nn.Sequential(first, Block(), *down, last)
        first, last = nn.Conv2d(4, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        up = [*level(3, 1), *level(3, 1), *level(3, 1)]
        self.taesd_decoder = nn.Sequential(Clamp(), first, nn.ReLU(), *up, Block(), last)


@pytest.fixture(scope="module")
def tiny() -> AutoencoderTiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny().eval()


def test_taesd_keys_fit_the_published_network_and_decode_the_same(tiny: AutoencoderTiny) -> None:
    published = Taesd().eval()
    state = to_taesd(tiny.state_dict())
    published.load_state_dict(state, strict=True)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        latent = published.taesd_encoder(pixels / 2 + 0.5)
        assert torch.allclose(latent, tiny.encode(pixels).latents, atol=1e-6)
        decoded = published.taesd_decoder(latent) * 2 - 1
        assert torch.allclose(decoded, tiny.decode(latent).sample, atol=1e-5)


def test_taesd_keys_survive_the_way_back_and_lose_comfys_scalars(tiny: AutoencoderTiny) -> None:
    state = tiny.state_dict()
    file = {**to_taesd(state), "vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
    assert vae_tensors(file).layout == "taesd"
    assert vae_tensors(state).layout == "tiny-diffusers"
    back = to_diffusers(file, "taesd")
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


# Finding the VAE


def small_ldm() -> list[str]:
    return list(to_ldm(meta_kl(**LAYOUTS["small"]).state_dict()))


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_the_vae_is_found_alone_and_inside_a_checkpoint(prefix: str) -> None:
    names = [prefix + name for name in small_ldm()]
    beside = ["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.transformer.x"]
    beside += [f"{prefix}loss.logvar", "model_ema.decay", f"{prefix}model_ema.decay"]
    found = vae_tensors([*beside, *names])
    assert found.layout == "ldm"
    assert found.names == {prefix + name: name for name in small_ldm()}


@pytest.mark.parametrize(
    "extra", ["loss.logvar", "loss.discriminator.main.0.bias", "model_ema.decay"]
)
def test_what_ldm_training_leaves_in_the_file_is_ignored(extra: str) -> None:
    assert extra not in vae_tensors([extra, *small_ldm()]).names


def test_strange_keys_beside_a_lone_vae_are_kept_for_the_shape_check_to_refuse() -> None:
    assert "bn.running_mean" in vae_tensors(["bn.running_mean", *small_ldm()]).names


@pytest.mark.parametrize("name", ["decoder.conv_in.weight", "quant_conv.bias"])
def test_one_tensor_with_and_without_prefix_is_enough_to_refuse(name: str) -> None:
    names = [f"first_stage_model.{n}" for n in small_ldm()]
    vae_tensors(["encoder.of.something.else", *names])
    with pytest.raises(
        CheckpointError, match="two VAEs, under 'first_stage_model.' and 'no prefix'"
    ):
        vae_tensors([name, *names])


REFUSED = {
    "a LoRA": ["lora_unet_down_blocks_0.lora_down.weight", "lora_te_text_model.lora_up.weight"],
    "a LoRA ": ["decoder.up_blocks.0.resnets.0.conv1.lora_A.weight"],
    "a VQ model": [*small_ldm(), "quantize.embedding.weight"],
    "a VQ model ": [f"first_stage_model.{n}" for n in (*small_ldm(), "quantize.embedding.weight")],
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
    "a diffusion model": ["model.diffusion_model.input_blocks.0.0.weight"],
    "a diffusion model ": [
        "down_blocks.0.attentions.0.proj_in.weight",
        "time_embedding.linear_1.bias",
    ],
    "a diffusion model  ": ["double_blocks.0.img_attn.qkv.weight"],
    "a text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight"],
    "a text encoder ": ["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"],
    "one half of a TAESD": ["1.weight", "3.conv.0.weight"],
    "weights of a perceptual loss": ["features.0.weight", "lin0.model.1.weight"],
    "no VAE: 2 tensors such as 'a', 'b'": ["b", "a"],
    "no tensors at all": [],
    "only the decoder of a VAE": [n for n in small_ldm() if n.startswith("decoder.")],
    "only the encoder of a VAE": [n for n in small_ldm() if n.startswith("encoder.")],
    "only the decoder of a VAE ": ["taesd_decoder.1.weight"],
    "two VAEs, under 'first_stage_model.' and 'no prefix'": [
        *small_ldm(),
        *(f"first_stage_model.{name}" for name in small_ldm()),
    ],
    "two VAEs, under 'first_stage_model.' and 'vae.'": [
        f"{prefix}.{name}" for name in small_ldm() for prefix in ("first_stage_model", "vae")
    ],
    "two key layouts, diffusers and ldm": [
        *small_ldm(),
        "decoder.up_blocks.0.resnets.0.conv1.bias",
    ],
    "two key layouts, ldm and taesd": [*small_ldm(), "taesd_decoder.1.weight"],
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_one_whole_vae_is_refused_by_its_name(words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        vae_tensors(REFUSED[words])
    assert words.strip() in str(caught.value)
    assert "take" in str(caught.value) or "get it again" in str(caught.value)
