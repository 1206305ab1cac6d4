"""Follow the memory that torch operations hold, storage by storage."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """In a `with` block, counts the bytes that operations' results hold: `now` and `peak`.

    What came in from outside the block is not counted. `given` adds up the real tensors among
    that, where the others are fake: the weights of a perceptual distance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.given = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run one operation and follow the storages of its inputs and results."""
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if self._follow(storage, 0) and not isinstance(tensor, FakeTensor):
                self.given += storage.nbytes()
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            self._follow(storage, storage.nbytes())
        return result

    def _follow(self, storage: torch.UntypedStorage, size: int) -> bool:
        """Count `size` bytes until the storage ends; False if it is followed already."""
        key = id(storage)
        if key in self._known:
            return False

        def ended(_: weakref.ref) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, ended)
        self.now += size
        self.peak = max(self.peak, self.now)
        return True


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
