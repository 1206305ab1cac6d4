"""Where the perceptual distance comes from, each refusal, and the encoder's features."""

import dataclasses
import hashlib
import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from trainer import weights
from trainer.errors import UserError
from trainer.judge import perceptual
from trainer.judge.perceptual import load_perceptual
from vae_core import lpips as lpips_math
from vae_core.checkpoint import write_safetensors
from vae_core.lpips_weights import weight_shapes


def random_state(net: str = "squeeze") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = weight_shapes(net).items()
    return {name: 0.1 * torch.rand(shape, generator=generator) - 0.04 for name, shape in shapes}


def pixels(count: int = 2, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, 20, 20, generator=generator) * 2 - 1


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no address that answers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for net in weights.ADDRESSES:
        gone = tmp_path / f"{net}-12345678.pth"
        monkeypatch.setitem(weights.ADDRESSES, net, gone.as_uri())
    return tmp_path / "torch" / "hub"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A weights file of squeeze."""
    path = tmp_path / "lpips_squeeze.safetensors"
    write_safetensors(path, random_state(), {})
    return path


@pytest.fixture
def tiny_taesd() -> AutoencoderTiny:
    """A real AutoencoderTiny, three levels deep, ratio 4."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = {f"{side}_block_out_channels": (8, 8, 8) for side in ("encoder", "decoder")}
        blocks = {f"num_{side}_blocks": (1, 2, 1) for side in ("encoder", "decoder")}
        return AutoencoderTiny(**widths, **blocks, latent_channels=4).eval()


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put squeeze's backbone at an address that answers."""
    torch.save(random_state(), folder / "raw.pth")
    digest = hashlib.sha256((folder / "raw.pth").read_bytes()).hexdigest()
    path = (folder / "raw.pth").rename(folder / f"squeeze-{digest[:8]}.pth")
    monkeypatch.setitem(weights.ADDRESSES, "squeeze", path.as_uri())
    return path


# Weights for LPIPS


def test_a_file_gives_lpips(file, tiny_vae) -> None:
    found = load_perceptual("squeeze", str(file), False, tiny_vae, "cpu")
    assert (found.name, found.is_lpips, found.smallest_side) == ("lpips-squeeze", True, 17)
    assert found.source == "lpips_squeeze.safetensors"
    x, y = pixels(seed=0), pixels(seed=1)
    expected = lpips_math.lpips(random_state(), "squeeze", x, y)
    assert torch.equal(found.distance(x, y), expected)
    assert expected.min() > 0


def test_a_file_beats_the_fallback(file, tiny_vae) -> None:
    assert load_perceptual("squeeze", str(file), True, tiny_vae, "cpu").is_lpips


def test_grey_pictures_are_repeated(file, tiny_vae) -> None:
    found = load_perceptual("squeeze", str(file), False, tiny_vae, "cpu")
    x, y = pixels(channels=1, seed=0), pixels(channels=1, seed=1)
    expected = found.distance(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1))
    assert torch.equal(found.distance(x, y), expected)


def test_a_file_of_another_net_is_refused(file, tiny_vae) -> None:
    with pytest.raises(UserError, match="weights of 'squeeze', but --lpips-net is 'vgg'"):
        load_perceptual("vgg", str(file), False, tiny_vae, "cpu")


@pytest.mark.parametrize("name", ["lpips.pth", "lpips.safetensors"])
def test_a_pickle_is_refused(name: str, tmp_path, tiny_vae) -> None:
    torch.save(random_state(), tmp_path / name)
    with pytest.raises(UserError, match=f"--lpips-weights .*{name}"):
        load_perceptual("squeeze", str(tmp_path / name), False, tiny_vae, "cpu")


def test_a_missing_file_is_named(tmp_path, tiny_vae) -> None:
    with pytest.raises(UserError, match="--lpips-weights .*none.safetensors"):
        load_perceptual("squeeze", str(tmp_path / "none.safetensors"), False, tiny_vae, "cpu")


def test_missing_tensors_are_named(tmp_path, tiny_vae) -> None:
    state = random_state()
    del state["lin2.model.1.weight"]
    path = tmp_path / "short.safetensors"
    write_safetensors(path, state, {})
    with pytest.raises(UserError, match="short.safetensors.*'squeeze'.*lin2.model.1.weight"):
        load_perceptual("squeeze", str(path), False, tiny_vae, "cpu")


def test_weights_that_are_not_finite_are_refused(tmp_path, tiny_vae) -> None:
    state = random_state()
    state["lin2.model.1.weight"][0, 5] = math.nan
    path = tmp_path / "nan.safetensors"
    write_safetensors(path, state, {})
    with pytest.raises(UserError, match="lin2.model.1.weight"):
        load_perceptual("squeeze", str(path), False, tiny_vae, "cpu")


def test_what_cannot_be_had_ends_in_the_ways_out(tiny_vae, hub) -> None:
    with pytest.raises(UserError) as refusal:
        load_perceptual("vgg", None, False, tiny_vae, "cpu")
    said = str(refusal.value)
    assert "'vgg' cannot be had" in said
    for way in ("--lpips-weights FILE", "trainer/weights.py --lpips-net vgg", "--lpips-weight 0"):
        assert way in said
    assert not hub.exists() or not list(hub.rglob("*.*"))


def test_what_is_not_required_may_be_absent(tiny_vae) -> None:
    assert load_perceptual("vgg", None, False, tiny_vae, "cpu", required=False) is None


def test_a_fetch_is_kept_for_later(tmp_path, monkeypatch, tiny_vae, hub) -> None:
    address = publish(tmp_path, monkeypatch)
    first = load_perceptual("squeeze", None, False, tiny_vae, "cpu")
    address.unlink()
    for copy in (hub / "checkpoints").iterdir():
        copy.unlink()
    second = load_perceptual("squeeze", None, False, tiny_vae, "cpu")
    assert (first.source, second.source) == ("downloaded now", "the cache of an earlier download")
    x, y = pixels(seed=0), pixels(seed=1)
    assert torch.equal(first.distance(x, y), second.distance(x, y))


def test_a_damaged_cache_is_fetched_anew(tmp_path, monkeypatch, tiny_vae) -> None:
    publish(tmp_path, monkeypatch)
    load_perceptual("squeeze", None, False, tiny_vae, "cpu")
    whole = perceptual.cache_path("squeeze").read_bytes()
    perceptual.cache_path("squeeze").write_bytes(whole[: len(whole) // 2])
    assert load_perceptual("squeeze", None, False, tiny_vae, "cpu").source == "downloaded now"
    assert perceptual.cache_path("squeeze").read_bytes() == whole


def test_a_cache_that_cannot_be_written_stops_nobody(tmp_path, monkeypatch, tiny_vae, hub) -> None:
    publish(tmp_path, monkeypatch)
    hub.mkdir(parents=True)
    (hub / "vae_lab").write_text("a file where the folder should be", "utf-8")
    assert load_perceptual("squeeze", None, False, tiny_vae, "cpu").is_lpips


# The encoder's features


@pytest.fixture(params=["kl", "tiny"])
def vae(request, tiny_vae, tiny_taesd) -> nn.Module:
    return tiny_vae if request.param == "kl" else tiny_taesd


def fallback(vae: nn.Module) -> perceptual.Perceptual:
    return load_perceptual("vgg", None, True, vae, "cpu")


def test_the_fallback_says_its_name_and_fetches_nothing(vae, monkeypatch) -> None:
    monkeypatch.setattr(perceptual, "fetch_weights", lambda net: pytest.fail("it fetched"))
    found = fallback(vae)
    assert (found.name, found.is_lpips) == ("encoder-features", False)
    assert "encoder" in found.source
    assert found.smallest_side == (2 if hasattr(vae.encoder, "down_blocks") else 4)


def levels_by_hooks(vae: nn.Module, x: Tensor) -> list[Tensor]:
    """The features as the VAE's own encoder makes them, caught on their way."""
    caught: list[Tensor] = []
    if isinstance(vae, AutoencoderTiny):
        # conv, block | stride, block, block | stride, block | conv
        modules = [vae.encoder.layers[i] for i in (1, 4, 6)]
    else:
        modules = list(vae.encoder.down_blocks)
    hooks = [m.register_forward_hook(lambda m, i, out: caught.append(out)) for m in modules]
    vae.encode(x)
    for hook in hooks:
        hook.remove()
    return caught


@torch.no_grad()
def test_the_fallback_is_the_distance_of_unit_features(vae) -> None:
    x, y = pixels(seed=0), pixels(seed=1)
    levels = zip(levels_by_hooks(vae, x), levels_by_hooks(vae, y), strict=True)
    unit = nn.functional.normalize
    squares = [(unit(a, dim=1) - unit(b, dim=1)).square() for a, b in levels]
    expected = torch.stack([square.sum(1).mean((1, 2)) for square in squares]).mean(0)
    torch.testing.assert_close(fallback(vae).distance(x, y), expected, rtol=1e-4, atol=1e-6)
    assert len(squares) == (2 if hasattr(vae.encoder, "down_blocks") else 3)


def test_the_fallback_stays_when_the_encoder_trains(vae) -> None:
    found, x, y = fallback(vae), pixels(seed=0), pixels(seed=1)
    before = found.distance(x, y)
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.mul_(1.5).add_(0.1)
    assert torch.equal(found.distance(x, y), before)


def test_the_fallback_sends_gradient_to_x_alone(vae) -> None:
    x, y = pixels(seed=0).requires_grad_(), pixels(seed=1).requires_grad_()
    fallback(vae).distance(x, y).sum().backward()
    assert x.grad.abs().sum() > 0 and y.grad is None
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_the_fallback_of_identical_pictures(vae) -> None:
    x = pixels().requires_grad_()
    distance = fallback(vae).distance(x, x.detach().clone())
    distance.sum().backward()
    assert distance.tolist() == [0.0, 0.0]
    assert x.grad.isfinite().all()


def test_the_fallback_survives_dead_features(tiny_taesd) -> None:
    with torch.no_grad():
        for parameter in tiny_taesd.encoder.parameters():
            parameter.zero_()
    x = pixels().requires_grad_()
    fallback(tiny_taesd).distance(x, pixels(seed=1)).sum().backward()
    assert x.grad.isfinite().all()


@torch.no_grad()
def test_the_fallback_grows_with_the_difference(vae) -> None:
    found, y = fallback(vae), pixels(seed=0)
    little, much = (y + strength * pixels(seed=1) for strength in (0.1, 0.5))
    assert (found.distance(little, y) < found.distance(much, y)).all()
    torch.testing.assert_close(found.distance(much, y), found.distance(y, much))
    items = [found.distance(much[i : i + 1], y[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(found.distance(much, y), torch.cat(items))


@torch.no_grad()
def test_the_fallback_ignores_autocast_and_checkpointing(vae) -> None:
    x, y = pixels(seed=0), pixels(seed=1)
    expected = fallback(vae).distance(x, y)
    vae.enable_gradient_checkpointing()
    found = fallback(vae)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        distance = found.distance(x.requires_grad_(), y)
    assert distance.dtype == torch.float32
    assert torch.equal(distance, expected)


def test_a_perceptual_is_frozen(file, tiny_vae) -> None:
    found = load_perceptual("squeeze", str(file), False, tiny_vae, "cpu")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "lpips-vgg"
