"""What autograd keeps for backward: counted storage by storage, weights left out.

And float32 norms as autocast has them on GPUs: on the CPU it leaves GroupNorm in bf16, which
would make a count on the CPU flatter than what a GPU keeps.
https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def saved_bytes(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Count the bytes that are kept after `forward`, besides the model's own weights."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    held: dict[int, torch.UntypedStorage] = {}  # held on to, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in held.values())


class GpuAutocast(TorchFunctionMode):
    """In a `with` block, GroupNorm takes float32 wherever autocast is on, as on a GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.group_norm and torch.is_autocast_enabled("cpu"):
            args = tuple(a.float() if isinstance(a, Tensor) else a for a in args)
        return func(*args, **(kwargs or {}))
