"""Holding out: by content, on every machine alike, never the same photo on both sides."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.errors import UserError
from trainer.photos.memory_source import MemorySource
from trainer.photos.photo_set import PhotoSet
from trainer.photos.scan import scan
from trainer.photos.split import hold_out


def photos_of(seeds: list[int]) -> PhotoSet:
    items = []
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "BMP")
        items.append((f"name {len(items)}", file.getvalue(), None))
    return scan(MemorySource("memory", items), 8)


def ids(photos: PhotoSet) -> set[str]:
    return {photo.id for photo in photos.photos}


def test_share_is_held_by_hash_and_no_photo_stands_on_both_sides() -> None:
    photos = photos_of(list(range(400)))
    train, val = hold_out(photos, 0.1)
    assert ids(train) | ids(val) == ids(photos) and not ids(train) & ids(val)
    assert 20 <= len(val) <= 60
    bound = 0.1 * 16**8  # the rule, by another road
    assert ids(val) == {photo.id for photo in photos.photos if int(photo.id[:8], 16) < bound}
    assert all(hashlib.sha256(val.read(i)).hexdigest() == val.photos[i].id for i in range(len(val)))


def test_sides_stay_when_photos_are_added_renamed_or_repeated() -> None:
    some, more = photos_of(list(range(100))), photos_of([*range(199, -1, -1), 5, 5])
    held, held_of_more = ids(hold_out(some, 0.2)[1]), ids(hold_out(more, 0.2)[1])
    assert held == held_of_more & ids(some)


@pytest.mark.parametrize("share", [1e-9, 0.999999])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_each_side_gets_one(count: int, share: float) -> None:
    photos = photos_of(list(range(count)))
    train, val = hold_out(photos, share)
    assert min(len(train), len(val)) == 1
    lone, extreme = (val, min) if share < 0.5 else (train, max)
    assert ids(lone) == {extreme(ids(photos))}


def test_one_photo_cannot_be_parted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2 photos.*--val-data"):
        hold_out(photos_of([1]), 0.5)
