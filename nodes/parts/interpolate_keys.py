"""The keys of an interpolation: latents that must be of one kind, one space and one size."""

from __future__ import annotations

from torch import Tensor

from ...vae_core.scaling import NONE, Scaling, describe, same
from ...vae_core.walk.interpolate import resized
from ..shared.latent_dict import Latent, read_mark, read_samples

PER_INPUT, PER_ITEM = KEYS = ("one per input", "each item of a batch")
REFUSE, RESIZE = SIZES = ("refuse", "resize to the first")


def key_samples(latents: dict[str, Latent], keys: str, sizes: str) -> list[Tensor]:
    """Read the keys of an interpolation, in order: [B or 1, C, ...] each, all of one size.

    Takes the LATENTs by the names of their inputs. Raises ValueError that names both inputs where
    two of them have no way between them.
    """
    found = {name: read_samples(latent, name) for name, latent in latents.items()}
    first = next(iter(found))
    for name in found:
        _check_space(latents, first, name)
        _check_kind(found, first, name)
        found[name] = _fitted(found, first, name, sizes)
    samples = list(found.values())
    if keys == PER_ITEM:
        samples = [item for batch in samples for item in batch.split(1)]
    if len(samples) < 2:
        raise ValueError(
            f"expected two or more keys, got one: connect latent_b, or a batch of several with "
            f"keys set to {PER_ITEM!r}."
        )
    return samples


def common_batch(sizes: dict[str, int]) -> int:
    """Find the number of items: all sizes are that, or 1, which stands for every item."""
    most = max(sizes, key=lambda name: sizes[name])
    for name, size in sizes.items():
        if size not in (1, sizes[most]):
            raise ValueError(
                f"expected batches of one size, or of 1 for all, got {name} with {size} items and "
                f"{most} with {sizes[most]}: repeat or cut one of them."
            )
    return sizes[most]


def _check_space(latents: dict[str, Latent], first: str, name: str) -> None:
    one, other = (read_mark(latents[key]) or NONE for key in (first, name))
    if not same(one, other):
        words = (f"{key} {_space(mark)}" for key, mark in ((first, one), (name, other)))
        raise ValueError(
            f"expected keys in one space, got {' and '.join(words)}: bring them to one with "
            "Latent Rescale."
        )


def _space(mark: Scaling) -> str:
    return "raw" if mark == NONE else f"scaled ({describe(mark)})"


def _check_kind(found: dict[str, Tensor], first: str, name: str) -> None:
    one, other = found[first], found[name]
    if one.ndim != other.ndim or one.shape[2:-2] != other.shape[2:-2]:
        raise ValueError(
            "expected keys that are all pictures, or all videos of one length, got "
            f"{_shapes(found, first, name)}."
        )
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"expected keys with the same channels, got {first} with {one.shape[1]} and {name} "
            f"with {other.shape[1]}: they come from different VAEs (SD1, SD2 and SDXL have 4, SD3 "
            "and FLUX 16), and no way leads from one to the other."
        )


def _fitted(found: dict[str, Tensor], first: str, name: str, sizes: str) -> Tensor:
    latent, size = found[name], found[first].shape[-2:]
    if latent.shape[-2:] == size:
        return latent
    if sizes != RESIZE:
        raise ValueError(
            f"expected keys of one size, got {_shapes(found, first, name)}: make the pictures "
            f"equal before encoding, or set sizes to {RESIZE!r}."
        )
    return resized(latent, *size)


def _shapes(found: dict[str, Tensor], first: str, name: str) -> str:
    return " and ".join(f"{key} with shape {list(found[key].shape)}" for key in (first, name))
