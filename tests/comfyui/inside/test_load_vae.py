"""Load VAE (any size): every file becomes an ordinary VAE whole, or a sentence."""

import json
import os
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

BUNDLED = "kl-f8-small (bundled)"
OPENED = []  # what this process opens; a hook cannot be taken off again
sys.addaudithook(lambda event, given: event == "open" and OPENED.append(str(given[0])))


@pytest.fixture
def folder(base):
    """models/vae, emptied again afterwards."""
    place = base / "models/vae"
    yield place
    for file in sorted(place.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()


@pytest.fixture
def load(node, run):
    return lambda name, **widgets: run(node("VAELabLoadVAE"), vae_name=name, **widgets)


@pytest.fixture(scope="module")
def bundled(node):
    import folder_paths

    (pack,) = (folder_paths.base_path + "/custom_nodes",)
    (found,) = [p for p in os.listdir(pack) if os.path.isdir(f"{pack}/{p}/models/kl-f8-small")]
    return load_file(f"{pack}/{found}/models/kl-f8-small/vae.safetensors")


def random_kl(ch=32, mult=(1, 2, 2), channels=4, colours=3, seed=0):
    """The tensors of ComfyUI's own AutoencoderKL, filled with small random numbers."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    shape = {"double_z": True, "z_channels": channels, "resolution": 256, "in_channels": colours}
    shape |= {"out_ch": colours, "ch": ch, "ch_mult": list(mult), "num_res_blocks": 1}
    model = AutoencoderKL(ddconfig=shape | {"attn_resolutions": []}, embed_dim=channels)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.ones_like(t)
        if "norm" in name
        else torch.randn(t.shape, generator=generator) / 20
        for name, t in model.state_dict().items()
    }


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def options_of(node):
    return node("VAELabLoadVAE").INPUT_TYPES()["required"]["vae_name"][1]["options"]


def test_the_list_holds_no_pickle(node, folder, base):
    for name in ("a.safetensors", "b.SFT", "c.ckpt", "d.pt", "e.bin", "f.pth", "deep/g.sft"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    checkpoints = base / "models/checkpoints"
    checkpoints.mkdir(exist_ok=True)
    (checkpoints / "sd.safetensors").write_bytes(b"x")
    (checkpoints / "old.ckpt").write_bytes(b"x")
    deep = os.path.join("deep", "g.sft")
    assert options_of(node) == [
        BUNDLED, "a.safetensors", "b.SFT", deep, "sd.safetensors (checkpoint)"
    ]  # fmt: skip
    for file in checkpoints.iterdir():
        file.unlink()


def test_the_bundled_vae_equals_comfyui_s_own_class_given_the_shape(load, vae):
    ours, info, scale, shift = load(BUNDLED)
    images, latent = torch.rand(2, 64, 48, 3), noise(2, 4, 6, 5)
    with torch.inference_mode():
        assert torch.equal(ours.encode(images), vae.encode(images))
        assert torch.equal(ours.decode(latent), vae.decode(latent))
    assert (scale, shift) == (0.18215, 0.0)
    assert "family: SD1 / SD2" in info and "runs in: float32" in info


def test_it_is_an_ordinary_vae(load):
    import comfy.model_management
    import comfy.sd

    ours = load(BUNDLED)[0]
    assert type(ours) is comfy.sd.VAE
    with torch.inference_mode():
        ours.decode(noise(1, 4, 4, 4))
    assert any(m.model is ours.patcher for m in comfy.model_management.current_loaded_models)


def test_a_vae_out_of_a_full_checkpoint(load, base, bundled):
    place = base / "models/checkpoints"
    place.mkdir(exist_ok=True)
    state = {f"first_stage_model.{name}": tensor for name, tensor in bundled.items()}
    state["model.diffusion_model.label_emb.0.0.weight"] = torch.zeros(3)
    save_file(state, place / "full.safetensors")
    found, info, scale, _ = load("full.safetensors (checkpoint)")
    latent = noise(1, 4, 4, 4)
    with torch.inference_mode():
        assert torch.equal(found.decode(latent), load(BUNDLED)[0].decode(latent))
    assert scale == 0.13025 and "family: SDXL (from the checkpoint's other keys)" in info
    assert "1 other tensors left unread" in info
    (place / "full.safetensors").unlink()


@pytest.mark.parametrize(("mult", "ratio"), [((1, 2), 2), ((1, 1, 2), 4), ((1, 1, 1, 1, 2), 16)])
def test_the_ratio_comes_from_the_vae(load, node, folder, mult, ratio):
    """Core's own nodes must find ratio and channels right: plain, tiled, for inpainting."""
    save_file(random_kl(mult=mult, channels=6), folder / "r.safetensors")
    found, info, *_ = load("r.safetensors")
    side = 8 * ratio
    images = torch.rand(1, side + 1, side, 3)
    with torch.inference_mode():
        latent = node("VAEEncode")().encode(found, images)[0]
        assert latent["samples"].shape == (1, 6, 8, 8)
        assert node("VAEDecode")().decode(found, latent)[0].shape == (1, side, side, 3)
        tiled = node("VAEDecodeTiled")().decode(found, latent, 64 * ratio, 0)[0]
        assert tiled.shape == (1, side, side, 3) and tiled.isfinite().all()
        mask = torch.zeros(1, side, side)
        inpaint = node("VAEEncodeForInpaint")().encode(found, images, mask, 0)[0]
        assert inpaint["samples"].shape == (1, 6, 8, 8)
    assert found.latent_channels == 6 and f"{ratio} x {ratio} pixels" in info


def test_a_grey_vae_takes_and_gives_colour_pictures(load, folder):
    save_file(random_kl(mult=(1, 1), colours=1), folder / "grey.safetensors")
    found, info, *_ = load("grey.safetensors")
    images = torch.rand(2, 16, 16, 3)
    luma = (images * torch.tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    with torch.inference_mode():
        latent = found.encode(images)
        same = found.encode(luma.expand(-1, -1, -1, 3))
        torch.testing.assert_close(latent, same, atol=1e-5, rtol=1e-4)
        decoded = found.decode(latent)
        tiled = found.decode_tiled(latent, tile_x=64, tile_y=64, overlap=8)
    assert decoded.shape == (2, 16, 16, 3) and torch.equal(decoded[..., 0], decoded[..., 2])
    assert tiled.shape == decoded.shape and "grey pictures" in info


def taesd():
    """Random weights of ComfyUI's own TAESD, without its two scalars."""
    from comfy.taesd.taesd import TAESD

    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in TAESD().state_dict().items()}
    return {
        name: torch.randn(shape, generator=generator) / 20
        for name, shape in shapes.items()
        if not name.startswith("vae_")
    }


@pytest.mark.parametrize(
    ("scalars", "family", "expected"),
    [
        ((0.18215, 0.0), "from the file", (0.18215, 0.0)),
        ((0.7, 0.125), "from the file", (0.7, 0.125)),
        ((0.18215, 0.0), "SDXL", (0.13025, 0.0)),
        ((), "SDXL", (0.13025, 0.0)),
        ((), "from the file", (1.0, 0.0)),
    ],
)
def test_taesd_as_core_loads_it(load, folder, scalars, family, expected):
    """Oracle: comfy.sd.VAE with the scalars beside it, as core's VAELoader.load_taesd does."""
    import comfy.sd

    names = ("vae_scale", "vae_shift")
    beside = {name: torch.tensor(value) for name, value in zip(names, scalars)}  # noqa: B905
    save_file(taesd() | beside, folder / "tae.safetensors")
    found, info, scale, _ = load("tae.safetensors", family=family)
    given = {name: torch.tensor(value) for name, value in zip(names, expected)}  # noqa: B905
    with torch.inference_mode():
        theirs = comfy.sd.VAE(sd=taesd() | given)
        images, latent = torch.rand(1, 32, 32, 3), noise(1, 4, 4, 4) * 4
        assert torch.equal(found.encode(images), theirs.encode(images))
        assert torch.equal(found.decode(latent), theirs.decode(latent))
    if expected == (1.0, 0.0):
        assert scale != scale and "as a diffusion model sees them" in info
    else:
        assert scale == pytest.approx(expected[0])


def without(start):
    return lambda state: {n: t for n, t in state.items() if not n.startswith(start)}


REFUSED = {
    "decoder alone": (without(("encoder.", "quant_conv.")), "holds only the decoder of a VAE"),
    "encoder alone": (without(("decoder.", "post_quant")), "holds only the encoder of a VAE"),
    "a tensor missing": (without("decoder.mid.block_1.conv1."), "is not a whole AutoencoderKL"),
    "VQ model": (lambda s: s | {"quantize.embedding.weight": torch.zeros(4, 4)}, "a VQ model"),
    "U-Net": (lambda s: {"model.diffusion_model.time_embed.0.weight": torch.zeros(1)}, "diffusion"),
    "LoRA": (lambda s: {"lora_unet_x.lora_up.weight": torch.zeros(1)}, "a LoRA"),
    "video": (
        lambda s: {"decoder.conv1.weight": torch.zeros(1, 1, 3, 3, 3)},
        "is a VAE for video; ComfyUI's own Load VAE",
    ),
    "FLUX.2": (lambda s: s | {"bn.running_mean": torch.zeros(16)}, "is FLUX.2's VAE"),
    "NaN": (
        lambda s: s | {"post_quant_conv.bias": torch.full((4,), torch.nan)},
        "holds 4 values that are NaN",
    ),
    "half a TAESD": (lambda s: {"1.weight": torch.zeros(1), "3.conv.0.weight": torch.zeros(1)},
                     "one half of a TAESD"),
    "nothing": (lambda s: {}, "no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_whole_vae_for_pictures_is_refused_in_a_sentence(load, folder, bundled, kind):
    make, words = REFUSED[kind]
    save_file(make(dict(bundled)), folder / "x.safetensors")
    with pytest.raises(ValueError, match=rf"^Load VAE \(any size\): 'x.safetensors' .*{words}"):
        load("x.safetensors")


def test_a_truncated_file_is_refused(load, folder, bundled):
    save_file(bundled, folder / "cut.safetensors")
    whole = (folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="'cut.safetensors' is cut off"):
        load("cut.safetensors")


class Bomb:
    """A pickle that leaves a mark where it is opened."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_a_pickle_under_another_name_is_not_opened(load, folder, tmp_path, write):
    file = folder / "evil.safetensors"
    bomb = Bomb(tmp_path / "marker")
    file.write_bytes(pickle.dumps(bomb)) if write == "pickle" else torch.save(bomb, file)
    with pytest.raises(ValueError, match="a PyTorch pickle"):
        load("evil.safetensors")
    assert not (tmp_path / "marker").exists()


def test_tensors_that_comfyui_would_only_log_are_refused(node, vae):
    module = sys.modules[node("VAELabLoadVAE").__module__]
    state = dict(vae.first_stage_model.state_dict())
    module.check_whole(vae, state)
    state.pop("post_quant_conv.bias")
    with pytest.raises(ValueError, match="1 tensors differ, such as 'post_quant_conv.bias'"):
        module.check_whole(vae, state)


HOSTILE = ["../x.safetensors", "/etc/passwd", "..\\x", "C:\\x.safetensors", "a\0b", "x" * 5000]
HOSTILE += ["", ".", ["a"], {"__value__": "a"}, None, 3, " (checkpoint)", "x (bundled)"]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: str(name)[:12].replace("\0", "0"))
def test_a_name_that_is_not_on_the_list_opens_nothing(load, node, base, name):
    load(BUNDLED)
    OPENED.clear()
    with pytest.raises(ValueError, match=r"^Load VAE \(any size\): expected a .safetensors file"):
        load(name)
    assert node("VAELabLoadVAE").fingerprint_inputs(vae_name=name, family="from the file") == ""
    assert [path for path in OPENED if "site-packages" not in path] == []


def test_core_s_own_check_of_the_list_is_left_on(node):
    from comfy_api.internal import first_real_override

    assert first_real_override(node("VAELabLoadVAE"), "validate_inputs") is None


def test_a_replaced_file_is_loaded_again(node, folder, bundled):
    mark = node("VAELabLoadVAE").fingerprint_inputs
    save_file(bundled, folder / "v.safetensors")
    first = mark(vae_name="v.safetensors", family="from the file")
    assert first and first == mark(vae_name="v.safetensors", family="from the file")
    os.utime(folder / "v.safetensors", ns=(1, 1))
    second = mark(vae_name="v.safetensors", family="from the file")
    save_file(bundled | {"post_quant_conv.bias": torch.ones(4)}, folder / "v.safetensors")
    assert len({first, second, mark(vae_name="v.safetensors", family="from the file")}) == 3


def test_a_diffusers_file_takes_the_config_beside_it(load, node, folder, bundled):
    place = folder / "mine"
    place.mkdir()
    file = place / "diffusion_pytorch_model.safetensors"
    save_file(random_kl(), file)
    levels = 3
    config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": 1,
        "latent_channels": 4,
        "scaling_factor": 0.13025,
    }
    name = os.path.join("mine", file.name)
    before = node("VAELabLoadVAE").fingerprint_inputs(vae_name=name)
    (place / "config.json").write_text(json.dumps(config))
    assert node("VAELabLoadVAE").fingerprint_inputs(vae_name=name) != before
    _, info, scale, _ = load(name)
    assert scale == 0.13025 and "family: SDXL (from config.json)" in info
    for text in ("[]", "{", "[" * 99999):
        (place / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json beside"):
            load(name)


def test_a_family_of_other_channels_is_refused(load):
    with pytest.raises(ValueError, match="has 4 latent channels, and FLUX.1 has 16"):
        load(BUNDLED, family="FLUX.1")
    with pytest.raises(ValueError, match="expected a family of the list"):
        load(BUNDLED, family="SD9")


def test_names_and_texts_that_carry_html_stay_plain_text(load, folder, bundled):
    bad = "<img src=x onerror=1>"
    save_file(bundled, folder / f"{bad}.safetensors", {"modelspec.title": bad + "\n\x1b[0m"})
    info = load(f"{bad}.safetensors")[1]
    assert info.splitlines()[0] == f"{bad}.safetensors: {bad}??[0m"


def test_loading_leaves_nothing_behind_and_wants_no_gradient(load, base):
    before = {str(file) for file in base.rglob("*") if "__pycache__" not in str(file)}
    found = load(BUNDLED)[0]
    assert {str(file) for file in base.rglob("*") if "__pycache__" not in str(file)} == before
    with torch.inference_mode():
        assert not found.decode(noise(1, 4, 2, 2)).requires_grad
