"""The latent cache: the same run with and without it, and nothing torn, stale or silent in it."""

import errno
import json
import os
import shutil
import signal
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.trainer.children import (
    KILLED,
    begin,
    die,
    in_small_shards,
    lose,
    run_with_fault,
)
from tests.trainer.runs import call_entry, forget_processes, losses, options
from tests.trainer.test_ranks import run_two
from trainer.options.config import TrainConfig
from trainer.photos.batches import Draws
from trainer.photos.cached_batches import LatentCache, Record, cached_sample, places_of
from trainer.photos.crop_sets import CropSet
from trainer.photos.latent_cache import INDEX, SHARDS
from trainer.photos.loader import training_batches
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sample_line import Place
from trainer.photos.sources import open_photos
from trainer.training import caching, session
from trainer.training.caching import encode_photo
from trainer.training.losses import TrainStep
from trainer.training.run_folder import exclusive
from trainer.training.setup import make_accelerator
from trainer.vae.autoencoder import Posterior, encode
from vae_core.images import from_bytes

# float16 keeps a moment to one part in 2048; what a loss sees of it is far less, as roundings of
# thousands of values go both ways.
FLOAT16 = 2**-11
LOSS = 1e-4
needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")


@pytest.fixture
def cached(train, tmp_path: Path) -> LatentCache:
    """A cache of ten photos with two crops each, as a run fills it."""
    assert train(tmp_path / "filled", "--max-steps", 1, *cache_flags(tmp_path)) == 0
    return read(tmp_path / "cache", 2)


def cache_flags(folder: Path, crops: int = 2) -> tuple:
    return ("--cache-latents", folder / "cache", "--cache-crops", crops)


def read(folder: Path, crops: int) -> LatentCache:
    shards = {path.name: photos_in(path) for path in folder.glob(SHARDS)}
    return LatentCache(folder, crops, places_of(shards))


def photos_in(shard: Path) -> list[str]:
    with safe_open(shard, "np") as handle:
        return json.loads(handle.metadata()["photos"])


def photos_of(photo_folder: Path, cache: LatentCache) -> PhotoSet:
    """The training side of the folder: what the cache holds."""
    photos = open_photos(str(photo_folder), 32)
    return photos.subset([i for i, photo in enumerate(photos.photos) if photo.id in cache.places])


def batches(photos: PhotoSet, cache: LatentCache | None, workers: int = 0):
    return training_batches(
        photos, resolution=32, batch_size=5, latent_shape=(4, 16, 16), seed=0, cache=cache,
        workers=workers,
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


# With and without


@pytest.mark.parametrize("flags", [(), ("--mixed-precision", "bf16"), ("--lora-rank", 2)])
def test_in_its_first_epochs_a_run_is_that_without_a_cache(train, tmp_path, flags):
    flags = ("--max-steps", 10, *flags)  # two epochs
    assert train(tmp_path / "with", *flags, *cache_flags(tmp_path)) == 0
    assert train(tmp_path / "without", *flags) == 0
    # bfloat16 turns a difference in the last bit into one of its own, which is far larger
    apart = 10 * LOSS if "bf16" in flags else LOSS
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), rel=apart)


def test_crops_around_faces_come_from_the_cache_with_their_boxes(train, tmp_path, photo_folder):
    flags = ("--data", boxed(photo_folder, tmp_path), "--face-weight", 3, "--face-min-height", 8)
    flags += ("--max-steps", 6, "--batch-size", 4, "--val-data", without_faces(tmp_path))
    flags += ("--face-share", 0.75)
    assert train(tmp_path / "with", *flags, *cache_flags(tmp_path, 4)) == 0
    assert train(tmp_path / "without", *flags) == 0
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), rel=LOSS)
    assert {"/face" in record for record in read(tmp_path / "cache", 4).places} == {True, False}
    assert train(tmp_path / "other", *flags[:-1], 0.7, *cache_flags(tmp_path, 4)) == 0
    moved = (*flags, *cache_flags(tmp_path, 4), "--face-max-height", 40)
    assert train(tmp_path / "stale", *moved) == 1  # other crops than the cache's


def test_boxes_go_with_the_variant_that_is_read(photo_folder, tmp_path):
    photos = open_photos(str(boxed(photo_folder, tmp_path)), 32)
    first = next(i for i, photo in enumerate(photos.photos) if photo.faces)
    draws = Draws(0, 32, (4, 16, 16), True)
    record = Record(np.zeros((32, 32, 3), np.uint8), torch.zeros(4, 16, 16), None)

    class Cache(LatentCache):
        def read(self, record_id: str, epoch: int) -> Record:
            return record

    kept = Cache(tmp_path, 3, {})
    boxes = [
        cached_sample(kept, photos, Place(first, epoch, True), (first,), draws).faces
        for epoch in range(6)
    ]
    assert boxes[:3] == boxes[3:] and boxes[0] != boxes[1]


def without_faces(folder: Path) -> Path:
    """A photo to measure on; with faces, the tiny VAE's attention would take minutes on a sheet."""
    (folder / "held").mkdir()
    Image.fromarray(skimage.data.coffee()[:72, :96]).save(folder / "held" / "coffee.png")
    return folder / "held"


def boxed(photo_folder: Path, folder: Path) -> Path:
    """The photos as a table, half of them with a face."""
    photos = sorted(photo_folder.glob("*.png"))
    boxes = [[[30.0, 20.0, 24.0, 32.0]] if i % 2 else [] for i in range(len(photos))]
    content = {"image": [photo.read_bytes() for photo in photos], "faces": boxes}
    pq.write_table(pa.table(content), folder / "boxed.parquet")
    return folder / "boxed.parquet"


def test_the_step_takes_the_mode_of_a_cached_posterior_as_of_an_encoded_one(tiny_vae, cached):
    record = cached.read(next(iter(cached.places)), 0)
    pixels = from_bytes(torch.from_numpy(record.crop)[None])
    step = TrainStep(tiny_vae, None, "mse", 1.0, 0.0, 1e-6, train_encoder=False)
    mode = torch.zeros(1, 4, 16, 16)
    encoded = step(pixels, mode)
    taken = step(pixels, mode, Posterior(record.mean[None], record.logvar[None]))
    assert taken.keys() == encoded.keys()
    for name, value in encoded.items():
        assert taken[name].item() == pytest.approx(value.item(), rel=LOSS), name
        assert taken[name].dtype == value.dtype


def test_records_hold_the_crops_of_the_first_epochs_and_their_moments(
    cached, tiny_vae, photo_folder
):
    photos = photos_of(photo_folder, cached)
    assert len(photos) == len(cached.places) == 10
    pairs = zip(batches(photos, cached), batches(photos, None), strict=False)
    for ours, plain in islice(pairs, 4):
        assert ours.ids == plain.ids and not ours.skipped
        assert torch.equal(ours.pixels, plain.pixels) and torch.equal(ours.noise, plain.noise)
        with torch.no_grad():
            mean, logvar = encode(tiny_vae, from_bytes(plain.pixels))
        assert ours.mean.dtype == ours.logvar.dtype == torch.float16
        torch.testing.assert_close(ours.mean.float(), mean, rtol=FLOAT16, atol=1e-6)
        torch.testing.assert_close(ours.logvar.float(), logvar, rtol=FLOAT16, atol=1e-6)


def test_later_epochs_see_the_same_moments_with_fresh_noise(cached, photo_folder):
    photos = photos_of(photo_folder, cached)
    seen: dict[str, list] = {}
    for batch in islice(batches(photos, cached), 8):  # four epochs of two variants
        for k, photo_id in enumerate(batch.ids):
            seen.setdefault(photo_id, []).append([part[k] for part in (*batch[:2], *batch[4:6])])
    for epochs in seen.values():
        assert len(epochs) == 4
        for first, later in zip(epochs[:2], epochs[2:], strict=True):
            assert torch.equal(first[0], later[0])  # pixels
            assert torch.equal(first[2], later[2]) and torch.equal(first[3], later[3])
        noises = [epoch[1] for epoch in epochs]
        assert all(not torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])


def test_a_mirrored_crop_is_encoded_as_such(cached, photo_folder, tiny_vae):
    """Among twenty crops some are mirrored; the latent is that of the crop, not a mirrored one."""
    photos = photos_of(photo_folder, cached)
    draws = {"resolution": 32, "batch_size": 5, "latent_shape": (4, 16, 16), "seed": 0}
    upright = islice(training_batches(photos, flip=False, **draws), 4)
    mirrored = 0
    for ours, plain in zip(islice(batches(photos, cached), 4), upright, strict=True):
        for k in range(5):
            if torch.equal(ours.pixels[k], plain.pixels[k]):
                continue
            mirrored += 1
            assert torch.equal(ours.pixels[k], plain.pixels[k].flip(1))
            with torch.no_grad():
                mean = encode(tiny_vae, from_bytes(ours.pixels[k : k + 1])).mean[0]
            torch.testing.assert_close(ours.mean[k].float(), mean, rtol=FLOAT16, atol=1e-6)
    assert 3 <= mirrored <= 17


def test_the_order_is_the_same_whatever_the_number_of_workers(cached, photo_folder):
    photos = photos_of(photo_folder, cached)
    by_none, by_two = (list(islice(batches(photos, cached, n), 6)) for n in (0, 2))
    for one, other in zip(by_none, by_two, strict=True):
        assert one.ids == other.ids
        for part in ("pixels", "noise", "mean", "logvar"):
            assert torch.equal(getattr(one, part), getattr(other, part))


def test_a_vae_without_posterior_keeps_its_means_alone(train, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
        widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        AutoencoderTiny(**blocks, **widths).save_pretrained(tmp_path / "taesd")
    flags = ("--vae", tmp_path / "taesd", "--max-steps", 6)
    assert train(tmp_path / "with", *flags, *cache_flags(tmp_path)) == 0
    assert train(tmp_path / "without", *flags) == 0
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), rel=LOSS)
    (shard,) = (tmp_path / "cache").glob(SHARDS)
    assert set(load_file(shard)) == {"crops", "mean"}


def test_the_encoder_comes_back_in_the_export_as_the_base_had_it(train, tiny_base, tmp_path):
    flags = ("--eval-every", 2, *cache_flags(tmp_path))
    assert train(tmp_path / "run", *flags) == 0
    (file,) = tiny_base.glob("*.safetensors")
    base = load_file(file)
    tuned = load_file(tmp_path / "run/export/diffusers/diffusion_pytorch_model.safetensors")
    assert tuned.keys() == base.keys()
    frozen = [name for name in base if name.startswith(("encoder.", "quant_conv."))]
    assert len(frozen) > 20 and all(torch.equal(tuned[name], base[name]) for name in frozen)


def test_while_a_run_trains_its_model_has_no_encoder(train, tmp_path, monkeypatch):
    real, seen = session.train, []

    def look(run, meter):
        seen.append([name for name, _ in run.step_module.named_parameters()])
        with run.whole() as vae:
            seen.append([name for name, _ in vae.named_parameters()])
        real(run, meter)

    monkeypatch.setattr(session, "train", look)
    assert train(tmp_path / "run", *cache_flags(tmp_path)) == 0
    training, whole = seen
    assert all(name.startswith(("vae.decoder.", "vae.post_quant_conv.")) for name in training)
    assert len(whole) == 124


def test_a_photo_is_decoded_once_for_all_its_crops(train, tmp_path, monkeypatch):
    real, before, filled = PhotoSet.open, [], []

    def opened(self, index):
        filled.append(index)
        return real(self, index)

    def measure(run, meter):
        before.extend(filled)
        kept(run, meter)

    kept = session._measure_beginning
    monkeypatch.setattr(PhotoSet, "open", opened)
    monkeypatch.setattr(session, "_measure_beginning", measure)
    assert train(tmp_path / "run", *cache_flags(tmp_path, 5)) == 0
    assert sorted(before) == list(range(10))


def test_many_crops_are_encoded_a_few_at_a_time(tiny_vae, monkeypatch):
    forget_processes()
    accelerator = make_accelerator(TrainConfig(vae="v", data="d", output="o", log_with="none"))
    crops = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    item = CropSet("id", "name", torch.from_numpy(crops))
    at_once = encode_photo(tiny_vae, item, accelerator)
    sizes = []
    tiny_vae.encoder.register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    monkeypatch.setattr(caching, "PIXELS_AT_ONCE", 3 * 32 * 32 + 1)
    by_three = encode_photo(tiny_vae, item, accelerator)
    assert sizes == [3, 3, 1]
    for one, other in zip(at_once[2:], by_three[2:], strict=True):
        assert one.shape == (7, 4, 16, 16) and one.dtype == torch.float16
        torch.testing.assert_close(one, other, rtol=2 * FLOAT16, atol=1e-5)


# The key


def test_a_finished_cache_is_read_and_not_written(train, tmp_path, cached, capsys):
    before = files(tmp_path / "cache")
    assert train(tmp_path / "again", *cache_flags(tmp_path)) == 0
    assert files(tmp_path / "cache") == before
    said = capsys.readouterr().out
    assert "20 records of 7,168 bytes (2 crops of each photo)" in said
    assert "20 of them there already" in said and "to be encoded" not in said


STALE = {
    "seed is 0 there and 1 here": ("--seed", 1),
    "resolution is 32 there and 48 here": ("--resolution", 48),
    "flip is True there and False here": ("--no-flip",),
    "background is #ffffff there and #000000 here": ("--background", "#000000"),
    "cache-crops is 2 there and 3 here": ("--cache-crops", 3),
    "mixed-precision is no there and bf16 here": ("--mixed-precision", "bf16"),
}


@pytest.mark.parametrize("words", STALE)
def test_a_cache_made_in_another_way_is_refused(train, tmp_path, cached, capsys, words):
    before = files(tmp_path / "cache")
    assert train(tmp_path / "run", *cache_flags(tmp_path), *STALE[words]) == 1
    said = capsys.readouterr().err
    assert words in said and "give --cache-latents another folder, or delete this one" in said
    assert files(tmp_path / "cache") == before
    assert not list((tmp_path / "run").glob("config.toml"))


def test_a_cache_of_another_encoder_is_refused(train, tmp_path, cached, capsys, tiny_base):
    for name, part in (("same", "decoder.conv_in.bias"), ("other", "encoder.conv_in.bias")):
        base = shutil.copytree(tiny_base, tmp_path / name)
        (file,) = base.glob("*.safetensors")
        state = load_file(file)
        state[part][0] += 1e-3
        save_file(state, file, {"format": "pt"})
        code = train(tmp_path / f"run-{name}", "--vae", base, *cache_flags(tmp_path))
        assert code == (name == "other")
    assert "encoder is" in capsys.readouterr().err


def test_photos_may_be_added_and_removed(train, tmp_path, photo_folder, capsys):
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    flags = ("--data", photos, "--val-data", photo_folder, *cache_flags(tmp_path))
    val = tmp_path / "val"
    val.mkdir()
    shutil.move(photos / "coffee0.png", val)
    later = [shutil.move(photos / f"chelsea{i}.png", tmp_path) for i in (1, 2)]
    flags = ("--data", photos, "--val-data", val, *cache_flags(tmp_path))
    assert train(tmp_path / "few", *flags) == 0
    (shard,) = (tmp_path / "cache").glob(SHARDS)
    before = shard.read_bytes()
    for path in later:
        shutil.move(path, photos)
    (photos / "coffee1.png").unlink()
    assert train(tmp_path / "more", *flags) == 0
    assert "16 of them there already" in (said := capsys.readouterr().out), said
    assert shard.read_bytes() == before
    (added,) = set((tmp_path / "cache").glob(SHARDS)) - {shard}
    assert len(photos_in(shard)) == 9 and len(photos_in(added)) == 2
    assert train(tmp_path / "without", *flags[:4]) == 0
    assert losses(tmp_path / "more") == pytest.approx(losses(tmp_path / "without"), rel=LOSS)


def test_a_folder_of_something_else_is_refused(train, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "holiday.jpg").write_bytes(b"mine")
    assert train(tmp_path / "run", *cache_flags(tmp_path)) == 1
    assert "not empty (it holds holiday.jpg) and is no latent cache" in capsys.readouterr().err
    assert files(tmp_path / "cache") == {"holiday.jpg": b"mine"}


def test_an_index_that_cannot_be_read_is_refused(train, tmp_path, cached, capsys):
    (tmp_path / "cache" / INDEX).write_text("{")
    assert train(tmp_path / "run", *cache_flags(tmp_path)) == 1
    assert "index.json cannot be read" in capsys.readouterr().err


# Room


def test_a_dry_run_says_what_the_cache_takes_and_writes_nothing(train, tmp_path, capsys):
    assert train(tmp_path / "run", *cache_flags(tmp_path, 3), "--dry-run") == 0
    said = capsys.readouterr().out
    assert "30 records of 7,168 bytes" in said and "0 of them there already" in said
    assert "0.2 MiB to be encoded and written, of" in said
    assert not (tmp_path / "cache").exists()


def test_a_disk_without_room_is_told_before_anything_is_written(train, tmp_path, capsys):
    assert train(tmp_path / "run", *cache_flags(tmp_path, 10**12)) == 1
    said = capsys.readouterr().err
    assert "of free disk at" in said and "or lower --cache-crops" in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a file's name")
def test_a_disk_that_fills_up_is_a_sentence(train, tmp_path, monkeypatch, capsys):
    real = os.fsync

    def fsync(handle: int) -> None:
        if "photos-" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert train(tmp_path / "run", *cache_flags(tmp_path)) == 1
    assert "is full: free some space and go on by --resume" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock", INDEX]
    monkeypatch.undo()
    assert train(tmp_path / "run", *cache_flags(tmp_path), "--resume") == 0


# Photos and latents that fail


def at_filling(monkeypatch, happen) -> None:
    """Let something happen after the photos were scanned and before they are encoded."""
    real = session.fill_cache

    def fill(run, say):
        happen(run)
        return real(run, say)

    monkeypatch.setattr(session, "fill_cache", fill)


def test_a_photo_that_has_gone_is_counted_and_replaced_as_without_a_cache(
    train, tmp_path, photo_folder, monkeypatch, capsys
):
    runs = {}
    for name, flags in (("with", cache_flags(tmp_path)), ("without", ())):
        photos = shutil.copytree(photo_folder, tmp_path / f"photos-{name}")
        kept = session._measure_beginning

        def measure(run, meter, photos=photos, kept=kept):
            (photos / "coffee1.png").unlink(missing_ok=True)
            kept(run, meter)

        at_filling(monkeypatch, lambda run, photos=photos: (photos / "coffee1.png").unlink())
        monkeypatch.setattr(session, "_measure_beginning", measure)
        run = tmp_path / name
        assert train(run, "--data", photos, "--max-steps", 10, *flags) == 0
        runs[name] = (run / "skipped.csv").read_text(), losses(run)
        monkeypatch.undo()
    assert "coffee1.png" in runs["with"][0]
    assert "not in the latent cache: coffee1.png (unreadable" in capsys.readouterr().out
    assert runs["with"][0] == runs["without"][0]
    assert runs["with"][1] == pytest.approx(runs["without"][1], rel=LOSS)
    assert len(read(tmp_path / "cache", 2).places) == 9


def test_a_drive_that_has_gone_ends_the_run(train, tmp_path, photo_folder, monkeypatch, capsys):
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    for i in range(20):
        shutil.copy(photos / f"coffee{i % 4}.png", photos / f"more{i}.png")
        with (photos / f"more{i}.png").open("ab") as handle:
            handle.write(bytes([i]))
    at_filling(monkeypatch, lambda run: shutil.rmtree(photos))
    assert train(tmp_path / "run", "--data", photos, *cache_flags(tmp_path)) == 1
    assert "Expected the photos to stay readable, but 11 of" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "words"), [(1e6, "up to 1e+06"), (float("nan"), "up to nan")])
def test_latents_that_float16_cannot_hold_are_refused(
    train, tmp_path, monkeypatch, capsys, value, words
):
    def spoil(run):
        with torch.no_grad():
            run.reference.quant_conv.bias[0] = value

    at_filling(monkeypatch, spoil)
    assert train(tmp_path / "run", *cache_flags(tmp_path)) == 1
    said = capsys.readouterr().err
    assert words in said and "65504 is the most" in said and ".png" in said
    assert not list((tmp_path / "cache").glob(SHARDS))


# Interruptions


def test_a_damaged_shard_is_not_used_and_its_photos_are_encoded_again(
    train, tmp_path, cached, capsys
):
    (shard,) = (tmp_path / "cache").glob(SHARDS)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    assert train(tmp_path / "run", "--max-steps", 1, *cache_flags(tmp_path)) == 0
    assert "1 damaged shards are not used" in capsys.readouterr().out
    assert shard.read_bytes() == whole
    assert losses(tmp_path / "run") == losses(tmp_path / "filled")


def test_two_runs_do_not_fill_one_cache_at_once(train, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    with exclusive(tmp_path / "cache" / ".lock", "held already"):
        assert train(tmp_path / "run", *cache_flags(tmp_path)) == 1
    assert "another run is filling --cache-latents" in capsys.readouterr().err
    assert train(tmp_path / "run", *cache_flags(tmp_path), "--resume") == 0


def assert_nothing_torn(cache: Path) -> None:
    for shard in cache.glob(SHARDS):
        ids, tensors = photos_in(shard), load_file(shard)
        assert {len(tensor) for tensor in tensors.values()} == {len(ids)}
        assert all(torch.isfinite(tensor.float()).all() for tensor in tensors.values())


SMALL = 3 * 2 * 7168  # bytes of a shard: three photos of two crops


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("strike", [die, lose], ids=["killed", "power cut"])
def test_a_build_struck_at_any_file_operation_goes_on(strike, tiny_base, photo_folder, tmp_path):
    """Shards that were complete stay as they are, and in the end all records are there."""
    whole = options(tiny_base, photo_folder, tmp_path / "run", *cache_flags(tmp_path))
    begin(tmp_path / "said", call_entry, whole).join(60)
    wanted = records(tmp_path / "cache")
    assert len(wanted) == 10
    for nth in range(0, 100, 3):
        cache, said = tmp_path / f"cache{nth}", tmp_path / f"said{nth}"
        flags = ("--cache-latents", cache, "--cache-crops", 2, "--max-steps", 1)
        command = options(tiny_base, photo_folder, tmp_path / f"run{nth}", *flags)
        struck = begin(
            said, in_small_shards, SMALL, run_with_fault, command, cache, nth, strike,
            tmp_path / "tally",
        )  # fmt: skip
        struck.join(60)
        assert_nothing_torn(cache)
        before = files(cache)
        again = begin(said, in_small_shards, SMALL, call_entry, [*command, "--resume"])
        again.join(60)
        assert again.exitcode == 0, said.read_text()
        after = files(cache)
        complete = {name for name in before if name.startswith("photos-")}
        assert all(after[name] == before[name] for name in complete)
        assert not [name for name in after if name.startswith(".tmp")]
        assert records(cache) == wanted
        if struck.exitcode == 0:
            break
        assert struck.exitcode == KILLED, said.read_text()
    assert struck.exitcode == 0 and nth >= 16, nth


def records(folder: Path) -> dict[str, list[bytes]]:
    """Every photo's records, by its id: where it lies makes no difference."""
    found = {}
    for shard in folder.glob(SHARDS):
        tensors = load_file(shard)
        for place, photo_id in enumerate(photos_in(shard)):
            assert photo_id not in found
            found[photo_id] = [tensors[name][place].numpy().tobytes() for name in sorted(tensors)]
    return found


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_stopped_keeps_what_it_has(number, tiny_base, photo_folder, tmp_path):
    cache, said, crops = tmp_path / "cache", tmp_path / "said", 400
    flags = ("--cache-latents", cache, "--cache-crops", crops, "--max-steps", 1)
    command = options(tiny_base, photo_folder, tmp_path / "run", *flags)
    shard_bytes = 2 * crops * 7168
    process = begin(said, in_small_shards, shard_bytes, call_entry, command)
    until = time.monotonic() + 60
    while not list(cache.glob(SHARDS)) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == (-9 if number == signal.SIGKILL else 128 + number), said.read_text()
    assert_nothing_torn(cache)
    before = {path.name: path.stat().st_mtime_ns for path in cache.glob(SHARDS)}
    assert 0 < sum(len(photos_in(cache / name)) for name in before) < 10
    if number != signal.SIGKILL:
        text = said.read_text()
        assert "stopped before the first step; go on by: accelerate launch" in text
        assert "Traceback" not in text and not list(cache.glob(".tmp*"))
    again = begin(said, call_entry, [*command, "--resume"])
    again.join(60)
    assert again.exitcode == 0, said.read_text()
    after = {path.name: path.stat().st_mtime_ns for path in cache.glob(SHARDS)}
    assert before.items() <= after.items()
    assert len(records(cache)) == 10


@needs_fork
@pytest.mark.slow
def test_two_processes_fill_one_cache_and_one_process_reads_it(
    train, cached, tiny_base, photo_folder, tmp_path
):
    flags = ("--cache-latents", tmp_path / "two", "--cache-crops", 2, "--max-steps", 4)
    command = options(tiny_base, photo_folder, tmp_path / "run", *flags, "--batch-size", 2)
    ends = run_two(command, "nothing", tmp_path / "kept")
    assert [end.code for end in ends] == [0, 0], ends
    assert sorted(len(photos_in(s)) for s in (tmp_path / "two").glob(SHARDS)) == [5, 5]
    alone, shared = records(cached.folder), records(tmp_path / "two")
    assert alone.keys() == shared.keys()
    for photo_id, (crops, logvar, mean) in alone.items():
        assert shared[photo_id][0] == crops
        for one, other in zip((logvar, mean), shared[photo_id][1:], strict=True):
            one, other = (torch.frombuffer(bytearray(m), dtype=torch.float16) for m in (one, other))
            # each process may use another number of threads, and sums run in another order
            torch.testing.assert_close(one, other, rtol=2 * FLOAT16, atol=1e-5)
    before = files(tmp_path / "two")
    assert train(tmp_path / "one", *flags, "--batch-size", 4) == 0
    assert files(tmp_path / "two") == before
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "run"), rel=1e-5)
