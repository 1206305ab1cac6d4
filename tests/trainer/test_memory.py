"""The count of memory, against what real steps on real tensors save and allocate."""

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from tests.conftest import TINY
from trainer.judge.perceptual import Perceptual, encoder_features
from trainer.options.config import TrainConfig
from trainer.training.face_terms import MOST_WINDOWS
from trainer.training.live_bytes import LiveBytes
from trainer.training.memory import Memory, expected_memory, optimizer_bytes, planned_model
from trainer.training.optimizer import make_optimizer
from trainer.training.run import arrange_blocks, choose_trained, make_adversary, make_step
from trainer.vae.autoencoder import Posterior
from vae_core.compare.figures import PATCH

SD = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
TAESD = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
    "latent_channels": 4,
}
ARCHITECTURE = {"_class_name": "AutoencoderKL", **TINY}
MIB = 2**20


def make(**values) -> TrainConfig:
    basics = {"vae": "x", "data": "y", "output": "z", "batch_size": 2, "resolution": 32}
    basics |= {"lpips_weight": 0.0, "eval_resolution": 8, "activation_memory": "eager"}
    return TrainConfig(**(basics | values))


@cache
def count(world: int = 1, **changes) -> Memory:
    """Count the tiny VAE, once per change of options."""
    return expected_memory(make(**changes), ARCHITECTURE, None, world)


def real_step(vae: nn.Module, config: TrainConfig, perceptual=None) -> Callable[[], torch.Tensor]:
    """The step as a run takes it, on real tensors; with a place for gradients."""
    choose_trained(vae.train(), config)
    arrange_blocks(vae, config, "cpu")
    for weight in vae.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    adversary = make_adversary(config, vae, torch.device("cpu"))
    if adversary:
        adversary.prepare(config.max_steps)
        for weight in adversary.parameters:
            weight.grad = torch.zeros_like(weight)
    step = make_step(config, vae, perceptual, adversary)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(2, 4, 16, 16, generator=generator)
    if config.cache_latents:
        return lambda: step(pixels, noise, Posterior(noise.half(), noise.half()))["loss"]
    return lambda: step(pixels, noise)["loss"]


# Against real steps


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trainable": "all"},
        {"activation_memory": "checkpoint"},
        {"activation_memory": "fused"},
        {"activation_memory": "fused", "lora_rank": 2},
        {"lora_rank": 2},
        {"lpips_weight": 0.1},
        {"cache_latents": "there"},
        {"gan_weight": 1.0, "hf_weight": 1.0},
    ],
)
def test_a_step_is_counted_as_real_ones_save_and_allocate(
    tiny_vae: AutoencoderKL, changes: dict
) -> None:
    config = make(**changes)
    perceptual = encoder_features(tiny_vae, "cpu") if config.lpips_weight else None
    memory = expected_memory(config, ARCHITECTURE, perceptual)
    step = real_step(tiny_vae, config, perceptual)
    loss, saved = saved_for_backward(step)
    loss.backward()
    given = {place(weight) for weight in tiny_vae.parameters()}
    given |= {place(weight) for weight in weights_of(perceptual)}
    activations = sum(size for name, size in memory.step.items() if name.startswith("act"))
    # a distance's or discriminator's own graph, which is gone by now, would be in `saved`
    if perceptual is None and not config.gan_weight:
        assert activations == pytest.approx(bytes_besides(given, saved), rel=0.02)
    peak = allocator_peak(lambda: step().backward())
    assert sum(memory.step.values()) == pytest.approx(peak, rel=0.2)  # libraries take work space


def test_with_cached_latents_no_encoder_is_counted(tiny_vae: AutoencoderKL) -> None:
    parts = (tiny_vae.decoder, tiny_vae.post_quant_conv)
    decoder = sum(4 * weight.numel() for part in parts for weight in part.parameters())
    assert count(cache_latents="there").lasting["weights"] == decoder
    assert count().lasting["weights"] > decoder


def place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def weights_of(perceptual: Perceptual | None) -> list[torch.Tensor]:
    """The weights that the distance of encoder_features encloses."""
    if perceptual is None:
        return []
    distance = inspect.getclosurevars(perceptual.distance).nonlocals["distance"]
    features = inspect.getclosurevars(distance).nonlocals["features"]
    return list(inspect.getclosurevars(features).nonlocals["encoder"].parameters())


def saved_for_backward(
    step: Callable[[], torch.Tensor],
) -> tuple[torch.Tensor, dict[int, torch.UntypedStorage]]:
    """Take the forward part of a step; return its loss and the storages that autograd keeps."""
    held = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[place(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return step(), held


def bytes_besides(given: set[int], held: dict[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for where, storage in held.items() if where not in given)


def allocator_peak(work: Callable[[], object]) -> int:
    """The most bytes that `work` holds, as torch's own allocator reports them."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    now = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        peak = max(peak, now)
    return peak


def test_sd_matches_the_known_figures() -> None:
    config = make(batch_size=1, resolution=512)
    memory = expected_memory(config, SD, None)
    known = 5.56 * 1024 * MIB  # measured elsewhere: eager, fp32, one picture
    assert memory.step["activations of the decoder"] == pytest.approx(known, rel=0.05)
    assert memory.lasting["weights"] == 4 * 83_653_863
    assert memory.lasting["optimizer"] == 8 * 49_490_199
    assert memory.lasting["gradients"] == memory.lasting["averaged weights"] == 4 * 49_490_199


@pytest.mark.parametrize(
    "change",
    [
        ("activation_memory", "fused"),
        ("activation_memory", "checkpoint"),
        ("mixed_precision", "bf16"),
    ],
)
def test_what_saves_memory_saves_memory(change: tuple[str, str]) -> None:
    assert sum(count(**dict([change])).step.values()) < 0.8 * sum(count().step.values())


def test_the_batch_counts() -> None:
    two, four = (
        count(**more).step["activations of the decoder"] for more in ({}, {"batch_size": 4})
    )
    assert four == pytest.approx(2 * two, rel=0.01)


def test_gradients_are_not_counted_with_what_comes_and_goes() -> None:
    wide = {**ARCHITECTURE, "block_out_channels": (64, 64)}
    memory = expected_memory(make(batch_size=1, resolution=8), wide, None)
    assert sum(memory.step.values()) < 0.8 * memory.lasting["gradients"]


# What lasts


def test_eight_bit_state_is_a_quarter() -> None:
    vae = planned_model(make(), SD)
    full = optimizer_bytes(make(), vae)
    assert 0.25 < optimizer_bytes(make(optimizer="adamw8bit"), vae) / full < 0.26


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_are_counted_as_the_optimizer_makes_them(tiny_vae: nn.Module, optimizer) -> None:
    config = make(optimizer=optimizer)
    weights = list(tiny_vae.parameters())
    made = make_optimizer(config, weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    made.step()
    held = [value for state in made.state.values() for value in state.values()]
    moments = sum(4 * value.numel() for value in held if torch.is_tensor(value) and value.ndim)
    assert optimizer_bytes(config, tiny_vae) == moments


def test_several_processes_hold_gradients_twice_where_they_add_them_up() -> None:
    assert count().total == count(world=2).total
    parts = {"gradient_accumulation_steps": 2}
    alone, together = count(**parts), count(world=2, **parts)
    extra = together.lasting["gradients in exchange"]
    assert "gradients in exchange" not in alone.lasting
    assert together.total - alone.total == extra == together.lasting["gradients"]


def test_the_fallbacks_weights_are_an_encoder(tiny_vae: AutoencoderKL) -> None:
    config, perceptual = make(lpips_weight=0.1), encoder_features(tiny_vae, "cpu")
    memory = expected_memory(config, ARCHITECTURE, perceptual)
    down = [*tiny_vae.encoder.conv_in.parameters(), *tiny_vae.encoder.down_blocks.parameters()]
    assert memory.lasting["perceptual weights"] == sum(4 * weight.numel() for weight in down)
    assert memory.step["the loss while it is computed"] > 0


def test_lpips_of_faces_is_counted_whatever_the_size_of_the_crops(tiny_vae: AutoencoderKL) -> None:
    perceptual = encoder_features(tiny_vae, "cpu")
    for resolution in (64, 256):
        config = make(resolution=resolution, batch_size=1)
        without = expected_memory(config, ARCHITECTURE, perceptual)
        config = dataclasses.replace(config, face_lpips_weight=0.3)
        more = expected_memory(config, ARCHITECTURE, perceptual).total - without.total
        windows = MOST_WINDOWS * 3 * PATCH**2 * 4  # of the output; as much again of the original
        assert more > 2 * windows


def test_large_photos_may_need_more_than_the_step() -> None:
    small, large = count(), count(eval_resolution=512)
    assert small.total == sum(small.lasting.values()) + sum(small.step.values())
    assert large.total == sum(large.lasting.values()) + sum(large.evaluation.values())


@pytest.mark.parametrize(
    ("trainable", "activation_memory"), [("decoder", "eager"), ("all", "checkpoint")]
)
def test_a_tiny_autoencoder_is_counted(trainable: str, activation_memory: str) -> None:
    config = make(trainable=trainable, activation_memory=activation_memory)
    memory = expected_memory(config, TAESD, None)
    assert ("activations of the encoder" in memory.step) == (trainable == "all")


def test_counting_leaves_everything_as_it_was(tiny_vae: AutoencoderKL) -> None:
    perceptual = encoder_features(tiny_vae, "cpu")
    before = {name: value.clone() for name, value in tiny_vae.state_dict().items()}
    random_state = torch.get_rng_state()
    expected_memory(make(lpips_weight=0.1, lora_rank=2), ARCHITECTURE, perceptual)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in tiny_vae.state_dict().items())
    assert all(weight.grad is None for weight in tiny_vae.parameters())
    x = torch.zeros(1, 3, 16, 16)
    assert torch.isfinite(perceptual.distance(x, x)).all()


def test_memory_adds_up() -> None:
    memory = Memory({"a": 1, "b": 2}, {"c": 10}, {"d": 4})
    assert memory.total == 13
    assert dataclasses.replace(memory, evaluation={"d": 40}).total == 43


# The counter


def test_live_bytes_follow_storages() -> None:
    outside = torch.zeros(100)
    with LiveBytes() as live:
        a = torch.zeros(10)
        view = a[2:]
        b = a + 1
        outside.add_(1)
        assert live.now == 80
        del a
        assert live.now == 80
        del view
        assert live.now == 40
        del b
    assert (live.now, live.peak, live.given) == (0, 80, 400)
