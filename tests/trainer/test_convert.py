"""trainer/convert.py: every way there and back, and OUT old or new whatever happens."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.convert import main
from trainer.training.checkpoints import FILES, mark_best, save_checkpoint
from trainer.vae.autoencoder import DECODER_PREFIXES, canonical_sha256
from trainer.vae.base import load_base
from trainer.vae.metadata import weights_metadata
from vae_core.checkpoint import write_safetensors
from vae_core.files import write_text
from vae_core.keys import to_ldm

ROOT = Path(__file__).resolve().parents[2]
NAME = "diffusion_pytorch_model.safetensors"
KINDS: dict[str, dict[str, Any]] = {
    "kl": {"block_out_channels": (32, 64), "scaling_factor": 0.18215},
    "odd": {"block_out_channels": (6, 9, 3), "norm_num_groups": 3, "layers_per_block": 2},
    "flux": {
        "block_out_channels": (32, 32),
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "tiny": {
        "encoder_block_out_channels": (8,) * 3,
        "decoder_block_out_channels": (8,) * 3,
        "num_encoder_blocks": (1, 1, 1),
        "num_decoder_blocks": (1, 1, 1),
    },
}


def make(kind: str, seed: int = 0) -> nn.Module:
    fields = dict(KINDS[kind])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "tiny":
            return AutoencoderTiny(**fields).eval()
        levels = len(fields["block_out_channels"])
        fields["down_block_types"] = ("DownEncoderBlock2D",) * levels
        fields["up_block_types"] = ("UpDecoderBlock2D",) * levels
        return AutoencoderKL(**fields).eval()


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., str]:
    """Save a VAE as a diffusers folder and return its path."""

    def save(kind: str = "kl", seed: int = 0, **changes: Tensor) -> str:
        vae = make(kind, seed)
        vae.load_state_dict({**vae.state_dict(), **changes})
        vae.save_pretrained(tmp_path / f"in-{kind}-{seed}")
        return str(tmp_path / f"in-{kind}-{seed}")

    return save


def sha256(path: str | Path) -> str:
    return canonical_sha256(load_base(str(path)).vae.state_dict())


def digest(path: Path) -> str:
    """Hash a file, or the files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def metadata_of(path: str | Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def fails(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Run what must be refused: exit code 1, one line on stderr, nothing on stdout."""
    assert main([str(argument) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("convert.py: ")
    assert err.count("\n") == 1
    return err


# Layouts and types


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_gives_the_same_bytes(
    kind: str, source: Callable[..., str], tmp_path: Path
) -> None:
    start, one, two = source(kind), tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    assert main([start, str(one)]) == 0
    assert main([str(one), str(tmp_path / "folder"), "--layout", "diffusers"]) == 0
    assert main([str(tmp_path / "folder"), str(two)]) == 0
    assert main([str(one), str(tmp_path / "keys.sft"), "--layout", "diffusers"]) == 0
    assert one.read_bytes() == two.read_bytes()
    assert (
        len({sha256(path) for path in (start, one, tmp_path / "folder", tmp_path / "keys.sft")})
        == 1
    )
    assert sorted(os.listdir(tmp_path / "folder")) == ["config.json", NAME]
    assert set(load_file(tmp_path / "keys.sft")) == set(make(kind).state_dict())


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_whoever_says_unknown_is_believed(
    kind: str, source: Callable[..., str], tmp_path: Path
) -> None:
    assert main([source(kind), str(tmp_path / "a.safetensors"), "--family", "unknown"]) == 0
    assert (
        main([str(tmp_path / "a.safetensors"), str(tmp_path / "b"), "--layout", "diffusers"]) == 0
    )
    assert load_base(str(tmp_path / "b")).family == "unknown"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["kl", "flux", "odd"])
def test_diffusers_decodes_each_form_alike(
    kind: str, source: Callable[..., str], tmp_path: Path
) -> None:
    start = source(kind)
    assert main([start, str(tmp_path / "a.safetensors")]) == 0
    assert (
        main([str(tmp_path / "a.safetensors"), str(tmp_path / "b"), "--layout", "diffusers"]) == 0
    )
    latent = torch.randn(1, KINDS[kind].get("latent_channels", 4), 3, 4)
    expected = AutoencoderKL.from_pretrained(start).decode(latent).sample
    assert torch.equal(
        AutoencoderKL.from_pretrained(tmp_path / "b").decode(latent).sample, expected
    )
    single = AutoencoderKL.from_single_file(str(tmp_path / "a.safetensors"), config=start)
    assert torch.equal(single.decode(latent).sample, expected)


@pytest.mark.parametrize("kind", ["kl", "flux", "tiny"])
def test_types(kind: str, source: Callable[..., str], tmp_path: Path) -> None:
    start, path = source(kind), tmp_path / "a.safetensors"
    for flag, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        assert main([start, str(path), "--dtype", flag]) == 0
        kinds = {t.dtype for n, t in load_file(path).items() if not n.startswith("vae_s")}
        assert kinds == {dtype}
    assert main([start, str(path), "--dtype", "fp16"]) == 0
    assert main([str(path), str(path)]) == 0
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}  # as in IN


def test_the_vae_is_taken_out_of_a_full_checkpoint(tmp_path: Path) -> None:
    state = {f"first_stage_model.{n}": t for n, t in to_ldm(make("kl").state_dict()).items()}
    beside = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}
    beside["conditioner.embedders.0.x"] = torch.ones(2)
    metadata = {"modelspec.title": "Big One", "modelspec.hash_sha256": "0x1", "ss_home": "/home/me"}
    write_safetensors(tmp_path / "full.safetensors", {**state, **beside}, metadata)
    assert main([str(tmp_path / "full.safetensors"), str(tmp_path / "a.safetensors")]) == 0
    assert sha256(tmp_path / "a.safetensors") == canonical_sha256(make("kl").state_dict())
    kept = metadata_of(tmp_path / "a.safetensors")
    assert kept["vae_lab.family"] == '"sdxl"'
    assert kept["modelspec.architecture"] == "stable-diffusion-xl-v1-base/vae"
    assert kept["modelspec.title"] == "Big One"
    assert not {"modelspec.hash_sha256", "ss_home"} & set(kept)


def test_out_may_be_in(source: Callable[..., str], tmp_path: Path) -> None:
    start, path = source(), tmp_path / "a.safetensors"
    before = sha256(start)
    assert main([start, start, "--layout", "diffusers"]) == 0
    assert main([start, str(path)]) == 0
    assert main([str(path), str(path), "--layout", "diffusers"]) == 0
    assert sha256(start) == sha256(path) == before
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "in-kl-0"]


@pytest.mark.slow
def test_the_entry_works_from_elsewhere_and_writes_the_same_bytes(
    source: Callable[..., str], tmp_path: Path
) -> None:
    start = source()
    assert main([start, str(tmp_path / "a.safetensors")]) == 0
    script = str(ROOT / "trainer" / "convert.py")
    done = subprocess.run(
        [sys.executable, script, Path(start).name, "b.safetensors"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "wrote b.safetensors: 124 tensors" in done.stdout
    assert "float32, family sd1 (config.json)" in done.stdout
    assert digest(tmp_path / "a.safetensors") == digest(tmp_path / "b.safetensors")


# Runs


@pytest.fixture
def run(tmp_path: Path, source: Callable[..., str]) -> Path:
    """A run folder with two checkpoints, the older one the best."""
    base, root = load_base(source()), tmp_path / "runs" / "faces"
    (root / "checkpoints").mkdir(parents=True)
    for step in (5, 10):
        state = make("kl", seed=step).state_dict()
        writers: dict[str, Callable[[Path], None]] = {
            name: lambda path: write_text(path, "x") for name in FILES
        }
        writers["weights.safetensors"] = lambda path, state=state: write_safetensors(
            path, state, weights_metadata(base)
        )
        save_checkpoint(root / "checkpoints", step, writers)
    mark_best(root / "checkpoints", 5)
    return root


def test_a_run_gives_its_best_checkpoint_else_its_newest(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    digests = {step: canonical_sha256(make("kl", step).state_dict()) for step in (5, 10)}
    assert main([str(run), str(out)]) == 0
    assert sha256(out) == digests[5]
    assert metadata_of(out)["modelspec.title"] == "faces"
    assert metadata_of(out)["vae_lab.family"] == '"sd1"'
    assert "vae_lab.base_sha256" in metadata_of(out)
    assert main([str(run / "checkpoints" / "step_000010"), str(out)]) == 0
    assert sha256(out) == digests[10]
    (run / "checkpoints" / "best").unlink()
    assert main([str(run), str(out)]) == 0
    assert sha256(out) == digests[10]


def test_a_damaged_checkpoint_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "step_000005"
    data = bytearray((best / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (best / "weights.safetensors").write_bytes(data)
    for spec in (run, best):
        words = fails(capsys, spec, tmp_path / "a.safetensors")
        assert "step_000005 can not be used: weights.safetensors was changed or damaged" in words
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    assert "has no checkpoint yet" in fails(capsys, run, tmp_path / "a.safetensors")


# Blending


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_blending_mixes_the_decoders_only(
    share: float, source: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, one = tmp_path / "a.safetensors", make("kl").state_dict()
    moved = {n: t + 0.1 for n, t in one.items() if n.startswith(DECODER_PREFIXES)}
    make("kl").save_pretrained(tmp_path / "one")
    assert main([str(tmp_path / "one"), str(out), "--blend", source(**moved), str(share)]) == 0
    assert not capsys.readouterr().err
    got = load_base(str(out)).vae.state_dict()
    for name, tensor in one.items():
        assert torch.allclose(got[name], tensor + 0.1 * share * (name in moved), atol=1e-6), name
        assert name in moved or torch.equal(got[name], tensor)
    kept = metadata_of(out)
    assert json.loads(kept["vae_lab.blend"])["share"] == share
    assert kept["modelspec.merged_from"] == "one, in-kl-0"


def test_blending_in_fp32_does_not_round_halves_first(
    source: Callable[..., str], tmp_path: Path
) -> None:
    half = tmp_path / "half.safetensors"
    moved = {"decoder.conv_in.bias": torch.full((64,), 1 / 3)}
    assert main([source(), str(half), "--dtype", "fp16"]) == 0
    other = source(**moved)
    out = tmp_path / "a.safetensors"
    assert main([str(half), str(out), "--dtype", "fp32", "--blend", other, "1"]) == 0
    assert torch.equal(load_file(out)["decoder.conv_in.bias"], moved["decoder.conv_in.bias"])


def test_encoders_that_differ_are_warned_of_and_rounding_is_not(
    source: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, rounded = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    assert main([source(), rounded, "--dtype", "bf16"]) == 0
    assert main([source(), out, "--blend", rounded, "0.5"]) == 0
    assert not capsys.readouterr().err
    assert main([source(), out, "--blend", source(seed=1), "0.5"]) == 0
    assert "warning: the encoders of 'in-kl-0' and 'in-kl-1' differ" in capsys.readouterr().err


def test_what_can_not_be_blended(
    source: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "a.safetensors"
    for share in ("1.5", "-0.1", "nan", "half"):
        words = fails(capsys, source(), out, "--blend", source(), share)
        assert "SHARE of --blend must be a number from 0 to 1" in words
    words = fails(capsys, source(), out, "--blend", source("flux"), "0.5")
    assert "'in-flux-0' can not be blended with 'in-kl-0': it is not a whole AutoencoderKL" in words
    groups = tmp_path / "groups"
    shutil.copytree(source(), groups)
    config = json.loads((groups / "config.json").read_text())
    (groups / "config.json").write_text(json.dumps({**config, "norm_num_groups": 16}))
    words = fails(capsys, source(), out, "--blend", groups, "0.5")
    assert "their norm_num_groups differs (16, 32)" in words
    assert not out.exists()


# Refusals


def test_an_out_that_can_not_be(
    source: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start = source()
    assert "must end in .safetensors" in fails(capsys, start, tmp_path / "a.txt")
    assert "is not there: make it first" in fails(capsys, start, tmp_path / "x" / "a.safetensors")
    (tmp_path / "dir.safetensors").mkdir()
    assert "is a folder: name a file" in fails(capsys, start, tmp_path / "dir.safetensors")
    (tmp_path / "file").write_text("mine")
    words = fails(capsys, start, tmp_path / "file", "--layout", "diffusers")
    assert "is a file: name a folder" in words
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    words = fails(capsys, start, tmp_path / "photos", "--layout", "diffusers")
    assert "holds more than a VAE ('cat.jpg'), which would be lost" in words
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "meow"
    assert (tmp_path / "file").read_text() == "mine"


def test_an_in_that_can_not_be(
    source: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "a.safetensors"
    out.write_text("old")
    torch.save({"x": torch.ones(2)}, tmp_path / "vae.ckpt")
    assert "is a PyTorch pickle" in fails(capsys, tmp_path / "vae.ckpt", out)
    assert "is not there" in fails(capsys, tmp_path / "none.safetensors", out)
    bad = source(**{"decoder.conv_in.bias": torch.full((64,), float("inf"))})
    assert "'decoder.conv_in.bias' holds 64 values that are NaN" in fails(capsys, bad, out)
    big = source(**{"decoder.conv_in.bias": torch.full((64,), 1e6)})
    words = fails(capsys, big, out, "--dtype", "fp16")
    assert "decoder.conv_in.bias holds 1e+06, more than float16 can" in words
    assert "--family flux has 16" in fails(capsys, source(), out, "--family", "flux")
    assert out.read_text() == "old"


def test_a_wrong_command_line_is_a_usage_error(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["a", "b", "--layout", "onnx"])
    assert caught.value.code == 2
    assert "usage: convert.py" in capsys.readouterr().err


# Kills and full disks

# Runs convert again and again in forked children, each ended at its Nth file operation as a kill
# would, or with a limit on the size of files; prints what became of OUT.
DRIVER = """
import builtins, hashlib, json, os, resource, shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from trainer.convert import main

def counted(call, left):
    def wrapper(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os._exit(137)
        return call(*args, **kwargs)
    return wrapper

def crash_at(stop):
    left, plain = [stop], builtins.open
    opened = counted(plain, left)
    def chosen(file, mode="r", *args, **kwargs):
        return (opened if "w" in mode else plain)(file, mode, *args, **kwargs)
    builtins.open = chosen
    for name in ("fsync", "replace", "rename", "rmdir", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name), left))

def digest(target):
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

def fate(start, target, layout, limit, stop):
    child = os.fork()
    if child == 0:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        else:
            crash_at(stop)
        os._exit(main([start, str(target), "--layout", layout, "--dtype", "fp16"]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [code, digest(target), sorted(os.listdir(target.parent))]

for start, target, layout, limit in json.loads(sys.argv[2]):
    target, fates = Path(target), []
    for stop in range(60):
        fates.append(fate(start, target, layout, limit, stop))
        if fates[-1][0] == 0 or limit:
            break
        if stop % 2:  # let every other leftover lie, for the next one to cope with
            for name in target.parent.glob(".*"):
                shutil.rmtree(name)
    print(json.dumps(fates), flush=True)
"""
LIMIT = 10_000  # bytes; the weights need more


class Fates(NamedTuple):
    """Of each case: the digest of the old OUT, then (exit code, digest, names) of each try."""

    old: dict[str, str]
    seen: dict[str, list[Any]]
    said: str


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory) -> Fates:
    root = tmp_path_factory.mktemp("fates")
    make("tiny").save_pretrained(root / "in")
    cases: dict[str, tuple[Path, str, int]] = {
        "file": (root / "1" / "vae.safetensors", "ldm", 0),
        "folder": (root / "2" / "vae", "diffusers", 0),
        "full disk": (root / "3" / "vae", "diffusers", LIMIT),
    }
    for target, layout, _ in cases.values():
        target.parent.mkdir()
        assert main([str(root / "in"), str(target), "--layout", layout, "--dtype", "fp32"]) == 0
    old = {name: digest(case[0]) for name, case in cases.items()}
    listed = [[str(root / "in"), str(target), *rest] for target, *rest in cases.values()]
    command = [sys.executable, "-c", DRIVER, str(ROOT), json.dumps(listed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    assert len(lines) == len(cases), done.stderr
    return Fates(old, dict(zip(cases, map(json.loads, lines), strict=True)), done.stderr)


linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="fork, and names exchanged in one step"
)


@pytest.mark.slow
@linux
@pytest.mark.parametrize(("case", "name"), [("file", "vae.safetensors"), ("folder", "vae")])
def test_killed_at_any_file_operation_out_is_old_or_new(fates: Fates, case: str, name: str) -> None:
    old, (*killed, (code, new, names)) = fates.old[case], fates.seen[case]
    assert code == 0, fates.said
    assert new != old
    assert {tuple(entry[:2]) for entry in killed} == {(137, old), (137, new)}
    assert len(killed) > 6
    assert [entry for entry in names if not entry.startswith(".")] == [name]


@pytest.mark.slow
@linux
def test_a_full_disk_leaves_out_as_it_was(fates: Fates) -> None:
    assert fates.seen["full disk"] == [[1, fates.old["full disk"], ["vae"]]]
    assert "convert.py: nothing was changed: " in fates.said
    assert "(errno 27)" in fates.said
    assert "Traceback" not in fates.said
