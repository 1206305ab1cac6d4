"""What the processes of a run tell each other through main memory, so that no GPU is waited for."""

from typing import TypeVar

import torch
from accelerate import Accelerator

T = TypeVar("T")

_held: list[torch.distributed.ProcessGroup] = []  # until this process ends


def hold_group(accelerator: Accelerator) -> None:
    """Keep the group of processes for as long as this one lives, so that DDP is not its last owner.

    DDP would let go of it with Python's lock in hand, while a thread of the group that is not yet
    done with its last exchange waits for that lock: neither goes on (pytorch/pytorch#56297).
    """
    if accelerator.num_processes > 1:
        _held.append(torch.distributed.group.WORLD)
        _held.append(torch.distributed.new_group(backend="gloo"))


def _among_hosts() -> torch.distributed.ProcessGroup:
    """Return the group whose exchanges stay in main memory."""
    return _held[-1]


def joined(accelerator: Accelerator, items: list[T]) -> list[T]:
    """Return the items of all processes, in the order of their ranks."""
    if accelerator.num_processes == 1:
        return items
    found: list[list[T]] = [[]] * accelerator.num_processes
    torch.distributed.all_gather_object(found, items, group=_among_hosts())
    return [item for part in found for item in part]


def highest(accelerator: Accelerator, number: int) -> int:
    """Return the highest of a whole number on all processes."""
    if accelerator.num_processes == 1:
        return number
    most = torch.tensor([number], dtype=torch.int64)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group=_among_hosts())
    return int(most)
