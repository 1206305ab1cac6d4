"""`--batch-size auto`: the largest batch that fits, by count and by a step that is tried.

The count (trainer/training/memory.py) picks; one forward and backward pass on random pixels, with
room held for the optimizer, checks, and steps down where memory runs out.
"""

import dataclasses
import os
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator

from trainer.errors import UserError
from trainer.training.disk import size
from trainer.training.distributed import highest, on_all
from trainer.training.memory import discriminator_bytes, expected_memory, optimizer_bytes
from trainer.training.out_of_memory import (
    is_out_of_memory,
    less_memory,
    less_memory_than,
    release,
)
from trainer.training.run import Run
from trainer.training.start_text import Plan
from trainer.vae.autoencoder import Posterior, image_channels, is_tiny

AUTO = "auto"
CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SHARE = 0.85  # of free memory; the rest is for what no tensor holds


class Choice(NamedTuple):
    """A batch size, and in words how it was found."""

    batch_size: int
    found: str


def free_memory(device: torch.device) -> int:
    """Return the bytes that a process may still take on a device: of the CPU, its equal share.

    Where a device does not tell, main memory is taken for its own, as it is on Apple's.
    """
    if device.type in ("cuda", "xpu"):
        return torch.accelerator.get_memory_info(device)[0]
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return _free_main_memory() // processes


def _free_main_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":") for line in lines)
        return 1024 * int(found["MemAvailable"].split()[0])
    except (OSError, KeyError):
        pass
    try:  # systems without /proc do not tell what is free: half of all is taken to be
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError) as error:
        raise UserError(
            "Expected this system to tell how much memory is free, as --batch-size auto needs it, "
            "but it does not: give --batch-size as a number."
        ) from error


def choose_batch_size(plan: Plan, accelerator: Accelerator) -> Choice:
    """Pick by count alone the largest batch size that fits every process's device.

    Raises UserError, naming what would take less, where not even one crop at a time fits.
    """
    own = on_all(accelerator, lambda: _count_own(plan))
    fewest = -highest(accelerator, -own.batch_size)
    if fewest < own.batch_size:
        return Choice(fewest, f"{fewest}, as another process has no room for more; {own.found}")
    return own


def _count_own(plan: Plan) -> Choice:
    """Pick the largest batch size that fits this process's device.

    Raises UserError, naming what would take less, where not even one crop at a time fits.
    """
    free = free_memory(plan.device)
    room = int(SHARE * free)
    expected = {CANDIDATES[0]: _expected(plan, CANDIDATES[0])}
    if expected[CANDIDATES[0]] > room:
        raise UserError(_nothing_fits(plan, free))
    low, high = 0, len(CANDIDATES)
    while high - low > 1:  # the largest that fits lies in [low, high)
        middle = (low + high) // 2
        expected[CANDIDATES[middle]] = _expected(plan, CANDIDATES[middle])
        fits = expected[CANDIDATES[middle]] <= room
        low, high = (middle, high) if fits else (low, middle)
    best = CANDIDATES[low]
    found = (
        f"{best} by count, which expects {size(expected[best])}, within {SHARE:.0%} of "
        f"{size(free)} free on {plan.device.type}"
    )
    if best == CANDIDATES[-1]:
        return Choice(best, f"{found}; more is not tried")
    larger = CANDIDATES[low + 1]
    return Choice(best, f"{found}; {larger} would take {size(expected[larger])}")


def _expected(plan: Plan, batch_size: int) -> int:
    config = dataclasses.replace(plan.config, batch_size=batch_size)
    try:
        memory = expected_memory(
            config,
            plan.base.architecture,
            plan.perceptual,
            plan.world,
            plan.device,
            plan.teacher,
        )
    except Exception as error:  # fake tensors do not know every device
        raise UserError(
            f"Expected to count a step's memory for --batch-size auto, but on {plan.device.type} "
            f"that cannot be done ({type(error).__name__}): give --batch-size as a number."
        ) from error
    return memory.foretold


def _nothing_fits(plan: Plan, free: int) -> str:
    config = dataclasses.replace(plan.config, batch_size=1)
    ways = less_memory(
        config, plan.base.architecture, plan.perceptual, plan.world, plan.device, plan.teacher
    ).removeprefix("the device is out of memory, as ")
    return (
        f"Expected at least one crop to fit for --batch-size auto, but {SHARE:.0%} of "
        f"{size(free)} free on {plan.device.type} is too little: {ways}."
    )


def settle_batch_size(run: Run, counted: Choice) -> Choice:
    """Try a step, on all processes, and step down until it fits; the run then has that size.

    Weights, optimizer and random state stay as they are. Raises UserError where nothing fits.
    """
    for batch_size in reversed([n for n in CANDIDATES if n <= counted.batch_size]):
        run.config = dataclasses.replace(run.config, batch_size=batch_size)
        if not highest(run.accelerator, not on_all(run.accelerator, partial(_fits, run))):
            return Choice(batch_size, f"{counted.found}\n{batch_size} was tried by a step and fits")
    raise UserError(less_memory_than(run))


def _fits(run: Run) -> bool:
    """Tell whether this process has the memory for one forward and backward pass."""
    try:
        _try_step(run)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        release(error)
        return False
    finally:
        run.optimizer.zero_grad()
        if run.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _try_step(run: Run) -> None:
    """Take a step without its update; nothing is exchanged with other processes."""
    device, config = run.accelerator.device, run.config
    # what the first updates will ask for
    state = optimizer_bytes(config, run.vae) + discriminator_bytes(config, run.vae, 2)
    if run.adversary:
        run.adversary.prepare(config.max_steps)
    held = torch.empty(state, dtype=torch.uint8, device=device)
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.batch_size, image_channels(run.vae), config.resolution, config.resolution)
    pixels = torch.rand(shape, generator=generator) * 2 - 1
    noise = torch.randn((config.batch_size, *run.latent_shape()), generator=generator)
    pixels, noise = pixels.to(device), noise.to(device)
    posterior = None
    if config.cache_latents:
        posterior = Posterior(noise.half(), None if is_tiny(run.vae) else noise.half())
    inputs = pixels, noise, posterior, None, pixels.clone() if config.noise_factor else None
    step = run.accelerator.unwrap_model(run.step_module)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        step(*inputs)["loss"].backward()
    del held
