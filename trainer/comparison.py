"""Comparing VAEs on the same photos: the work behind trainer/evaluate.py."""

import math
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from trainer.errors import UserError
from trainer.judge.evaluation import PhotoScore, multiple_for
from trainer.judge.identity import Identity, open_identity
from trainer.judge.perceptual import Perceptual, load_perceptual
from trainer.judge.pictures import Picture, with_model
from trainer.judge.set_scores import assemble, count_views, score_set
from trainer.judge.shown import open_shown
from trainer.options.config import resolve_vae
from trainer.photos.face_search import FaceSearch, open_search
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from trainer.report.figures import place_name
from trainer.report.pages import HTML_NAME, JSON_NAME, write_report
from trainer.report.report_data import build_report
from trainer.report.table import print_table
from trainer.training.distributed import joined, main_first, on_all, on_main
from trainer.training.interrupts import Interrupts
from trainer.training.ticks import ticks
from trainer.vae.base import load_base

SMALLEST = 8  # pixels: the least that is left by cropping to multiples of 8
NO_LPIPS = "none"
Scores = dict[str, list[PhotoScore]]  # by set


@dataclass(frozen=True)
class Comparison:
    """What is compared on what; `multiple` is the crop that suits every one of the VAEs."""

    options: Namespace
    accelerator: Accelerator
    stop: Interrupts
    perceptual: Perceptual | None
    vaes: dict[str, nn.Module]
    sets: dict[str, PhotoSet]
    multiple: int
    identity: Identity | None


def compare_vaes(options: Namespace, accelerator: Accelerator, stop: Interrupts) -> None:
    """Score every VAE on every set and write the report; raises UserError or Interrupted."""
    vaes = main_first(accelerator, lambda: open_vaes(options))
    perceptual = main_first(accelerator, lambda: open_perceptual(options, accelerator))
    weights = options.face_recognizer_weights, options.face_detector_weights
    identity = main_first(accelerator, lambda: open_identity(*weights))
    sets = on_main(accelerator, lambda: open_sets(options, stop))
    multiple = math.lcm(*map(multiple_for, vaes.values()))
    job = Comparison(options, accelerator, stop, perceptual, vaes, sets, multiple, identity)
    models = {spec: score(job, spec) for spec in vaes}
    on_main(accelerator, lambda: write(job, models))


def check_request(options: Namespace) -> None:
    """Refuse a folder that already holds a report, and a VAE that is named twice."""
    for name in (JSON_NAME, HTML_NAME):
        if (options.output / name).exists():
            raise UserError(
                f"{options.output} already holds a {name}, which is not written over: "
                "give another --output, or move that report away"
            )
    for spec, count in Counter(options.vae).items():
        if count > 1:
            raise UserError(f"--vae {spec} was given {count} times: give each VAE once")


# Opening


def open_vaes(options: Namespace) -> dict[str, nn.Module]:
    """Load every VAE, in the order in which they were given."""
    return {spec: load_base(resolve_vae(spec), options.family).vae for spec in options.vae}


def open_perceptual(options: Namespace, accelerator: Accelerator) -> Perceptual | None:
    """Find the LPIPS weights, unless LPIPS is left out."""
    net = options.lpips_net
    if net == NO_LPIPS:
        return None
    found = load_perceptual(
        net,
        options.lpips_weights,
        allow_fallback=False,
        vae=nn.Identity(),  # only the fallback would look at it
        device=accelerator.device,
        required=False,
    )
    if found is None:
        raise UserError(
            f"LPIPS weights for {net!r} cannot be had here: give --lpips-weights FILE; or make "
            f"that file by `python trainer/weights.py --lpips-net {net} --output lpips_{net}"
            f".safetensors` on a machine with network; or leave LPIPS out by --lpips-net {NO_LPIPS}"
        )
    return found


def open_sets(options: Namespace, stop: Interrupts) -> dict[str, PhotoSet]:
    """Read the photos, and their faces from an index, or found where a detector is given."""
    search = open_search(options.face_detector_weights, options.face_index)
    specs = {"val": options.data, "general": options.general_val_data}
    return {name: _open_set(name, spec, search, stop) for name, spec in specs.items() if spec}


def _open_set(name: str, spec: str, search: FaceSearch | None, stop: Interrupts) -> PhotoSet:
    with ticks(f"reading photos ({name})", stop) as tick:
        photos = open_photos(spec, SMALLEST, progress=tick)
    if search:
        with ticks(f"looking for faces ({name})", stop) as tick:
            photos = search.known(photos, tick)
    print(f"{name}: {photos.summary()}")
    return photos


# Measuring


def score(job: Comparison, spec: str) -> Scores:
    """Score one VAE on every set, shared out over the processes."""
    vae = job.vaes[spec].to(job.accelerator.device)
    scores = {name: _score_set(job, spec, vae, name) for name in job.sets}
    job.vaes[spec].to("cpu")
    job.stop.leave(job.accelerator)
    return scores


def _score_set(job: Comparison, spec: str, vae: nn.Module, name: str) -> list[PhotoScore]:
    world, side = job.accelerator.num_processes, job.options.eval_resolution
    with tqdm(
        desc=f"measuring {place_name(spec)} ({name})",
        total=-(-count_views(job.sets[name], side, job.multiple) // world),
        unit=" photos",
        disable=not job.accelerator.is_main_process,
    ) as bar:
        work = partial(
            score_set,
            vae,
            job.sets[name],
            job.perceptual,
            device=job.accelerator.device,
            eval_resolution=side,
            multiple=job.multiple,
            rank=job.accelerator.process_index,
            world=world,
            should_stop=job.stop.requested,
            progress=bar.update,
            identity=job.identity,
        )
        mine = on_all(job.accelerator, work)
    return assemble(joined(job.accelerator, mine))


# Writing


def write(job: Comparison, models: dict[str, Scores]) -> None:
    """Write report.json and report.html, and print the table."""
    facts = {"data": {name: _facts(photos) for name, photos in job.sets.items()}}
    report = build_report(
        models, job.perceptual, eval_resolution=job.options.eval_resolution, facts=facts
    )
    folder: Path = job.options.output
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in vars(job.options).items() if k not in ("vae", "output")}
    write_report(folder, report, pictures=show(job, models), config=config)
    print(f"\n{print_table(report)}\n\nreport: {folder / HTML_NAME}")


def _facts(photos: PhotoSet) -> dict[str, object]:
    reasons = Counter(skip.reason for skip in photos.skipped)
    return {"photos": len(photos), "skipped": dict(reasons.most_common())}


def show(job: Comparison, models: dict[str, Scores]) -> list[Picture]:
    """Decode the photos that tell most about first and last VAE once more, with every VAE."""
    first, last = models[job.options.vae[0]], models[job.options.vae[-1]]
    pictures = open_shown(job.sets, first, last, job.options.eval_resolution, job.multiple)
    for spec, vae in job.vaes.items():
        vae.to(job.accelerator.device)
        pictures = with_model(pictures, spec, vae, job.accelerator.device)
        vae.to("cpu")
    return pictures
