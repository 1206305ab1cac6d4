"""Photos that are held in memory: the textbook digits, and what was taken off a stream."""

from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from trainer.photos.photo_set import Entry
from trainer.photos.skips import Skip


class MemorySource:
    """Photos as bytes with names and raw face boxes; for small sets."""

    def __init__(self, name: str, items: Sequence[tuple[str, bytes, Any]]) -> None:
        self.name = name
        self._items = list(items)

    def entries(self, skipped: list[Skip], notes: Counter) -> list[Entry]:
        """List the items, in the order in which they were given."""
        return [Entry(index, name, boxes) for index, (name, _, boxes) in enumerate(self._items)]

    def read(self, key: int) -> bytes:
        """Return the bytes of item `key`."""
        return self._items[key][1]


def digits() -> MemorySource:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 17 greys, as BMP files.

    Source: UCI, Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49.
    BMP, as it is not compressed: equal bytes, so equal ids, under every version of zlib.
    """
    from sklearn.datasets import load_digits  # slow to import, and only this set needs it

    data = load_digits()
    levels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    names = [f"digit {index:04d} is {label}" for index, label in enumerate(data.target)]
    items = [(name, _bmp(image), None) for name, image in zip(names, levels, strict=True)]
    return MemorySource("sklearn:digits", items)


def _bmp(levels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(levels).save(file, "BMP")
    return file.getvalue()
