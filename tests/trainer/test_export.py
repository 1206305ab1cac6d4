"""Both forms of an export, read back by loaders that are not ours."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.vae import export, forms
from trainer.vae.autoencoder import DECODER_PREFIXES, build, decode, encode
from trainer.vae.base import Base, load_base
from trainer.vae.export import Exported, export_run
from trainer.vae.swap import recover, replace_folder

CONFIGS = {
    "kl": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
    "tiny": {
        "_class_name": "AutoencoderTiny",
        "encoder_block_out_channels": [8] * 3,
        "decoder_block_out_channels": [8] * 3,
        "num_encoder_blocks": [1, 1, 1],
        "num_decoder_blocks": [1, 1, 1],
    },
}
CONFIGS["flux"] = {
    **CONFIGS["kl"],
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
}
TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPTIONS = {
    "vae": "/home/me/my vaes/base.safetensors",
    "data": "C:\\Users\\me\\photos",
    "output": "/home/me/runs/1",
    "resume": True,
    "resolution": 256,
    "lpips_net": "vgg",
}
REPORT = {"psnr": 28.5, "lpips": float("nan"), "where": "/home/me/photo.jpg"}
Tuned = Callable[..., Base]


@pytest.fixture
def tuned(tmp_path: Path) -> Tuned:
    """Return a base whose decoder has since moved."""

    def make(kind: str = "kl", family: str | None = None) -> Base:
        path = tmp_path / "base" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(CONFIGS[kind]))
        base = load_base(str(path), family)
        with torch.no_grad():
            for name, parameter in base.vae.named_parameters():
                if name.startswith(DECODER_PREFIXES):
                    parameter.add_(0.01)
        return base

    return make


def probe() -> Tensor:
    return torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(5)) * 2 - 1


def run(base: Base, folder: Path, dtype: str = "fp32", **changes: Any) -> Exported:
    options = {"config": OPTIONS, "report": REPORT, "trained": "decoder", **changes}
    return export_run(base.vae, base, folder, dtype, probe(), **options)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What is written


@torch.no_grad()
@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("kind", ["kl", "flux"])
def test_both_forms_decode_as_the_model_by_diffusers_own_loaders(
    tuned: Tuned, tmp_path: Path, kind: str, dtype: str
) -> None:
    base = tuned(kind)
    done = run(base, tmp_path / "export", dtype)
    rounded = build(base.architecture)
    rounded.load_state_dict({n: t.to(TORCH[dtype]) for n, t in base.vae.state_dict().items()})
    latent = torch.randn(1, base.architecture["latent_channels"], 3, 4)
    folder = AutoencoderKL.from_pretrained(done.diffusers_folder, torch_dtype=torch.float32)
    file = AutoencoderKL.from_single_file(
        str(done.single_file), config=str(done.diffusers_folder), torch_dtype=torch.float32
    )
    for loaded in (folder, file):
        assert torch.equal(loaded.decode(latent).sample, decode(rounded, latent))
        mean = loaded.encode(probe()).latent_dist.mean
        assert torch.equal(mean, encode(rounded, probe()).mean)
    assert done.decode_difference == 0
    assert done.tensors == len(base.vae.state_dict())
    assert done.parameters == sum(p.numel() for p in base.vae.parameters())
    assert {t.dtype for t in load_file(done.single_file).values()} == {TORCH[dtype]}


@torch.no_grad()
def test_a_tiny_export_has_taesd_keys_and_comfys_scalars(tuned: Tuned, tmp_path: Path) -> None:
    base = tuned("tiny", "SDXL")
    done = run(base, tmp_path / "export", "fp16")
    file = load_file(done.single_file)
    assert len(file) == done.tensors + 2
    assert all(name.startswith(("taesd_encoder.", "taesd_decoder.", "vae_s")) for name in file)
    assert file["vae_scale"].shape == ()
    assert float(file["vae_scale"]) == pytest.approx(0.13025)
    assert float(file["vae_shift"]) == 0
    folder = AutoencoderTiny.from_pretrained(done.diffusers_folder, torch_dtype=torch.float32)
    assert folder.config.scaling_factor == 1.0
    again = load_base(str(done.single_file))
    assert again.family == "sdxl"
    latent = torch.randn(1, 4, 3, 4)
    # ours runs channels last on a CPU, which sums in another order
    torch.testing.assert_close(folder.decode(latent).sample, decode(again.vae, latent))
    unknown = run(tuned("tiny"), tmp_path / "export")
    assert len(load_file(unknown.single_file)) == unknown.tensors
    playground = run(tuned("tiny", "playground25"), tmp_path / "export")
    assert len(load_file(playground.single_file)) == playground.tensors


@pytest.mark.parametrize("dtype", TORCH)
def test_the_encoder_is_the_bases_bit_for_bit(tuned: Tuned, tmp_path: Path, dtype: str) -> None:
    base = tuned()
    done = run(base, tmp_path / "export", dtype)
    again = load_file(done.diffusers_folder / "diffusion_pytorch_model.safetensors")
    untouched = load_base(str(tmp_path / "base" / "config.json")).vae.state_dict()
    for name, tensor in untouched.items():
        same = torch.equal(again[name], tensor.to(TORCH[dtype]))
        assert same != name.startswith(DECODER_PREFIXES), name


def test_the_live_model_and_the_random_state_are_left_alone(tuned: Tuned, tmp_path: Path) -> None:
    base = tuned()
    base.vae.train()
    before = {name: tensor.clone() for name, tensor in base.vae.state_dict().items()}
    random_state = torch.get_rng_state()
    run(base, tmp_path / "export", "fp16")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert base.vae.training
    for name, tensor in base.vae.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks for module in base.vae.modules())


def test_metadata_is_text_complete_and_private(tuned: Tuned, tmp_path: Path) -> None:
    base = tuned()
    done = run(base, tmp_path / "export")
    metadata = metadata_of(done.single_file)
    assert metadata == metadata_of(done.diffusers_folder / "diffusion_pytorch_model.safetensors")
    ours = {key: json.loads(text) for key, text in metadata.items() if key.startswith("vae_lab.")}
    assert ours == {
        "vae_lab.architecture": base.architecture,
        "vae_lab.family": "sdxl",
        "vae_lab.scaling": {"scale": 0.13025, "shift": 0.0, "mean": None, "std": None},
        "vae_lab.base_sha256": base.sha256,
        "vae_lab.config": {
            "vae": "base.safetensors",
            "data": "photos",
            "resolution": 256,
            "lpips_net": "vgg",
        },
        "vae_lab.report": {"psnr": 28.5, "lpips": None, "where": "photo.jpg"},
    }
    assert metadata["format"] == "pt"
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/vae"
    assert metadata["modelspec.resolution"] == "256x256"
    assert metadata["modelspec.title"] == "base, fine-tuned"
    for name, data in tree(tmp_path / "export").items():
        assert b"/home" not in data, name
        assert str(tmp_path).encode() not in data, name


def test_the_config_is_clean_and_has_the_familys_scaling(tuned: Tuned, tmp_path: Path) -> None:
    done = run(tuned("kl", "sd1"), tmp_path / "export")
    config = json.loads((done.diffusers_folder / "config.json").read_text())
    assert [key for key in config if key.startswith("_")] == ["_class_name"]
    assert not {"decay", "power", "optimization_step"} & set(config)
    assert (config["scaling_factor"], config["shift_factor"]) == (0.18215, None)
    assert config["force_upcast"] is True
    flux = run(tuned("flux", "flux"), tmp_path / "export")
    config = json.loads((flux.diffusers_folder / "config.json").read_text())
    assert (config["scaling_factor"], config["shift_factor"]) == (0.3611, 0.1159)


def test_equal_runs_give_equal_bytes(tuned: Tuned, tmp_path: Path) -> None:
    run(tuned(), tmp_path / "one")
    elsewhere = {**OPTIONS, "output": "other", "resume": False, "workers": 7}
    run(tuned(), tmp_path / "two", config=dict(reversed(elsewhere.items())))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


# fp16


def test_the_fp16_probe_finds_the_largest_activation(tuned: Tuned, tmp_path: Path) -> None:
    base = tuned()
    quiet = run(base, tmp_path / "export").fp16
    assert quiet.finite
    assert 0 < quiet.largest < 65504
    layer = base.vae.decoder.up_blocks[1].resnets[0].conv1
    seen: list[float] = []
    with torch.no_grad():
        layer.bias.fill_(70_000.0)
        handle = layer.register_forward_hook(lambda *a: seen.append(float(a[2].abs().max())))
        decode(base.vae, encode(base.vae, probe()).mean)
        handle.remove()
    loud = run(base, tmp_path / "export").fp16
    assert not loud.finite
    assert loud.largest == seen[0] > 65504
    assert loud.where == "decoder.up_blocks.1.resnets.0.conv1"


def test_weights_beyond_fp16_are_refused_in_fp16_only(tuned: Tuned, tmp_path: Path) -> None:
    base = tuned()
    base.vae.decoder.conv_in.bias.data[0] = 70_000.0
    with pytest.raises(UserError, match=r"decoder.conv_in.bias holds 7e\+04.*\(6.55e\+04\).*bf16"):
        run(base, tmp_path / "export", "fp16")
    assert not (tmp_path / "export").exists()
    run(base, tmp_path / "export", "bf16")


# What is refused, and what stays then


def poison(base: Base) -> None:
    base.vae.decoder.conv_out.bias.data[1] = float("nan")


def move_encoder(base: Base) -> None:
    base.vae.encoder.conv_in.bias.data[0] += 1e-7


def move_quant_conv(base: Base) -> None:
    base.vae.quant_conv.weight.data.mul_(1.001)


def explode(base: Base) -> None:
    base.vae.decoder.conv_norm_out.weight.data.fill_(3e38)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (poison, "the trained model is damaged: 'decoder.conv_out.bias' holds 1 values"),
        (move_encoder, "encoder.conv_in.bias changed although only the decoder should train"),
        (move_quant_conv, "quant_conv.weight changed although"),
        (explode, "decodes a photo to NaN or infinity"),
    ],
)
def test_a_bad_model_is_refused_and_the_old_export_stays(
    tuned: Tuned, tmp_path: Path, harm: Callable[[Base], None], words: str
) -> None:
    (tmp_path / "runs").mkdir()
    run(tuned(), tmp_path / "runs" / "export")
    before, base = tree(tmp_path / "runs"), tuned()
    harm(base)
    with pytest.raises(UserError, match=words):
        run(base, tmp_path / "runs" / "export")
    assert tree(tmp_path / "runs") == before


def test_a_trained_encoder_is_exported_where_it_was_meant_to_train(
    tuned: Tuned, tmp_path: Path
) -> None:
    base = tuned()
    move_encoder(base)
    done = run(base, tmp_path / "export", trained="all")
    assert "encoder trained too" in metadata_of(done.single_file)["modelspec.description"]


def swapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Exchange two tensors of one shape, as a wrong table of names would."""
    ldm = dict(forms_to_ldm(state))
    one, other = "decoder.mid.attn_1.q.weight", "decoder.mid.attn_1.k.weight"
    ldm[one], ldm[other] = ldm[other], ldm[one]
    return ldm


def short(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in forms_to_ldm(state).items() if n != "decoder.norm_out.bias"}


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.half().float() for n, t in forms_to_ldm(state).items()}


forms_to_ldm = forms.to_ldm


@pytest.mark.parametrize("fault", [swapped, short, rounded])
def test_a_file_that_does_not_come_back_is_never_left(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable
) -> None:
    monkeypatch.setattr(forms, "to_ldm", fault)
    with pytest.raises(UserError, match="did not come back as it was written"):
        run(tuned(), tmp_path / "export")
    assert sorted(os.listdir(tmp_path)) == ["base"]


def test_a_model_that_decodes_otherwise_is_noticed(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = export.check_folder

    def other_groups(*args: Any) -> nn.Module:
        vae = check(*args)
        for module in vae.decoder.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = 16
        return vae

    monkeypatch.setattr(export, "check_folder", other_groups)
    with pytest.raises(UserError, match="decodes another picture than the model"):
        run(tuned(), tmp_path / "export")
    assert sorted(os.listdir(tmp_path)) == ["base"]


# Exchanging folders


@pytest.mark.parametrize("exchange", ["the system's", "none"])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: str
) -> None:
    if exchange == "none":
        monkeypatch.setattr("trainer.vae.swap._exchange", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old" / "which").read_text() == "new"


def test_without_exchange_a_failure_or_a_crash_in_between_brings_the_old_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.vae.swap._exchange", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    rename, calls = os.rename, []

    def fail_once(*names: Path) -> None:
        calls.append(names)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(*names)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fail_once)
        with pytest.raises(OSError, match="Input/output"):
            replace_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "which").read_text() == "old"
    (tmp_path / "old").rename(tmp_path / ".old-old")  # as a kill between the renames leaves it
    recover(tmp_path / "old")
    assert (tmp_path / "old" / "which").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]
