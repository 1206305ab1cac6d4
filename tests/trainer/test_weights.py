"""Fetching LPIPS weights: torch.hub's real path on file:// addresses, real heads, real refusals."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer import weights
from trainer.errors import UserError
from vae_core.checkpoint import read_header, read_tensors, write_safetensors
from vae_core.lpips_weights import weight_shapes


def backbone_state(net: str = "squeeze") -> dict[str, Tensor]:
    """A backbone as torchvision saves it: features, and a classifier that LPIPS has no use for."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: s for name, s in weight_shapes(net).items() if name.startswith("features.")}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {"classifier.1.weight": torch.zeros(10, 4)}


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]) -> Path:
    """Put a backbone at a file:// address under the name that tells its SHA-256."""
    torch.save(state, folder / "raw.pth")
    digest = hashlib.sha256((folder / "raw.pth").read_bytes()).hexdigest()
    path = (folder / "raw.pth").rename(folder / f"squeezenet1_1-{digest[:8]}.pth")
    monkeypatch.setitem(weights.ADDRESSES, "squeeze", path.as_uri())
    return path


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub"


def test_fetch_joins_backbone_and_heads(tmp_path, monkeypatch) -> None:
    backbone = backbone_state()
    publish(tmp_path, monkeypatch, backbone)
    state = weights.fetch_weights("squeeze")
    assert set(state) == set(weight_shapes("squeeze"))
    assert torch.equal(state["features.3.squeeze.bias"], backbone["features.3.squeeze.bias"])
    head = weights.read_heads("squeeze")["lin6.model.1.weight"]
    assert torch.equal(state["lin6.model.1.weight"], head)


@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
def test_heads_are_the_published_ones(net: str) -> None:
    heads = weights.read_heads(net)
    shapes = {k: s for k, s in weight_shapes(net).items() if k.startswith("lin")}
    assert {name: tuple(tensor.shape) for name, tensor in heads.items()} == shapes
    assert all((tensor >= 0).all() for tensor in heads.values())  # LPIPS trains them so


def test_heads_are_those_of_the_asset(assets) -> None:
    theirs = read_tensors(assets / "models" / "lpips_squeeze.safetensors")
    for name, tensor in weights.read_heads("squeeze").items():
        torch.testing.assert_close(tensor, theirs[name].float())


def test_addresses_carry_a_checksum() -> None:
    for address in weights.ADDRESSES.values():
        assert address.startswith("https://download.pytorch.org/models/")
        checksum = address.removesuffix(".pth").rsplit("-", 1)[1]
        assert len(checksum) == 8 and int(checksum, 16)


def test_a_changed_download_is_refused(tmp_path, monkeypatch, hub) -> None:
    path = publish(tmp_path, monkeypatch, backbone_state())
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="could not be fetched.*hash"):
        weights.fetch_weights("squeeze")
    assert not list(hub.rglob("*.pth"))


def test_an_address_without_answer_is_named(tmp_path, monkeypatch) -> None:
    address = (tmp_path / "gone-12345678.pth").as_uri()
    monkeypatch.setitem(weights.ADDRESSES, "squeeze", address)
    with pytest.raises(UserError, match="gone-12345678.pth could not be fetched"):
        weights.fetch_weights("squeeze")


def test_torch_hubs_own_copy_needs_no_network(tmp_path, monkeypatch) -> None:
    path = publish(tmp_path, monkeypatch, backbone_state())
    weights.download_backbone("squeeze")
    path.unlink()
    assert "features.0.weight" in weights.download_backbone("squeeze")


def test_local_pth_is_known_by_its_checksum(tmp_path, monkeypatch) -> None:
    path = publish(tmp_path, monkeypatch, backbone_state())
    assert set(weights.fetch_weights("squeeze", path)) == set(weight_shapes("squeeze"))


class Marker:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
def test_a_foreign_pickle_is_not_opened(name: str, tmp_path, capsys) -> None:
    marker, evil = tmp_path / "marker", tmp_path / name
    evil.write_bytes(pickle.dumps(Marker(marker)))
    arguments = ["--lpips-net", "squeeze", "--lpips-weights", str(evil)]
    assert weights.main([*arguments, "--output", str(tmp_path / "out.safetensors")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not marker.exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_main_writes_one_file_the_same_each_time(tmp_path, monkeypatch, capsys) -> None:
    publish(tmp_path, monkeypatch, backbone_state())
    files = [tmp_path / "new folder" / name for name in ("a.safetensors", "b.safetensors")]
    for file in files:
        assert weights.main(["--lpips-net", "squeeze", "--output", str(file)]) == 0
    assert "LPIPS squeeze, 57 tensors" in capsys.readouterr().out
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_header(files[0]).metadata["vae_lab.lpips_net"] == "squeeze"
    written, expected = read_tensors(files[0]), weights.fetch_weights("squeeze")
    assert all(torch.equal(written[name], expected[name]) for name in weight_shapes("squeeze"))


def test_another_nets_backbone_does_not_fit(tmp_path, capsys) -> None:
    local = tmp_path / "local.safetensors"
    write_safetensors(local, backbone_state("squeeze"), {})
    output = str(tmp_path / "out.safetensors")
    arguments = ["--lpips-net", "alex", "--lpips-weights", str(local), "--output", output]
    assert weights.main(arguments) == 2
    error = capsys.readouterr().err
    assert "local.safetensors does not fit" in error and "'alex'" in error


def test_output_must_be_safetensors(tmp_path, capsys) -> None:
    assert weights.main(["--lpips-net", "vgg", "--output", str(tmp_path / "vgg.pth")]) == 2
    assert "Expected --output to end in .safetensors, got 'vgg.pth'" in capsys.readouterr().err


def test_missing_local_file_is_named(tmp_path, capsys) -> None:
    missing = str(tmp_path / "none.pth")
    output = str(tmp_path / "o.safetensors")
    arguments = ["--lpips-net", "vgg", "--lpips-weights", missing, "--output", output]
    assert weights.main(arguments) == 2
    assert missing in capsys.readouterr().err


def test_entry_runs_as_a_file_from_anywhere(tmp_path, project: Path) -> None:
    local, output = tmp_path / "local.safetensors", tmp_path / "out.safetensors"
    write_safetensors(local, backbone_state(), {})
    command = [sys.executable, str(project / "trainer" / "weights.py"), "--lpips-net", "squeeze"]
    command += ["--lpips-weights", str(local), "--output", str(output)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(read_tensors(output)) == set(weight_shapes("squeeze"))
