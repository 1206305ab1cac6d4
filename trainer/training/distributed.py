"""Work that one process does for all, with its result or its error shared."""

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from trainer.errors import UserError, sentence
from trainer.training.interrupts import Interrupted
from vae_core.checkpoint import CheckpointError

T = TypeVar("T")


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Run `work` on the main process and hand its result, or its error, to every process.

    An error that stayed on the main process would leave the others waiting for ever.
    """
    outcome: list = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (UserError, CheckpointError, OSError) as error:
            if accelerator.num_processes == 1:
                raise
            outcome[1] = UserError(sentence(error))
        except Interrupted as stop:
            outcome[1] = stop
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def joined(accelerator: Accelerator, items: list[T]) -> list[T]:
    """Return the items of all processes, in the order of their ranks."""
    return gather_object(items) if accelerator.num_processes > 1 else items


def mean_over_processes(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes."""
    return accelerator.reduce(values, "mean") if accelerator.num_processes > 1 else values


def all_finite(accelerator: Accelerator, value: Tensor) -> bool:
    """Tell whether a scalar is finite on every process."""
    finite = torch.isfinite(value.detach()).reshape(1)
    if accelerator.num_processes > 1:
        finite = accelerator.gather(finite)
    return bool(finite.all())
