"""Batches: one endless line of samples, however it is cut, and whatever makes it."""

import io
import multiprocessing
import os
import pickle
import signal
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainer.errors import UserError
from trainer.photos.batches import Batch, Draws, Slots
from trainer.photos.crops import cut, random_window, sample_generator
from trainer.photos.loader import data_loader, training_batches
from trainer.photos.memory_source import MemorySource
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.photo_set import PhotoSet
from trainer.photos.scan import scan
from trainer.photos.sources import open_photos
from trainer.photos.split import hold_out
from trainer.photos.streaming import PhotoStream, StreamedBatches

R = 8
# What the system has for starting processes at once; spawned ones import torch for seconds.
FASTEST = multiprocessing.get_all_start_methods()[0]
TOTAL = 7


def png(seed: int, size: tuple[int, int] = (20, 14), alpha: bool = False) -> bytes:
    shape = (size[1], size[0], 4 if alpha else 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(TOTAL):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    return tmp_path


@pytest.fixture
def photos(folder: Path) -> PhotoSet:
    return open_photos(str(folder), R)


def batches(photos: PhotoSet | PhotoStream, batch_size: int = 2, **options: int) -> Iterator[Batch]:
    settings = {"resolution": R, "latent_shape": (4, 2, 3), "seed": 0} | options
    return training_batches(photos, batch_size=batch_size, **settings)


def samples(some: list[Batch]) -> list[tuple]:
    """Take batches apart: (id, pixels, noise) of each sample, in order."""
    return [
        (photo_id, pixels.numpy().tobytes(), noise.numpy().tobytes())
        for batch in some
        for photo_id, pixels, noise in zip(batch.ids, batch.pixels, batch.noise, strict=True)
    ]


def taken(count: int, *arguments: object, **options: int) -> list[tuple]:
    return samples(list(islice(batches(*arguments, **options), count)))


# The line and how it is cut


def test_layout_and_range(photos: PhotoSet) -> None:
    batch = next(batches(photos, 3))
    assert batch.pixels.shape == (3, R, R, 3) and batch.pixels.dtype == torch.uint8
    assert batch.noise.shape == (3, 4, 2, 3) and batch.noise.dtype == torch.float32
    assert batch.pixels.min() < 25 and batch.pixels.max() > 230
    assert len(batch.ids) == 3 and batch.skipped == []


def test_a_sample_is_its_photo_cropped(photos: PhotoSet, folder: Path) -> None:
    data = {photo.id: photos.read(i) for i, photo in enumerate(photos.photos)}
    for epoch, batch in enumerate(islice(batches(photos, TOTAL), 3)):
        for photo_id, pixels in zip(batch.ids, batch.pixels, strict=True):
            generator = sample_generator(0, epoch, photo_id, "crop")
            photo = OpenPhoto(data[photo_id])
            crop = cut(photo, random_window(photo.size, R, generator), R)
            assert np.array_equal(pixels.numpy(), crop)


def test_every_epoch_visits_every_photo_once_in_another_order(photos: PhotoSet) -> None:
    ids = [sample[0] for sample in taken(TOTAL * 4, photos, 1)]
    epochs = [tuple(ids[i : i + TOTAL]) for i in range(0, len(ids), TOTAL)]
    assert all(set(epoch) == {photo.id for photo in photos.photos} for epoch in epochs)
    assert len(set(epochs)) == 4
    assert [sample[0] for sample in taken(TOTAL, photos, 1, seed=1)] != ids[:TOTAL]


def test_noise_and_crop_change_with_epoch_and_seed(photos: PhotoSet) -> None:
    first, second = taken(TOTAL, photos, 1), taken(TOTAL, photos, 1, start=TOTAL)
    other = taken(TOTAL, photos, 1, seed=1)
    for part in (1, 2):
        assert len({sample[part] for sample in first + second + other}) == 3 * TOTAL


def test_noise_for_pixels_is_a_function_of_seed_epoch_and_photo(photos: PhotoSet) -> None:
    def noise(batch_size: int, count: int, **options: object) -> torch.Tensor:
        some = islice(batches(photos, batch_size, **{"pixel_noise": (1, R, R)} | options), count)
        return torch.cat([batch.pixel_noise for batch in some])

    line = noise(1, 2 * TOTAL)
    assert line.shape == (2 * TOTAL, 1, R, R) and line.dtype == torch.float32
    assert abs(float(line.mean())) < 0.15 and abs(float(line.std()) - 1) < 0.1
    assert len({item.numpy().tobytes() for item in line}) == 2 * TOTAL
    assert torch.equal(noise(TOTAL, 1, start=TOTAL), line[TOTAL:])
    assert torch.equal(noise(3, 2, workers=1, start=2), line[2:8])
    assert not torch.equal(noise(1, 1, seed=1), line[:1])
    assert next(batches(photos)).pixel_noise is None


def test_noise_for_pixels_changes_no_other_draw(photos: PhotoSet) -> None:
    assert taken(3, photos, 2, pixel_noise=(3, R, R)) == taken(3, photos, 2)


@pytest.mark.parametrize("start", [1, 5, TOTAL, TOTAL + 3, 40])
def test_a_restart_continues_the_line(photos: PhotoSet, start: int) -> None:
    line = taken(60, photos, 1)
    assert taken(4, photos, 3, start=start) == line[start : start + 12]


def test_batch_accumulation_and_processes_cut_the_same_line(photos: PhotoSet) -> None:
    whole = taken(6, photos, 4, start=3)
    assert taken(12, photos, 2, start=3) == whole
    ranks = [taken(6, photos, 2, start=3, rank=rank, world=2) for rank in range(2)]
    together = [sample for i in range(0, 12, 2) for rank in ranks for sample in rank[i : i + 2]]
    assert together == whole


def test_a_set_smaller_than_the_batch_is_enough(photos: PhotoSet) -> None:
    few = photos.subset([0, 1])
    batch = next(batches(few, 5))
    assert len(batch.ids) == 5 and set(batch.ids) == {photo.id for photo in few.photos}
    assert len({noise.numpy().tobytes() for noise in batch.noise}) == 5  # of three epochs


def test_global_random_state_is_left_alone(photos: PhotoSet) -> None:
    before = torch.get_rng_state()
    taken(3, photos)
    assert torch.equal(before, torch.get_rng_state())


def test_background_and_mirrors_are_passed_on() -> None:
    source = MemorySource("memory", [("a", png(1, alpha=True), None)])
    photos = scan(source, R, background=(9, 9, 9))
    red, grey = (next(batches(photos, 1, background=b)).pixels.int() for b in ("#ff0000", None))
    assert (red - grey)[..., 0].min() >= 0 and (red - grey)[..., 0].max() > 64
    plain = [next(batches(photos, 1, start=i, flip=False)).pixels for i in range(8)]
    mirrored = [next(batches(photos, 1, start=i)).pixels for i in range(8)]
    kinds = [torch.equal(a, b) for a, b in zip(plain, mirrored, strict=True)]
    assert len(set(kinds)) == 2
    assert all(
        torch.equal(a, b) or torch.equal(a.flip(2), b) for a, b in zip(plain, mirrored, strict=True)
    )


# Workers


def test_workers_change_nothing(photos: PhotoSet) -> None:
    alone = taken(9, photos, 3, start=2, rank=1, world=2)
    before = torch.get_rng_state()
    assert taken(9, photos, 3, start=2, rank=1, world=2, workers=2) == alone
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(os.name == "nt", reason="no process groups")
def test_a_worker_outlives_ctrl_c_and_its_death_is_a_sentence(photos: PhotoSet) -> None:
    some = batches(photos, 1, workers=1)
    expected = taken(40, photos, 1)
    found = [next(some)]
    (worker,) = multiprocessing.active_children()
    assert os.getpgid(worker.pid) != os.getpgid(0)
    os.kill(worker.pid, signal.SIGINT)
    found += islice(some, 5)
    assert samples(found) == expected[:6]
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="reads photos ended unexpectedly.*--workers"):
        list(islice(some, 30))


# Photos that fail in mid-run


def test_a_vanished_photo_is_replaced_by_the_next_and_reported(
    photos: PhotoSet, folder: Path
) -> None:
    line = taken(2 * TOTAL, photos, 1)
    gone = photos.photos[3]
    (folder / gone.name).unlink()
    found = list(islice(batches(photos, 1), 2 * TOTAL))
    for epoch in range(2):
        ids = [sample[0] for sample in line[epoch * TOTAL :][:TOTAL]]
        place = ids.index(gone.id)
        expected = [ids[(place + 1) % TOTAL] if i == place else ids[i] for i in range(TOTAL)]
        assert [batch.ids[0] for batch in found[epoch * TOTAL :][:TOTAL]] == expected
    assert [len(batch.skipped) for batch in found].count(1) == 2
    skip = next(batch.skipped[0] for batch in found if batch.skipped)
    assert skip[:2] == (gone.name, "unreadable") and "o such file" in skip.detail
    assert taken(3, photos, 4) == samples(found)[:12]  # cut otherwise, replaced alike
    assert taken(3, photos, 4, workers=2) == samples(found)[:12]


def test_a_changed_photo_is_judged_anew(photos: PhotoSet, folder: Path) -> None:
    (folder / photos.photos[0].name).write_bytes(png(5, (R - 1, 99)))
    (folder / photos.photos[1].name).write_bytes(png(5)[:50])
    found = {skip[1] for batch in islice(batches(photos), TOTAL) for skip in batch.skipped}
    assert found == {"changed", "damaged"}


def test_when_all_photos_vanish(photos: PhotoSet, folder: Path) -> None:
    some = batches(photos)
    next(some)
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"7 of 7 failed in training.*unreadable.*--resume"):
        next(some)
    with pytest.raises(UserError, match=r"7 of 7 failed in training") as error:
        next(batches(photos, workers=1))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(("gone", "stops"), [(10, False), (11, True)])
def test_a_tenth_may_fail_and_ten_always(tmp_path: Path, gone: int, stops: bool) -> None:
    for seed in range(40):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    photos = open_photos(str(tmp_path), R)
    for seed in range(gone):
        (tmp_path / f"{seed}.png").unlink()
    some = islice(batches(photos, 4), 30)  # three epochs: each failure counts once
    if stops:
        with pytest.raises(UserError, match="11 of 40 failed"):
            list(some)
    else:
        assert len(list(some)) == 30


# Streams

ODD = {2: b"no image", 5: png(5, (R - 1, 50)), 9: b""}
STREAMED = 160  # more than the buffer


@pytest.fixture(scope="module")
def stream_items() -> list[bytes]:
    return [ODD.get(seed, png(seed)) for seed in range(STREAMED)]


@pytest.fixture(params=["memory", "parquet", "tar"])
def stream(
    request: pytest.FixtureRequest,
    stream_items: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> PhotoStream:
    if request.param == "memory":
        items = [(str(place), data, None) for place, data in enumerate(stream_items)]
        return PhotoStream(MemorySource("memory", items), R)
    path = tmp_path / f"stream.{request.param}"
    if request.param == "parquet":
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        pq.write_table(pa.table({"image": stream_items}), path)
    else:
        with tarfile.open(path, "w") as archive:
            for place, data in enumerate(stream_items):
                info = tarfile.TarInfo(f"{place}.png")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return open_photos(str(path), R, streaming=True)


USABLE = STREAMED - len(ODD)


def test_stream_visits_every_photo_once_an_epoch(stream: PhotoStream) -> None:
    found = list(islice(batches(stream, 1), 2 * USABLE))
    ids = [batch.ids[0] for batch in found]
    assert len(set(ids[:USABLE])) == USABLE
    assert set(ids[:USABLE]) == set(ids[USABLE:]) and ids[:USABLE] != ids[USABLE:]
    reasons = [skip.reason for batch in found for skip in batch.skipped]
    assert sorted(set(reasons)) == ["empty", "not an image", "smaller than --resolution"]
    assert len(reasons) == 6  # each once an epoch


def test_stream_is_the_same_line_however_it_is_cut(stream: PhotoStream) -> None:
    line = taken(2 * USABLE + 9, stream, 1)
    for start in (1, USABLE - 1, USABLE, 2 * USABLE + 3):
        assert taken(3, stream, 2, start=start) == line[start : start + 6]
    second = taken(3, stream, 2, start=4, rank=1, world=2)
    assert second == line[6:8] + line[10:12] + line[14:16]
    twin = pickle.loads(pickle.dumps(stream))
    assert taken(3, twin, 2) == line[:6]


def test_stream_is_held_out_by_content(stream: PhotoStream) -> None:
    train, val = hold_out(stream, 0.2)
    held = {photo.id for photo in val.photos}
    assert 15 < len(held) < 50 and val.image(0).size == (20, 14)
    seen = {sample[0] for sample in taken(USABLE - len(held), train, 1)}
    assert len(seen) == USABLE - len(held) and not seen & held
    assert len(hold_out(stream, 1e-9)[1]) == 1
    assert not {sample[0] for sample in taken(99, stream.without(held), 1)} & held


def test_workers_share_a_stream(stream: PhotoStream) -> None:
    alone = taken(8, stream, 2, start=5, rank=1, world=2)
    draws, slots = Draws(0, R, (4, 2, 3), True), Slots(2, 1, 2, 5)
    loader = data_loader(StreamedBatches(stream, draws, slots), 2, FASTEST)
    assert samples(list(islice(loader, 8))) == alone


@pytest.mark.slow
def test_a_spawned_worker_reads_a_stream(
    stream_items: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"image": stream_items}), tmp_path / "stream.parquet")
    stream = open_photos(str(tmp_path / "stream.parquet"), R, streaming=True)
    assert taken(3, stream, 2, start=5, workers=1) == taken(3, stream, 2, start=5)


def late_damage(seed: int) -> bytes:
    """A photo whose header is whole: only decoding it tells."""
    return png(seed)[:-60]


def test_a_stream_replaces_what_cannot_be_decoded() -> None:
    items = [(str(i), late_damage(i) if i == 20 else png(i), None) for i in range(60)]
    stream = PhotoStream(MemorySource("memory", items), R)
    found = list(islice(batches(stream, 1), 60))
    (place,) = (i for i, batch in enumerate(found) if batch.skipped)
    assert found[place].skipped[0][:2] == ("20", "damaged")
    assert found[place].ids == found[place + 1].ids
    assert taken(15, stream, 4) == samples(found)


def test_streams_that_cannot_be_trained_on() -> None:
    def stream_of(items: list[bytes]) -> PhotoStream:
        named = [(str(place), data, None) for place, data in enumerate(items)]
        return PhotoStream(MemorySource("memory", named), R)

    with pytest.raises(UserError, match="memory, but it holds none that can be used"):
        next(batches(stream_of([b"x", b"y"])))
    with pytest.raises(UserError, match="memory, but it holds none that can be used"):
        next(batches(stream_of([])))
    mostly_bad = [b"x" * (place + 1) if place % 2 else png(place) for place in range(100)]
    with pytest.raises(UserError, match="failed in training, the last .*not an image"):
        list(islice(batches(stream_of(mostly_bad), 1), 99))
    mostly_small = [png(i, (R - 1, R) if i % 2 else (R, R)) for i in range(100)]
    assert len(list(islice(batches(stream_of(mostly_small), 1), 99))) == 99
    with pytest.raises(UserError, match="failed in training, the last .*damaged"):
        next(batches(stream_of([late_damage(i) for i in range(30)]), 1))
