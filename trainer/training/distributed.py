"""What several processes do together: a result or an error on one of them reaches all."""

from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from trainer.errors import UserError, sentence
from trainer.training.interrupts import Interrupted
from vae_core.checkpoint import CheckpointError

T = TypeVar("T")
_SAYS_ALL = (UserError, CheckpointError, OSError)  # errors that need no traceback beside them

_held: list[object] = []  # until this process ends


class SharedError(UserError):
    """An error that all processes raise at the same place, so that they can still save."""


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
    raise failure or next(filter(None, told))


def _as_told(rank: int, failure: Exception | None) -> Exception | None:
    """Turn an error into what the other processes raise."""
    if failure is None or isinstance(failure, Interrupted):
        return failure
    if isinstance(failure, _SAYS_ALL):
        return SharedError(f"process {rank} stopped the run: {sentence(failure)}")
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


def joined(accelerator: Accelerator, items: list[T]) -> list[T]:
    """Return the items of all processes, in the order of their ranks."""
    return gather_object(items) if accelerator.num_processes > 1 else items


def mean_over_processes(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes."""
    return accelerator.reduce(values, "mean") if accelerator.num_processes > 1 else values


def highest(accelerator: Accelerator, number: int) -> int:
    """Return the highest of a whole number on all processes."""
    if accelerator.num_processes == 1:
        return number
    mine = torch.tensor([number], dtype=torch.int32, device=accelerator.device)
    return int(accelerator.gather(mine).max())


def all_finite(accelerator: Accelerator, value: Tensor) -> bool:
    """Tell whether a scalar is finite on every process."""
    return not highest(accelerator, not torch.isfinite(value.detach()))


def hold_group(accelerator: Accelerator) -> None:
    """Keep the group of processes for as long as this one lives, so that DDP is not its last owner.

    DDP would let go of it with Python's lock in hand, while a thread of the group that is not yet
    done with its last exchange waits for that lock: neither goes on (pytorch/pytorch#56297).
    """
    if accelerator.num_processes > 1:
        _held.append(torch.distributed.group.WORLD)


def lost_contact(error: RuntimeError) -> bool:
    """Tell whether an error says that another process of the run has gone."""
    known = getattr(torch.distributed, "DistError", ())  # some builds of torch have no such module
    return isinstance(error, known) or "gloo" in str(error)
