"""`--activation-memory auto`: the fastest way of keeping activations that fits, by count."""

import dataclasses
from typing import NamedTuple

from accelerate import Accelerator

from trainer.training.batch_size import AUTO, SHARE, free_memory
from trainer.training.disk import size
from trainer.training.distributed import highest, on_all
from trainer.training.memory import expected_memory
from trainer.training.start_text import Plan

WAYS = ("eager", "fused", "checkpoint")  # from the fastest on


class Kept(NamedTuple):
    """A way of keeping activations, and in words why it was taken."""

    way: str
    found: str


def choose_activations(plan: Plan, accelerator: Accelerator) -> Kept:
    """Pick the first of the ways that fits every process's device; the leanest where none does."""
    own = on_all(accelerator, lambda: _choose_own(plan))
    least = WAYS[int(highest(accelerator, WAYS.index(own.way)))]
    if least != own.way:
        return Kept(least, f"{least}, as another process has no room for {own.way}")
    return own


def _choose_own(plan: Plan) -> Kept:
    if plan.config.batch_size == AUTO:
        return Kept("fused", "fused, so that --batch-size auto finds room for more")
    free = free_memory(plan.device)
    needed: dict[str, int] = {}
    for way in WAYS:
        needed[way] = _expected(plan, way)
        if needed[way] <= SHARE * free:
            break
    else:
        way = min(needed, key=needed.get)
    said = ", ".join(f"{name} would take {size(count)}" for name, count in needed.items())
    return Kept(way, f"{way} by count: {said} of {size(free)} free")


def _expected(plan: Plan, way: str) -> int:
    config = dataclasses.replace(plan.config, activation_memory=way)
    architecture, perceptual = plan.base.architecture, plan.perceptual
    memory = expected_memory(
        config, architecture, perceptual, plan.world, plan.device, plan.teacher
    )
    return memory.foretold
