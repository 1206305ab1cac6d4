"""Digits of 28 x 28 pixels and their classes: scikit-learn's, enlarged, or MNIST and its like."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.errors import UserError
from trainer.names import printable

if TYPE_CHECKING:
    from datasets import Dataset

SIDE = 28
PIXELS = SIDE * SIDE
CARRIED = "sklearn:digits"
CARRIED_SIDE = 8  # of scikit-learn's digits, before they are enlarged
HELD_OUT = 0.2  # of scikit-learn's digits; other sets bring a split of their own


class Digits(NamedTuple):
    """Pictures [N, 784], float32 in [0, 1] where 1 is ink, and their classes [N], int64."""

    pictures: Tensor
    classes: Tensor


class DigitSets(NamedTuple):
    """What is trained on, and what is not; and the side in pixels that the digits came with."""

    train: Digits
    held_out: Digits
    native_side: int


def open_digits(spec: str) -> DigitSets:
    """Open `sklearn:digits`, or a data set such as `ylecun/mnist` through `datasets`.

    A data set needs the splits train and test, and the columns image and label. Raises UserError.
    """
    return _carried() if spec == CARRIED else _data_set(spec)


def enlarged(pictures: np.ndarray) -> Tensor:
    """Bring grey pictures uint8 [N, s, s] to 28 x 28, bicubic: float32 [N, 784] in [0, 1]."""
    size = (SIDE, SIDE)
    images = (Image.fromarray(picture).resize(size, Image.BICUBIC) for picture in pictures)
    return torch.from_numpy(np.stack([np.array(image) for image in images])).flatten(1) / 255


def _carried() -> DigitSets:
    from sklearn.datasets import load_digits  # slow to import
    from sklearn.model_selection import train_test_split

    data = load_digits()
    levels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    # held out by one rule, whatever --seed is, so that figures of several seeds compare
    parts = train_test_split(
        levels, data.target, test_size=HELD_OUT, stratify=data.target, random_state=0
    )
    train, held_out, train_classes, held_out_classes = parts
    return DigitSets(
        Digits(enlarged(train), torch.from_numpy(train_classes)),
        Digits(enlarged(held_out), torch.from_numpy(held_out_classes)),
        CARRIED_SIDE,
    )


def _data_set(spec: str) -> DigitSets:
    import datasets  # slow to import

    try:
        found = datasets.load_dataset(spec)
        train, held_out = (_digits(found[split]) for split in ("train", "test"))
    except Exception as error:  # `datasets` raises anything
        said = printable(" ".join(str(error).split()))[:300]
        raise UserError(
            f"Expected --data to be {CARRIED} or a data set such as ylecun/mnist, with the splits "
            f"train and test and the columns image and label, but {printable(spec)} did not open "
            f"({type(error).__name__}: {said}): check its name and the connection."
        ) from error
    return DigitSets(train, held_out, SIDE)


def _digits(table: "Dataset") -> Digits:
    images = np.stack([np.array(image.convert("L")) for image in table["image"]])
    return Digits(enlarged(images), torch.tensor(list(table["label"]), dtype=torch.int64))
