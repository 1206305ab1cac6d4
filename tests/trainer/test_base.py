"""Everything that --vae takes gives the same VAE; everything else a sentence."""

import hashlib
import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DModel
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import TINY
from trainer.errors import UserError
from trainer.vae.autoencoder import architecture_of, canonical_sha256, decode, encode
from trainer.vae.base import load_base
from vae_core.checkpoint import write_safetensors
from vae_core.keys import to_ldm, to_taesd

CONFIG = {
    **TINY,
    "block_out_channels": (32, 64),
    "norm_num_groups": 32,
    "sample_size": 64,
    "scaling_factor": 0.13025,
}
NAME = "diffusion_pytorch_model.safetensors"
Save = Callable[[dict[str, Tensor]], Path]


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(**CONFIG).eval()


@pytest.fixture(scope="module")
def tiny() -> AutoencoderTiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(
            encoder_block_out_channels=(8,) * 3,
            decoder_block_out_channels=(8,) * 3,
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
        ).eval()


@pytest.fixture
def folder(tmp_path: Path, vae: AutoencoderKL) -> Path:
    vae.save_pretrained(tmp_path / "my-vae")
    return tmp_path / "my-vae"


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(tensors: dict[str, Tensor], name: str = "file.safetensors") -> Path:
        save_file({k: t.contiguous().clone() for k, t in tensors.items()}, tmp_path / name)
        return tmp_path / name

    return write


def refusal(spec: object, **options: object) -> str:
    """Return the sentence that a base is refused with: one line, beginning to end printable."""
    with pytest.raises(UserError) as caught:
        load_base(str(spec), **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


# What is taken


def pipeline(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "pipeline").mkdir()
    shutil.copytree(folder, tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    return tmp_path / "pipeline"


def full_checkpoint(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    beside = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, dtype=torch.float8_e4m3fn),
        "conditioner.embedders.0.transformer.text_model.x": torch.ones(3),
        "model_ema.decay": torch.tensor(0.999),
        f"{prefix}loss.logvar": torch.tensor(0.0),
    }
    return {**beside, **{prefix + name: tensor for name, tensor in state.items()}}


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    table = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        for new, old in table.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor
    return renamed


FORMS = [
    "folder",
    "pipeline",
    "file in the folder",
    "folder of one file",
    "ldm",
    "ldm .sft",
    "first_stage_model.",
    "vae.",
    "diffusers file",
    "old names",
    "fp16 folder",
]


def spec_of(form: str, vae: AutoencoderKL, folder: Path, save: Save, tmp_path: Path) -> Path:
    state = vae.state_dict()
    if form == "pipeline":
        return pipeline(folder, tmp_path)
    if form == "file in the folder":
        return folder / NAME
    if form == "folder of one file":
        (folder / "config.json").unlink()
    if form == "fp16 folder":
        (folder / NAME).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    if form.startswith("ldm"):
        return save(to_ldm(state), "file.sft" if "sft" in form else "file.safetensors")
    if form.endswith("."):
        return save(full_checkpoint(to_ldm(state), form))
    if form == "old names":
        return save(old_names(state))
    return save(state) if form == "diffusers file" else folder


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_vae(
    form: str, vae: AutoencoderKL, folder: Path, save: Save, tmp_path: Path
) -> None:
    base = load_base(str(spec_of(form, vae, folder, save, tmp_path)))
    assert base.sha256 == canonical_sha256(vae.state_dict())
    latent = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(decode(base.vae, latent), vae.decode(latent).sample)
    assert "/" not in base.name
    assert f"{len(vae.state_dict())} tensors" in base.found
    assert "4 latent channels, f2" in base.found


def test_family_and_where_it_comes_from(vae: AutoencoderKL, folder: Path, save: Save) -> None:
    assert load_base(str(folder)).family == "sdxl"
    assert load_base(str(folder)).family_source == "config.json"
    lone = load_base(str(save(to_ldm(vae.state_dict()), "sdxl_vae.safetensors")))
    assert (lone.family, lone.family_source) == ("unknown", "not known")
    assert lone.architecture["scaling_factor"] == 1.0
    full = load_base(str(save(full_checkpoint(to_ldm(vae.state_dict()), "first_stage_model."))))
    assert (full.family, full.family_source) == ("sdxl", "the checkpoint's other keys")
    assert full.architecture["scaling_factor"] == 0.13025
    asked = load_base(str(folder), family="SD 1.5")
    assert (asked.family, asked.family_source) == ("sd1", "--family")
    assert asked.vae.config.scaling_factor == 0.18215
    assert "--family flux has 16 latent channels and 'my-vae' has 4" in refusal(
        folder, family="flux"
    )
    assert "did you mean sdxl" in refusal(folder, family="sdlx")


def test_the_encoder_side_is_kept_untouched(folder: Path) -> None:
    base = load_base(str(folder))
    expected = {n for n in base.vae.state_dict() if n.startswith(("encoder.", "quant_conv."))}
    assert set(base.frozen_state) == expected
    with torch.no_grad():
        base.vae.quant_conv.weight.zero_()
    assert base.frozen_state["quant_conv.weight"].abs().sum() > 0


def test_sixteen_channels_without_quant_convs_and_one_colour(save: Save) -> None:
    fields = {**CONFIG, "latent_channels": 16, "in_channels": 1, "out_channels": 1}
    grey = AutoencoderKL(**fields, use_quant_conv=False, use_post_quant_conv=False).eval()
    base = load_base(str(save(to_ldm(grey.state_dict()))))
    pixels = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        theirs = grey.encode(pixels).latent_dist.mean
        assert torch.equal(encode(base.vae, pixels).mean, theirs)


@pytest.mark.parametrize("form", ["folder", "diffusers file", "taesd file", "inside"])
def test_autoencoder_tiny(form: str, tiny: AutoencoderTiny, save: Save, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path / "folder")
    state = tiny.state_dict()
    scalars = {"vae_scale": torch.tensor(0.13025), "vae_shift": torch.tensor(0.0)}
    spec = tmp_path / "folder"
    if form == "diffusers file":
        spec = save(state)
    if form == "taesd file":
        spec = save({**to_taesd(state), **scalars})
    if form == "inside":
        spec = save({f"first_stage_model.{k}": v for k, v in to_taesd(state).items()})
    base = load_base(str(spec))
    assert base.sha256 == canonical_sha256(state)
    assert base.architecture == architecture_of(tiny)
    assert base.family == ("sdxl" if form == "taesd file" else "unknown")
    assert load_base(str(spec), family="sd1").architecture["scaling_factor"] == 1.0


def test_a_config_alone_gives_random_weights_from_the_seed(folder: Path) -> None:
    spec, before = str(folder / "config.json"), torch.get_rng_state()
    one, same, other = load_base(spec), load_base(spec, seed=0), load_base(spec, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.sha256 == same.sha256 != other.sha256
    assert "random weights" in one.found
    assert one.family == "sdxl"
    assert one.name == "my-vae"


def test_groups_of_a_small_vae_come_from_config_or_metadata(tmp_path: Path, tiny_vae) -> None:
    tiny_vae.save_pretrained(tmp_path / "four-groups")
    base = load_base(str(tmp_path / "four-groups"))
    assert base.vae.config.norm_num_groups == 4
    stated = {"vae_lab.architecture": json.dumps(base.architecture)}
    write_safetensors(tmp_path / "a.safetensors", to_ldm(tiny_vae.state_dict()), stated)
    again = load_base(str(tmp_path / "a.safetensors"))
    assert (again.sha256, again.architecture) == (base.sha256, base.architecture)
    write_safetensors(tmp_path / "a.safetensors", to_ldm(tiny_vae.state_dict()), {})
    assert "can not part into 32 groups" in refusal(tmp_path / "a.safetensors")


# The hub


@pytest.fixture
def cached(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one repository in it, and no network."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--someone--pipe"
    snapshot = repository / "snapshots" / revision
    shutil.copytree(folder, snapshot / "vae")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return snapshot


@pytest.mark.parametrize("spec", ["someone/pipe:vae", "someone/pipe"])
def test_a_hub_id_with_or_without_subfolder(cached: Path, vae: AutoencoderKL, spec: str) -> None:
    base = load_base(spec)
    assert base.sha256 == canonical_sha256(vae.state_dict())
    assert base.revision == "0123456789abcdef0123456789abcdef01234567"
    assert base.name == spec
    assert "revision 0123456789ab" in base.found


def test_a_root_config_of_something_else_is_passed_over(cached: Path, tmp_path: Path) -> None:
    (cached / "config.json").write_text('{"model_type": "bert"}')
    assert load_base("someone/pipe").name == "someone/pipe"
    assert load_base(str(cached)).family == "sdxl"
    shutil.rmtree(cached / "vae")
    assert "can not be reached" in refusal("someone/pipe")


def test_a_hub_folder_with_pickles_only(cached: Path) -> None:
    (cached / "vae" / NAME).unlink()
    (cached / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    assert "can not be reached" in refusal("someone/pipe")  # nobody to ask what else is there


def test_a_hub_id_without_network_says_so(cached: Path) -> None:
    words = refusal("someone/else")
    assert "neither a file or folder here nor in the hub's cache" in words
    assert "can not be reached" in words


def test_a_local_folder_comes_before_the_hub(cached: Path, folder: Path) -> None:
    shutil.copytree(folder, Path("someone") / "else")
    assert load_base("someone/else").revision is None


REFUSALS = {"org": (404, "EntryNotFound"), "gated": (403, "GatedRepo"), "broken": (418, "")}


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs, from a folder: org/name/file."""

    root: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        organisation, name, _, _, *file = self.path.lstrip("/").split("/")
        path = self.root.joinpath(organisation, name, *file)
        code, word = REFUSALS.get(organisation, (401, "RepoNotFound"))
        if path.is_file() and not (organisation == "broken" and body):
            code, word = 200, ""
        self.send_response(code)
        self.send_header("X-Error-Code", word)
        self.send_header("X-Repo-Commit", "fedcba9876543210fedcba9876543210fedcba98")
        data = path.read_bytes() if code == 200 else b""
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine, an empty cache, and the folder that the hub serves."""
    handler = type("Handler", (Hub,), {"root": tmp_path / "hub"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "hub"
    server.shutdown()
    server.server_close()


def test_a_download_from_the_hub(hub: Path, folder: Path, vae: AutoencoderKL) -> None:
    shutil.copytree(folder, hub / "org" / "pipe" / "vae")
    shutil.copytree(folder, hub / "org" / "vae")
    for spec in ("org/pipe", "org/pipe:vae", "org/vae"):
        base = load_base(spec)
        assert base.sha256 == canonical_sha256(vae.state_dict())
        assert base.revision == "fedcba9876543210fedcba9876543210fedcba98"


def test_what_the_hub_refuses_is_said_in_a_sentence(hub: Path, folder: Path) -> None:
    shutil.copytree(folder, hub / "org" / "pickled")
    (hub / "org" / "pickled" / NAME).rename(hub / "org" / "pickled" / "diffusion_pytorch_model.bin")
    assert f"has no {NAME} in its root, and pickles" in refusal("org/pickled")
    assert "no config.json of a VAE in its root or vae" in refusal("org/nothing")
    assert "no config.json of a VAE in sub" in refusal("org/nothing:sub")
    assert "nor a repository of the hub: check the spelling" in refusal("nobody/home")
    assert "asks for consent" in refusal("gated/vae")
    shutil.copytree(folder, hub / "broken" / "vae")
    assert "the hub's broken/vae could not be downloaded" in refusal("broken/vae")


# What is refused


@pytest.mark.parametrize(
    "spec",
    [
        "nothing.safetensors",
        "./a/b",
        "a/b.safetensors",
        "a/b/c/d",
        "",
        "nul\0",
        "~",
        "~nobody/x",
        "C:\\x",
    ],
)
def test_what_is_not_there(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    words = refusal(spec)
    assert "is not there: a base is a .safetensors file, a diffusers folder" in words or not spec


@pytest.mark.parametrize("name", ["vae.ckpt", "vae.pt", "vae.bin", "vae.pth", "vae.safetensors"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain", "tar"])
def test_pickles_are_refused_and_never_opened(tmp_path: Path, name: str, kind: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "marker"),)

    path = tmp_path / name
    if kind == "plain":
        path.write_bytes(pickle.dumps(Evil(), protocol=0 if "ckpt" in name else 4))
    elif kind == "tar":
        path.write_bytes(b"sys_info" + bytes(1000))
    else:
        torch.save({"x": Evil()}, path, _use_new_zipfile_serialization=kind == "zip")
    words = refusal(path)
    if kind == "tar" and name == "vae.safetensors":
        assert "is not a .safetensors file" in words
    else:
        assert "is a PyTorch pickle" in words
        assert "convert it first: python -c" in words
    assert not (tmp_path / "marker").exists()


def test_a_folder_with_a_pickle_only(folder: Path, tmp_path: Path) -> None:
    (folder / NAME).unlink()
    assert f"has a config.json but no {NAME}" in refusal(folder)

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "marker"),)

    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert "has only 'diffusion_pytorch_model.bin', which is a PyTorch pickle" in refusal(folder)
    assert not (tmp_path / "marker").exists()


def test_folders_that_are_no_vae(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "the folder 'empty' holds no VAE: expected config.json" in refusal(tmp_path / "empty")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "is a training run" in refusal(tmp_path / "run")
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    assert "is a pipeline without its VAE" in refusal(tmp_path / "pipe")
    (folder / "config.json").unlink()
    shutil.copy(folder / NAME, folder / "other.safetensors")
    assert "has no config.json and 2 weights files" in refusal(folder)
    for text, words in (("{", "is not the JSON"), ("[]", "a JSON object was expected")):
        (folder / "config.json").write_text(text)
        assert words in refusal(folder)


def test_another_model_of_diffusers(tmp_path: Path) -> None:
    unet = UNet2DModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    unet.save_pretrained(tmp_path / "unet")
    assert "holds a diffusion model (U-Net or transformer)" in refusal(tmp_path / "unet")
    assert "the config of 'unet' describes 'UNet2DModel'" in refusal(
        tmp_path / "unet" / "config.json"
    )


def test_files_that_are_no_whole_vae(vae: AutoencoderKL, save: Save) -> None:
    state = to_ldm(vae.state_dict())
    decoder = {n: t for n, t in state.items() if n.startswith(("decoder", "post_quant"))}
    assert "'file.safetensors' holds only the decoder of a VAE" in refusal(save(decoder))
    lora = {"lora_unet_x.lora_down.weight": torch.ones(2)}
    assert "'file.safetensors' holds a LoRA" in refusal(save(lora))
    missing = {n: t for n, t in state.items() if n != "decoder.conv_out.bias"}
    assert "1 missing (decoder.conv_out.bias)" in refusal(save(missing))
    assert "1 unexpected (bn.running_mean)" in refusal(
        save({**state, "bn.running_mean": torch.ones(3)})
    )
    whole = {n: (t * 100).to(torch.int8) for n, t in state.items()}
    assert "as 'I8'; a VAE in F32, F16 or BF16 is expected" in refusal(save(whole))
    video = {n: t[:, :, None] if t.ndim == 4 else t for n, t in state.items()}
    assert "misshapen" in refusal(save(video))


def test_weights_that_are_not_finite_or_cut_off(vae: AutoencoderKL, save: Save) -> None:
    state = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    state["decoder.conv_in.bias"][3] = float("nan")
    words = refusal(save(state))
    assert "'file.safetensors' is damaged: 'decoder.conv_in.bias' holds 1 values" in words
    path = save(vae.state_dict())
    path.write_bytes(path.read_bytes()[:-1000])
    assert "'file.safetensors' is cut off" in refusal(path)


def test_names_with_control_characters_reach_no_terminal(vae: AutoencoderKL, save: Save) -> None:
    path = save(vae.state_dict(), "\x1b]0;evil\x07.safetensors")
    assert load_base(str(path)).name.isprintable()
    path.write_bytes(b"")
    assert "is empty" in refusal(path)


def test_a_real_taesd_and_a_real_kl(assets: Path) -> None:
    taesd = load_base(str(assets / "models" / "taesd"))
    assert (taesd.family, len(taesd.vae.state_dict())) == ("unknown", 134)
    small = load_base(str(assets / "models" / "kl-f8-small"))
    assert (small.family, small.family_source) == ("sd1", "config.json")
    assert "3,406,663 parameters" in small.found
