"""Everything that comes before the first step: processes, base, photos, perceptual loss."""

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

from trainer.errors import UserError
from trainer.judge.perceptual import Perceptual, load_perceptual
from trainer.options.config import BUNDLED, TrainConfig, resolve_vae
from trainer.photos.face_search import INDEX_NAME, FaceSearch, open_search
from trainer.photos.joined import joined_sets
from trainer.photos.photo_set import PhotoSet
from trainer.photos.skips import Skip
from trainer.photos.sources import open_photos
from trainer.photos.split import hold_out
from trainer.photos.streaming import PhotoStream
from trainer.training.distributed import hold_group, main_first, on_all, on_main
from trainer.training.interrupts import Interrupts, launched
from trainer.training.run import Photos
from trainer.training.teacher import Teacher, make_teacher
from trainer.training.ticks import ticks
from trainer.vae.base import Base, load_base
from vae_core.lpips import SMALLEST_SIDE

LOGS = "logs"
# Gradients are averaged bucket by bucket while the backward pass goes on, in the bucket itself: no
# second copy of them, unless they are accumulated first. 25 MiB make some eight buckets of a
# decoder. Every parameter that trains takes part in each step; the frozen ones DDP leaves alone.
EXCHANGE = DistributedDataParallelKwargs(
    bucket_cap_mb=25,
    gradient_as_bucket_view=True,
    find_unused_parameters=False,
)
ROUND = 300.0  # seconds between words to other processes, which wait half an hour for one
SMALLEST_MEASURED = 64  # pixels on the short side; LPIPS' poolings leave nothing of less


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Join the processes that the launcher started."""
    if config.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError(
            "--mixed-precision fp16 needs a CUDA or ROCm GPU and none was found: use bf16 or no"
        )
    if not config.dry_run and config.log_with != "none":
        _require_tracker(config.log_with)
    accelerator = Accelerator(
        # said outright, as otherwise processes started by torchrun would not find each other
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[EXCHANGE],
        log_with=None if config.log_with == "none" or config.dry_run else config.log_with,
        project_config=ProjectConfiguration(logging_dir=str(Path(config.output) / LOGS)),
    )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise UserError(
            f"{started} processes were started and only {accelerator.num_processes} found each "
            "other, so each would train alone: start them by `accelerate launch` or `torchrun`"
        )
    hold_group(accelerator)
    _use_all_cores(accelerator)
    return accelerator


def _use_all_cores(accelerator: Accelerator) -> None:
    """On the CPU, share the cores out: both launchers leave each process one thread by default."""
    if accelerator.device.type == "cpu" and launched() and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // accelerator.num_processes))


def _require_tracker(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise UserError(
            f"--log-with {name} needs the package {name}, which is not installed: "
            f"`pip install {name}`, or use --log-with none (metrics.jsonl is always written)"
        )


def open_base(config: TrainConfig, accelerator: Accelerator) -> Base:
    """Load the base; a download is made by one process and read by the others."""
    base = main_first(
        accelerator, lambda: load_base(resolve_vae(config.vae), config.family, config.seed)
    )
    if config.vae.startswith(BUNDLED):
        return replace(base, name=config.vae.removeprefix(BUNDLED))
    return base


def open_all_photos(config: TrainConfig, accelerator: Accelerator, stop: Interrupts) -> Photos:
    """Scan the photos once, on the main process, look for faces, and hand the sets to all."""
    held: list[tuple[Photos, FaceSearch | None]] = []  # on the main process
    on_main(accelerator, lambda: held.append(_open_all(config, stop)))
    seconds = ROUND if accelerator.num_processes > 1 else math.inf
    while not on_main(accelerator, lambda: _look(*held[0], stop, seconds)):
        pass
    return on_main(accelerator, lambda: _with_faces(*held[0]))


def _open_all(config: TrainConfig, stop: Interrupts) -> tuple[Photos, FaceSearch | None]:
    train = _open(config, config.data, config.resolution, "photos", stop)
    left_out = {"train": train.skipped}
    if config.val_data:
        val = _open(config, config.val_data, SMALLEST_MEASURED, "held-out photos", stop)
        left_out["val"] = val.skipped
        train = _without(train, val)
    else:
        train, val = hold_out(train, config.val_share)
    general = None
    if config.general_val_data:
        general = _open(config, config.general_val_data, SMALLEST_MEASURED, "general photos", stop)
        left_out["general"] = general.skipped
    measured = [_at_most(photos, config.val_photos) for photos in (val, general)]
    train = _mixed(config, train, measured, left_out, stop)
    return Photos(train, *measured, left_out), _open_search(config)


def _mixed(
    config: TrainConfig,
    train: PhotoSet | PhotoStream,
    measured: Sequence[PhotoSet | None],
    left_out: dict[str, Sequence[Skip]],
    stop: Interrupts,
) -> PhotoSet | PhotoStream:
    """Add the photos of --general-data, but for those that are in another set already."""
    if not config.general_data:
        return train
    more = _open(config, config.general_data, config.resolution, "photos to mix in", stop)
    left_out["mixed in"] = more.skipped
    there = {photo.id for photos in (train, *measured) if photos for photo in photos.photos}
    more = more.without(there)
    if not more:
        raise UserError(
            "every photo of --general-data is also in --data or is measured on: nothing is left "
            "of it to train on"
        )
    return joined_sets(train, more)


def _open_search(config: TrainConfig) -> FaceSearch | None:
    """Open the face index, by default the run's own; a dry run only reads it."""
    path = config.face_index
    if path is None and config.face_detector_weights is not None:
        path = Path(config.output) / INDEX_NAME
    return open_search(config.face_detector_weights, path, looks=not config.dry_run)


def _face_sets(photos: Photos) -> dict[str, PhotoSet]:
    """List the sets that faces are looked for in. A stream brings its own, or has none."""
    sets = {name: getattr(photos, name) for name in ("train", "val", "general")}
    return {name: some for name, some in sets.items() if isinstance(some, PhotoSet)}


def _look(photos: Photos, search: FaceSearch | None, stop: Interrupts, seconds: float) -> bool:
    """Look for faces for so long, set by set; tell whether all are done."""
    for name, some in _face_sets(photos).items() if search else ():
        with ticks(f"looking for faces ({name})", stop) as tick:
            if not search.look(some, tick, seconds):
                return False
    return True


def _with_faces(photos: Photos, search: FaceSearch | None) -> Photos:
    if search is None:
        return photos
    if search.unreadable:
        print(f"{len(search.unreadable):,} photos could not be read to look for faces in them")
    known = {name: search.known(some) for name, some in _face_sets(photos).items()}
    return replace(photos, **known)


def _open(
    config: TrainConfig, spec: str, smallest: int, what: str, stop: Interrupts
) -> PhotoSet | PhotoStream:
    with ticks(f"reading {what}", stop) as tick:
        return open_photos(
            spec,
            smallest,
            split=config.data_split,
            image_column=config.image_column,
            streaming=config.streaming and spec == config.data,
            progress=tick,
            background=config.background_rgb,
        )


def _without(train: PhotoSet | PhotoStream, val: PhotoSet) -> PhotoSet | PhotoStream:
    """Leave out of the training set what also stands in the held-out set."""
    held_out = {photo.id for photo in val.photos}
    if isinstance(train, PhotoStream):
        return train.without(held_out)
    kept = [index for index, photo in enumerate(train.photos) if photo.id not in held_out]
    if not kept:
        raise UserError("every photo of --data is also in --val-data: nothing is left to train on")
    return train.subset(kept)


def _at_most(photos: PhotoSet | None, most: int | None) -> PhotoSet | None:
    """Take the first photos; as sets are ordered by content hash, that is a fair sample."""
    if photos is None or most is None or len(photos) <= most:
        return photos
    return photos.subset(range(most))


def open_perceptual(config: TrainConfig, accelerator: Accelerator, base: Base) -> Perceptual | None:
    """Find the LPIPS weights, or for the demo the features that stand in for them.

    None where neither the loss nor the evaluation has pixels enough for LPIPS: nothing is fetched.
    """
    if not config.uses_perceptual and config.eval_resolution < SMALLEST_SIDE[config.lpips_net]:
        return None
    return main_first(
        accelerator,
        lambda: load_perceptual(
            config.lpips_net,
            config.lpips_weights,
            allow_fallback=config.preset == "demo",
            vae=base.vae,
            device=accelerator.device,
            required=config.uses_perceptual,
        ),
    )


def open_teacher(config: TrainConfig, accelerator: Accelerator, student: Base) -> Teacher | None:
    """Load the VAE of --teacher, of the student's family, onto the device; None without one."""
    if config.teacher is None:
        return None
    base = main_first(accelerator, lambda: load_base(resolve_vae(config.teacher), config.family))
    return make_teacher(base, student, accelerator.device)


def start_trackers(config: TrainConfig, accelerator: Accelerator, options: dict[str, Any]) -> None:
    """Open TensorBoard or W&B with the run's options."""
    simple = {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in options.items()
    }
    on_all(accelerator, lambda: accelerator.init_trackers("vae-lab", config=simple))
