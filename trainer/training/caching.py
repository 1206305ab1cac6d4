"""Filling the latent cache: photos decoded by workers, encoded in batches, written in shards.

Every process encodes its own share of the photos and writes its own shards. What is written stays,
so an interrupted build goes on where it stopped, on any number of processes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from trainer.errors import UserError
from trainer.photos.cached_batches import LatentCache, places_of
from trainer.photos.crop_sets import CropSet, CropSets, FailedPhoto
from trainer.photos.latent_cache import (
    PhotoLatents,
    begin_cache,
    open_cache,
    write_index,
    write_shard,
)
from trainer.photos.loader import data_loader, failures_allowed, too_many, without_dead_workers
from trainer.photos.sample_line import sample_line
from trainer.photos.skips import Skip
from trainer.training.cache_plan import (
    CachePlan,
    check_room,
    disk_full,
    draws_of,
    plan_cache,
    records_of,
)
from trainer.training.distributed import joined, on_all, on_main
from trainer.training.judging import original
from trainer.training.meter import refresh_seconds
from trainer.training.run import Run
from trainer.training.run_folder import exclusive
from trainer.vae.autoencoder import encode, input_pixels

LOCK = ".lock"
# Of one photo, encoded at a time: 4 crops of 512, 16 of 256. Crops of different photos never share
# a batch, so that a record is a function of its photo alone, whatever was done before.
PIXELS_AT_ONCE = 2**20

Failed = dict[str, Skip]  # by the photo's id


def fill_cache(run: Run, say: Callable[[str], None]) -> LatentCache:
    """Encode what the cache lacks of the training photos; return it, the same on every process.

    Photos that cannot be read are told by `say`, and passed over in training as without a cache.
    Raises Interrupted on a stop, and UserError where folder, disk, photos or latents do not allow
    it.
    """
    with ExitStack() as held:
        plan = on_main(run.accelerator, lambda: _take_hold(run, held))
        failed = _encode_share(run, plan) if plan.lacking else {}
        cache = on_main(run.accelerator, lambda: _complete(run, plan, failed))
    for name, reason, detail in failed.values():
        say(f"not in the latent cache: {name} ({reason}: {detail})")
    return cache


def _take_hold(run: Run, held: ExitStack) -> CachePlan:
    """Look at the cache; where it is not complete, keep other runs from writing to it meanwhile."""
    planned = run.config, run.base, run.photos.train
    plan = plan_cache(*planned)
    if plan.is_complete:
        return plan
    check_room(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    complaint = (
        f"another run is filling --cache-latents {plan.folder}: wait until it trains, stop it, or "
        "give another folder"
    )
    held.enter_context(exclusive(plan.folder / LOCK, complaint))
    begin_cache(plan.folder, plan.key)
    return plan_cache(*planned)  # another run may have filled it just before


def _encode_share(run: Run, plan: CachePlan) -> Failed:
    """Encode this process's share of the photos, a shard at a time; all stop together."""
    rank, world = run.accelerator.process_index, run.accelerator.num_processes
    photos_a_round = plan.layout.photos_per_shard
    rounds = -(-len(plan.lacking) // (photos_a_round * world))
    failed: Failed = {}
    share = plan.lacking[rank::world]
    with (
        original(run) as vae,
        closing(_crop_sets(run, plan, share)) as items,
        _bar(run, share) as bar,
    ):
        for _ in range(rounds):
            some = _until_stopped(run, bar, islice(items, photos_a_round))
            on_all(run.accelerator, partial(_encode_shard, run, plan, vae, some, failed))
            run.interrupts.leave(run.accelerator)
    return {key: skip for found in joined(run.accelerator, [failed]) for key, skip in found.items()}


def _crop_sets(
    run: Run, plan: CachePlan, share: list[tuple[int, bool]]
) -> Iterator[CropSet | FailedPhoto]:
    """Decode photos in workers, a few ahead of the encoder."""
    draws = draws_of(run.config, plan.layout.latent_shape)
    others = sample_line(run.photos.train, draws.seed, draws.share).first
    sets = CropSets(run.photos.train, share, others, draws, plan.layout.crops)
    return without_dead_workers(data_loader(sets, run.config.workers))


def _bar(run: Run, share: list[tuple[int, bool]]) -> tqdm:
    return tqdm(
        total=len(share),
        desc="encoding photos",
        unit=" photos",
        leave=False,
        disable=not run.is_main,
        mininterval=refresh_seconds(),
    )


def _until_stopped(
    run: Run, bar: tqdm, items: Iterator[CropSet | FailedPhoto]
) -> Iterator[CropSet | FailedPhoto]:
    for item in items:
        yield item
        bar.update()
        if run.interrupts.requested():
            return


def _encode_shard(
    run: Run,
    plan: CachePlan,
    vae: nn.Module,
    items: Iterator[CropSet | FailedPhoto],
    failed: Failed,
) -> None:
    """Encode some photos and write their records as one shard; note those that failed."""
    latents = []
    for item in items:
        if isinstance(item, FailedPhoto):
            failed[item.record] = item.skip
            _refuse_too_many(failed, plan)
        else:
            latents.append(encode_photo(vae, item, run.accelerator))
    if not latents:
        return
    try:
        write_shard(plan.folder, plan.key, latents)
    except OSError as error:
        raise disk_full(error, plan) or error from error


def encode_photo(vae: nn.Module, item: CropSet, accelerator: Accelerator) -> PhotoLatents:
    """Encode all crops of a photo, in the precision of the run; kept as float16.

    Raises UserError for latents that are not finite or that float16 cannot hold.
    """
    at_once = max(1, PIXELS_AT_ONCE // item.crops[0, ..., 0].numel())
    parts: tuple[list[Tensor], list[Tensor]] = [], []
    for crops in item.crops.split(at_once):
        with torch.no_grad(), accelerator.autocast():
            posterior = encode(vae, input_pixels(vae, crops.to(accelerator.device)))
        for kept, moments in zip(parts, posterior, strict=True):
            if moments is not None:
                kept.append(_as_float16(moments, item.name))
    mean, logvar = (torch.cat(kept) if kept else None for kept in parts)
    return PhotoLatents(item.record, item.crops, mean, logvar)


def _as_float16(moments: Tensor, name: str) -> Tensor:
    largest = float(moments.abs().max())
    if not largest <= torch.finfo(torch.float16).max:  # NaN too
        raise UserError(
            f"the encoder turns {name} into latents of up to {largest:g}, and 65504 is the most "
            "that the cache can hold: use --mixed-precision bf16 or no if it is fp16, or train "
            "without --cache-latents"
        )
    return moments.to("cpu", torch.float16)


def _refuse_too_many(failed: Failed, plan: CachePlan) -> None:
    if len(failed) > failures_allowed(plan.total):
        raise UserError(too_many(failed, plan.total))


def _complete(run: Run, plan: CachePlan, failed: Failed) -> LatentCache:
    """Write down what lies where, and give it to the run."""
    _refuse_too_many(failed, plan)
    shards = plan.contents.shards
    if not plan.is_complete:
        shards = open_cache(plan.folder, plan.key).shards
        write_index(plan.folder, plan.key, shards)
    wanted = set(records_of(run.config, run.photos.train))
    places = {key: place for key, place in places_of(shards).items() if key in wanted}
    if unseen := wanted - places.keys() - failed.keys():
        raise UserError(
            f"Expected to find all latents in {plan.folder}, but those of {len(unseen):,} photos "
            "that other processes wrote are not there: give --cache-latents a folder on a disk "
            "that all machines of the run share."
        )
    reasons = {key: (skip.reason, skip.detail) for key, skip in failed.items()}
    return LatentCache(plan.folder, plan.layout.crops, places, reasons)
