"""How much memory a run is expected to need, by part: counted, not guessed.

The step itself (encode, sample, decode, loss, backward) runs once on fake tensors, which have
shapes and a device but no data, while each storage is followed from its birth to its end. So the
count holds for any architecture, precision and loss. It leaves out what no tensor holds: a GPU's
driver and work space. On the CPU that is added as measured (benchmarks/memory_forecast.py).
https://docs.pytorch.org/docs/stable/user_guide/torch_compiler/torch.compiler_fake_tensor.html
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.judge.perceptual import Perceptual
from trainer.options.config import TrainConfig
from trainer.training.adversary import Adversary
from trainer.training.discriminator import PatchDiscriminator, parameter_count
from trainer.training.face_terms import MOST_WINDOWS
from trainer.training.live_bytes import LiveBytes
from trainer.training.losses import TrainStep
from trainer.training.muon import is_hidden
from trainer.training.run import arrange_blocks, choose_trained, make_step
from trainer.training.teacher import Teacher
from trainer.vae.autoencoder import (
    DECODER_PREFIXES,
    Posterior,
    build,
    image_channels,
    is_tiny,
    latent_channels,
    ratio,
)
from trainer.vae.tiles import plan_tiles, round_trip

T = TypeVar("T")
FLOAT32 = 4  # bytes
EIGHT_BIT_FROM = 4096  # elements; bitsandbytes keeps the state of smaller tensors in float32
EIGHT_BIT_BLOCK = 256  # elements that share one float32 scale in bitsandbytes' state
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
BASE = "base for comparison"
# What comes on top on the CPU, measured on Linux: code and scratch of libraries, and blocks that
# the C library keeps though they are free, more of them where activations come and go repeatedly.
CPU_LIBRARIES = 200 * 2**20  # bytes
CPU_RECOMPUTING = {"fused": 0.2, "checkpoint": 0.5}  # of a step's own bytes
CPU_LEAST_KEPT = 150 * 2**20  # of such blocks: steps of small pictures leave most of theirs behind
LONG_SIDE = 1.5  # of a photo that is measured, for a short side of 1


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes a process is expected to need on its device, by part.

    `lasting` stays for the whole run, `step` comes with each training step, and `evaluation`
    comes instead of it while a photo of 3:2 is measured. `besides` is what no tensor holds.
    """

    lasting: dict[str, int]
    step: dict[str, int]
    evaluation: dict[str, int]
    besides: int = 0

    @property
    def foretold(self) -> int:
        """The most that the process is expected to grow by, in bytes."""
        return self.total + self.besides

    @property
    def total(self) -> int:
        """The most that its tensors take at any time, in bytes."""
        most = max(sum(self.step.values()), sum(self.evaluation.values()))
        return sum(self.lasting.values()) + most


def expected_memory(
    config: TrainConfig,
    architecture: dict[str, Any],
    perceptual: Perceptual | None,
    world: int = 1,
    device: torch.device | str = "cpu",
    teacher: Teacher | None = None,
) -> Memory:
    """Count the memory of a run for one of `world` processes; allocates next to nothing itself."""
    device = torch.device(device)
    with FakeTensorMode(allow_non_fake_inputs=True):
        vae = planned_model(config, architecture, device)
        _make_fake(vae, device)
        step = _count_step(config, vae, perceptual, device, teacher)
        measuring = _count_measuring(config, vae, perceptual, device)
    lasting = _lasting(config, vae, world) | _given(step.given, teacher)
    evaluation = {
        "averaged weights in place": _trained_bytes(vae),
        BASE: _bytes(vae.state_dict().values()),
        "activations": measuring,
    }
    if device.type == "cpu":  # elsewhere the base comes to the device for evaluation alone
        lasting[BASE] = evaluation.pop(BASE)
    besides = _besides(config, sum(step.parts().values()), device)
    return Memory(_some(lasting), _some(step.parts()), _some(evaluation), besides)


def _besides(config: TrainConfig, step: int, device: torch.device) -> int:
    if device.type != "cpu":
        return 0
    share = CPU_RECOMPUTING.get(config.activation_memory, 0)
    return CPU_LIBRARIES + (max(CPU_LEAST_KEPT, int(share * step)) if share else 0)


def _some(parts: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in parts.items() if size}


def planned_model(
    config: TrainConfig, architecture: dict[str, Any], device: torch.device | str = "cpu"
) -> nn.Module:
    """Build a model as the run will have it, frozen and adapted, on the meta device: no data."""
    with torch.device("meta"):
        vae = build(architecture).train()
        choose_trained(vae, config)
    arrange_blocks(vae, config, device)
    return vae


def _make_fake(vae: nn.Module, device: torch.device) -> None:
    """Give a model fake weights on `device`, with a place for their gradients."""
    for module in vae.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty_like(parameter, device=device)
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
            if parameter.requires_grad:  # else gradients would be counted with what comes and goes
                getattr(module, name).grad = torch.empty_like(fake)


# What lasts


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _trained_bytes(vae: nn.Module) -> int:
    return _bytes(parameter for parameter in vae.parameters() if parameter.requires_grad)


def optimizer_bytes(config: TrainConfig, vae: nn.Module) -> int:
    """Add up the moments of the trained weights: two each, in float32 or 8 bits; Muon's one."""
    weights = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw8bit":
        return sum(2 * _eight_bit_bytes(weight.numel()) for weight in weights)
    muon = config.optimizer == "muon"
    moments = [1 if muon and is_hidden(weight) else 2 for weight in weights]
    return sum(n * FLOAT32 * weight.numel() for n, weight in zip(moments, weights, strict=True))


def _eight_bit_bytes(elements: int) -> int:
    if elements < EIGHT_BIT_FROM:
        return FLOAT32 * elements
    return elements + FLOAT32 * -(-elements // EIGHT_BIT_BLOCK)


def discriminator_bytes(config: TrainConfig, vae: nn.Module, copies: int) -> int:
    """Size the discriminator of --gan-weight, in float32, so many times over; 0 without one."""
    if not config.gan_weight:
        return 0
    return copies * FLOAT32 * parameter_count(image_channels(vae))


def _lasting(config: TrainConfig, vae: nn.Module, world: int) -> dict[str, int]:
    trained = _trained_bytes(vae)
    # several processes exchange them where they lie, unless they were added up beside that
    accumulates = config.gradient_accumulation_steps > 1
    return {
        "weights": _bytes(_held(config, vae)),
        "averaged weights": trained,
        "gradients": trained,
        "gradients in exchange": trained if world > 1 and accumulates else 0,
        "optimizer": optimizer_bytes(config, vae),
        "discriminator": discriminator_bytes(config, vae, 4),  # gradients and two moments, too
    }


def _given(size: int, teacher: Teacher | None) -> dict[str, int]:
    """Tell a teacher's weights from the perceptual distance's, of all that were given."""
    taught = 0 if teacher is None else _bytes(teacher.vae.parameters())
    return {"perceptual weights": size - taught, "teacher": taught}


def _held(config: TrainConfig, vae: nn.Module) -> list[Tensor]:
    """List the weights that stay on the device; with cached latents, not those of the encoder."""
    return [
        weight
        for name, weight in vae.state_dict().items()
        if not config.cache_latents or name.startswith(DECODER_PREFIXES)
    ]


# What comes and goes


class StepMemory(NamedTuple):
    """Bytes of one training step, by where they are held; their sum is the most at any time."""

    encoder: int
    decoder: int
    loss: int
    backward: int
    given: int  # real weights that the step reads: of the perceptual distance and of a teacher

    def parts(self) -> dict[str, int]:
        """Name what comes and goes with the step."""
        return {
            "activations of the encoder": self.encoder,
            "activations of the decoder": self.decoder,
            "the loss while it is computed": self.loss,
            "more in the backward pass": self.backward,
        }


def _count_step(
    config: TrainConfig,
    vae: nn.Module,
    perceptual: Perceptual | None,
    device: torch.device,
    teacher: Teacher | None,
) -> StepMemory:
    live, marks = LiveBytes(), {}
    adversary = _planned_adversary(config, vae, device)
    if adversary:
        adversary.judge = _marking(adversary.judge, live, marks)
    if config.uses_perceptual:
        distance = _marking(perceptual.distance, live, marks)
        perceptual = dataclasses.replace(perceptual, distance=distance)
    step = make_step(config, vae, perceptual, adversary, teacher)
    inputs = _inputs(config, vae, device)
    hook = vae.decoder.register_forward_pre_hook(lambda *_: marks.update(encoder=live.now))
    with live:
        loss = _forward(config, step, inputs)
        after = live.now
        loss.backward()
    hook.remove()
    # a frozen encoder leaves only the latent, which is the decoder's input
    encoder = marks["encoder"] if config.trains_encoder else 0
    decoded = marks.get("decoder", after)
    measured = max(marks.get("loss", after), decoded)
    backward = max(live.peak - measured, 0)
    return StepMemory(encoder, decoded - encoder, measured - decoded, backward, live.given)


def _planned_adversary(
    config: TrainConfig, vae: nn.Module, device: torch.device
) -> Adversary | None:
    """Build the adversary of a run as it is when all of it is at work; None without one."""
    if not config.gan_weight:
        return None
    with device:  # fake weights cannot be moved
        adversary = Adversary(config, PatchDiscriminator(image_channels(vae), config.seed))
    adversary.prepare(config.max_steps)
    for parameter in adversary.parameters:  # which last, and do not come with the step
        parameter.grad = torch.empty_like(parameter)
    return adversary


def _marking(work: Callable[..., T], live: LiveBytes, marks: dict[str, int]) -> Callable[..., T]:
    """Note what is held when the first large part of the loss begins, and the most in any."""

    def marked(*inputs: Tensor) -> T:
        marks.setdefault("decoder", live.now)
        before, live.peak = live.peak, live.now
        result = work(*inputs)
        marks["loss"] = max(marks.get("loss", 0), live.peak)
        live.peak = max(before, live.peak)
        return result

    return marked


def _inputs(config: TrainConfig, vae: nn.Module, device: torch.device) -> tuple[Any, ...]:
    batch, side = config.batch_size, config.resolution
    cells = side // ratio(vae)
    pixels = torch.empty(batch, image_channels(vae), side, side, device=device)
    noise = torch.empty(batch, latent_channels(vae), cells, cells, device=device)
    face = (side / 4, side / 4, side / 2, side / 2)
    faces = [[face] * MOST_WINDOWS] * batch  # the most that is seen of faces
    if not config.cache_latents:
        return pixels, noise, None, faces, pixels.clone() if config.noise_factor else None
    moments = Posterior(noise.half(), None if is_tiny(vae) else noise.half())
    return pixels, noise, moments, faces


def _forward(config: TrainConfig, step: TrainStep, inputs: tuple[Any, ...]) -> Tensor:
    precision = PRECISIONS.get(config.mixed_precision)
    with torch.autocast(inputs[0].device.type, dtype=precision, enabled=precision is not None):
        return step(*inputs)["loss"]


@torch.no_grad()
def _count_measuring(
    config: TrainConfig, vae: nn.Module, perceptual: Perceptual | None, device: torch.device
) -> int:
    """Count the most that encoding, decoding and comparing one photo of 3:2 holds at a time.

    For a photo that goes in tiles their plan tells, which is what then runs.
    """
    short, long = (
        int(scale * config.eval_resolution) // ratio(vae) * ratio(vae) for scale in (1, LONG_SIDE)
    )
    with LiveBytes() as live:
        pixels = torch.empty(1, image_channels(vae), short, long, device=device)
        tiles, held = plan_tiles(vae, pixels.shape, pixels.dtype), live.now
        output = torch.empty_like(pixels) if tiles else round_trip(vae, pixels)
        if perceptual is not None:
            perceptual.distance(output, pixels)
    return max(live.peak, held + tiles.peak_bytes) if tiles else live.peak
