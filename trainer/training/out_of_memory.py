"""Running out of memory: how it is told from other errors, and the options that take less."""

import dataclasses
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from trainer.judge.perceptual import Perceptual
from trainer.options.config import TrainConfig, options
from trainer.training.disk import size
from trainer.training.memory import expected_memory
from trainer.training.run import Run
from trainer.training.teacher import Teacher

UNCOUNTED = (
    "the device is out of memory: lower --batch-size (and raise --gradient-accumulation-steps by "
    "as much), take another --activation-memory or --mixed-precision bf16, or lower --resolution"
)
WORTH_SAYING = 0.97  # of what the run takes now; an option that saves less is not named

Changes = dict[str, Any]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's allocator for the CPU and oneDNN have no class for it
    words = ("not enough memory", "can't allocate memory", "could not allocate", "bad_alloc")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def release(error: BaseException) -> None:
    """Let go of the tensors that the frames of an error hold, so that the rest can be saved."""
    traceback.clear_frames(error.__traceback__)


def less_memory(
    config: TrainConfig,
    architecture: dict[str, Any],
    perceptual: Perceptual | None,
    world: int,
    device: torch.device,
    teacher: Teacher | None = None,
) -> str:
    """Say what a run takes and which options would make it take less, each with its figure.

    Falls back to words without figures where memory cannot be counted.
    """

    def counted(**changes: Any) -> int:
        changed = dataclasses.replace(config, **changes)
        return expected_memory(changed, architecture, perceptual, world, device, teacher).total

    try:
        now = counted()
        single = [(changes, counted(**changes)) for changes in _ways_out(config)]
        named = [(changes, total) for changes, total in single if total < WORTH_SAYING * now]
        together = _together([changes for changes, _ in named])
        figures = [f"{_as_flags(changes)}: {size(total)}" for changes, total in named]
        if len(named) > 1:
            figures.append(f"all of these together: {size(counted(**together))}")
    except Exception:  # this is about to end in a sentence already, which no count may replace
        return UNCOUNTED
    if not figures:
        return UNCOUNTED
    return (
        f"the device is out of memory, as the run expects {size(now)}; it would expect with "
        + ", with ".join(figures)
    )


def less_memory_than(run: Run) -> str:
    """Say of a run that began which options would make it take less."""
    device, world = run.accelerator.device, run.accelerator.num_processes
    architecture = run.base.architecture
    return less_memory(run.config, architecture, run.perceptual, world, device, run.teacher)


def _ways_out(config: TrainConfig) -> Iterator[Changes]:
    """Yield changes of options that may save memory, those that cost least first."""
    for choice in options()["activation_memory"].choices:
        if choice not in ("eager", "auto", config.activation_memory):
            yield {"activation_memory": choice}
    if config.mixed_precision == "no":
        yield {"mixed_precision": "bf16"}
    if config.batch_size > 1:
        yield _half_batch(config)
    if config.optimizer != "adamw8bit":
        yield {"optimizer": "adamw8bit"}
    smaller = config.resolution // 2 // 64 * 64
    if smaller >= 64:
        yield {"resolution": smaller}
    if config.eval_resolution > config.resolution:
        yield {"eval_resolution": config.resolution}


def _half_batch(config: TrainConfig) -> Changes:
    """Share the same crops out over more batches of at most half the size."""
    crops = config.batch_size * config.gradient_accumulation_steps
    batch = next(n for n in range(config.batch_size // 2, 0, -1) if crops % n == 0)
    return {"batch_size": batch, "gradient_accumulation_steps": crops // batch}


def _together(ways: list[Changes]) -> Changes:
    """Join changes; of two values for one option the first holds."""
    joined: Changes = {}
    for changes in ways:
        joined = changes | joined
    return joined


def _as_flags(changes: Changes) -> str:
    known = options()
    return " ".join(f"{known[name].flag} {value}" for name, value in changes.items())
