"""What autograd keeps for backward: counted storage by storage, weights left out.

And a GPU's rules for autocast, on the CPU. There GroupNorm takes float32 and not bf16, so a count
by the CPU's rules would flatter both sides.
https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.vae import recompute


def saved_bytes(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Count the bytes that are kept after `forward`, besides the model's own weights."""
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    held: dict[int, torch.UntypedStorage] = {}  # held on to, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in held.values())


@contextmanager
def gpu_rules() -> Iterator[None]:
    """In a `with` block, norms under autocast take float32 on the CPU too, plain and fused."""
    plain, is_widened = F.group_norm, recompute.is_widened

    def widened(x: Tensor, *rest: Any) -> Tensor:
        return plain(x.float() if torch.is_autocast_enabled("cpu") else x, *rest)

    F.group_norm, recompute.is_widened = widened, lambda x, compute: compute != torch.float32
    try:
        yield
    finally:
        F.group_norm, recompute.is_widened = plain, is_widened
