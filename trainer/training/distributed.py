"""What several processes do together: a result or an error on one of them reaches all."""

from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from trainer.errors import UserError, sentence
from trainer.training.host_group import highest, hold_group, joined
from trainer.training.interrupts import Interrupted
from trainer.training.out_of_memory import UNCOUNTED, is_out_of_memory, release
from vae_core.checkpoint import CheckpointError

__all__ = [
    "SharedError",
    "SharedOutOfMemory",
    "all_finite",
    "highest",
    "hold_group",
    "joined",
    "lost_contact",
    "main_first",
    "mean_over_processes",
    "on_all",
    "on_main",
]

T = TypeVar("T")
_SAYS_ALL = (UserError, CheckpointError, OSError)  # errors that need no traceback beside them


class SharedError(UserError):
    """An error that all processes raise at the same place, so that they can still save."""


class SharedOutOfMemory(SharedError):
    """Memory ran out on this process, and all raise at the same place."""


def on_all(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Run `work` on every process; where it fails on one of them, it ends here on all.

    An error that stayed on one process would leave the others waiting for it. `work` itself must
    not exchange anything with them.
    """
    if accelerator.num_processes == 1:
        return work()
    outcome, failure = None, None
    try:
        outcome = work()
    except Exception as error:
        failure = error
    if highest(accelerator, failure is not None):
        _raise_together(accelerator, failure)
    return outcome


def _raise_together(accelerator: Accelerator, failure: Exception | None) -> NoReturn:
    """Raise this process's own failure, or else tell of another's."""
    told = joined(accelerator, [_as_told(accelerator.process_index, failure)])
    if isinstance(failure, _SAYS_ALL):
        raise SharedError(sentence(failure)) from failure
    if failure and is_out_of_memory(failure):
        release(failure)
        raise SharedOutOfMemory(UNCOUNTED) from None
    raise failure or next(filter(None, told))


def _as_told(rank: int, failure: Exception | None) -> Exception | None:
    """Turn an error into what the other processes raise."""
    if failure is None or isinstance(failure, Interrupted):
        return failure
    if isinstance(failure, _SAYS_ALL):
        return SharedError(f"process {rank} stopped the run: {sentence(failure)}")
    if is_out_of_memory(failure):
        return SharedError(f"process {rank} stopped the run: its device is out of memory")
    return UserError(f"process {rank} stopped the run: {type(failure).__name__}: {failure}")


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Run `work` on the main process and hand its result, or its error, to every process."""
    outcome = [on_all(accelerator, lambda: work() if accelerator.is_main_process else None)]
    broadcast_object_list(outcome)
    return outcome[0]


def main_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Run `work` on the main process, then on the others: they find what that one downloaded."""
    is_main = accelerator.is_main_process
    first = on_all(accelerator, lambda: work() if is_main else None)
    then = on_all(accelerator, lambda: None if is_main else work())
    return first if is_main else then


def mean_over_processes(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes."""
    return accelerator.reduce(values, "mean") if accelerator.num_processes > 1 else values


def all_finite(accelerator: Accelerator, values: Tensor) -> bool:
    """Tell whether all values are finite on every process; waits for the device once."""
    return not highest(accelerator, not torch.isfinite(values.detach()).all())


def lost_contact(error: RuntimeError) -> bool:
    """Tell whether an error says that another process of the run has gone."""
    known = getattr(torch.distributed, "DistError", ())  # some builds of torch have no such module
    return isinstance(error, known) or "gloo" in str(error)
