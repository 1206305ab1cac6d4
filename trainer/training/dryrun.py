"""`--dry-run`: everything but training, said in words."""

from collections.abc import Iterator
from pathlib import Path

import torch

from trainer.options.config import TrainConfig
from trainer.training.disk import check_disk, disk_free, disk_needed, size
from trainer.training.memory import Memory, expected_memory, planned_model
from trainer.training.start_text import Plan, line, start_text
from trainer.vae.base import Base

__all__ = ["Plan", "check_disk", "dry_run", "start_text"]


def dry_run(plan: Plan) -> str:
    """Say what a run would do, and the memory and disk it would take; nothing is written.

    Raises UserError with the reason why the run could not begin.
    """
    return "\n".join(
        [
            start_text(plan),
            line("memory", _memory(plan)),
            line("disk", _disk(plan.config, plan.base)),
            "dry run: nothing was trained and nothing written",
        ]
    )


def _disk(config: TrainConfig, base: Base) -> str:
    vae = planned_model(config, base.architecture)
    folder = Path(config.output)
    check_disk(config, vae, folder)
    return f"{size(disk_needed(config, vae))} at most, of {size(disk_free(folder))} free"


def _memory(plan: Plan) -> str:
    try:
        memory = expected_memory(
            plan.config,
            plan.base.architecture,
            plan.perceptual,
            plan.world,
            plan.device,
            plan.teacher,
        )
    except Exception as error:  # an estimate must not refuse a run that may well fit
        device = plan.device.type
        return f"not known: it could not be counted on {device} ({type(error).__name__})"
    return "\n".join(_memory_lines(memory, plan.device))


def _memory_lines(memory: Memory, device: torch.device) -> Iterator[str]:
    total = size(memory.foretold)
    yield f"about {total} expected on {device.type}, besides what Python and drivers take"
    yield _parts("lasting", memory.lasting)
    yield _parts("in a step", memory.step)
    yield _parts("in evaluation instead", memory.evaluation)
    if memory.besides:
        yield f"libraries and blocks that the allocator keeps: {size(memory.besides)}"


def _parts(when: str, parts: dict[str, int]) -> str:
    return f"{when}: " + ", ".join(f"{name} {size(count)}" for name, count in parts.items())
