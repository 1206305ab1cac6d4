"""Measuring a run: the averaged weights against the base, on the same photos."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from trainer.judge.evaluation import multiple_for
from trainer.judge.samples import save_sheet
from trainer.judge.scores import PhotoScore, summarise
from trainer.judge.set_scores import assemble, count_views, score_set
from trainer.options.config import TrainConfig
from trainer.photos.photo_set import PhotoSet
from trainer.report.guard_words import broken_words
from trainer.training import guard
from trainer.training.distributed import joined, on_all, on_main
from trainer.training.meter import Meter, refresh_seconds
from trainer.training.run import Run

Scores = dict[str, list[PhotoScore]]  # by set: val, general


@contextmanager
def averaged(run: Run) -> Iterator[nn.Module]:
    """Lend the whole model, averaged, for evaluation: on the device, and not compiled per photo."""
    eager = torch.compiler.set_stance("force_eager") if run.config.compile else nullcontext()
    with run.ema.applied(run.trained()), run.whole() as vae, eager:
        vae.eval().to(run.accelerator.device)  # of the encoder alone, if it was not there
        try:
            yield vae
        finally:
            vae.train()
            run.reference.eval().to("cpu")  # which may have lent its encoder


@contextmanager
def original(run: Run) -> Iterator[nn.Module]:
    """Lend the base as it was, on the run's device for as long as it is used."""
    device = run.accelerator.device
    try:
        yield run.reference.to(device)
    finally:
        run.reference.to("cpu")


def score(run: Run, vae: nn.Module, what: str) -> Scores | None:
    """Score every set, shared out over the processes; None if the run was asked to stop."""
    sets = {"val": run.photos.val, "general": run.photos.general}
    scores = {name: _score(run, vae, photos, what) for name, photos in sets.items() if photos}
    return None if run.interrupts.agreed(run.accelerator) else scores


def _score(run: Run, vae: nn.Module, photos: PhotoSet, what: str) -> list[PhotoScore]:
    views = count_views(photos, run.config.eval_resolution, multiple_for(vae))
    total = -(-views // run.accelerator.num_processes)
    with tqdm(
        total=total,
        desc=f"measuring {what}",
        unit=" photos",
        leave=False,
        disable=not run.is_main,
        mininterval=refresh_seconds(),
    ) as bar:
        work = partial(
            score_set,
            vae,
            photos,
            run.perceptual,
            device=run.accelerator.device,
            eval_resolution=run.config.eval_resolution,
            rank=run.accelerator.process_index,
            world=run.accelerator.num_processes,
            should_stop=run.interrupts.requested,
            progress=lambda: bar.update(),
            identity=run.identity,
        )
        mine = on_all(run.accelerator, work)
    return assemble(joined(run.accelerator, mine))


def judge_base(run: Run, meter: Meter) -> bool:
    """Score the base once; False if the run was asked to stop.

    At step 0 the model that trains is the base, so its figures stand for both.
    """
    with original(run) as vae:
        scores = score(run, vae, "the base")
    run.base_scores = scores or {}
    if scores:
        guard.require_general_figures(run)
    if scores and not run.state.step:
        run.scores, run.state.evaluated_step = scores, 0
        meter.log_evaluation(0, {"base": summaries(scores), "tuned": summaries(scores)})
    return scores is not None


def judge(run: Run, meter: Meter) -> bool:
    """Score the averaged model, log it and draw the sheet; tell whether it is the best so far."""
    with averaged(run) as vae:
        scores = score(run, vae, f"step {run.state.step}")
        if scores is None:
            return False
        on_main(run.accelerator, lambda: draw(run, vae, run.state.step))
    run.state.evaluated_step = run.state.step
    run.scores = scores
    guard.note(run)
    meter.log_evaluation(
        run.state.step, {"base": summaries(run.base_scores), "tuned": summaries(scores)}
    )
    _say_if_broken(run, meter)
    return _remember_best(run, summaries(scores)["val"])


def summaries(scores: Scores) -> dict[str, Any]:
    """Summarise each set: {"val": {"all": {...}, ...}, "general": {...}}."""
    return {name: summarise(found) for name, found in scores.items()}


def _say_if_broken(run: Run, meter: Meter) -> None:
    step = run.state.step
    if not guard.keeps(run, step):
        meter.say(broken_words(guard.lost_at(run, step), run.config.no_worse, step))


def draw(run: Run, vae: nn.Module, step: int) -> None:
    """Write the sample sheet of a step: held-out photos by the base and by a model."""
    if not run.config.sample_photos:
        return
    with original(run) as base:
        save_sheet(
            run.folder.samples / f"step_{step:06d}.png",
            base,
            vae,
            run.photos.val,
            count=run.config.sample_photos,
            device=run.accelerator.device,
            eval_resolution=run.config.eval_resolution,
        )


def _remember_best(run: Run, found: dict[str, Any]) -> bool:
    """Compare the held-out photos' loss (weights as in training) with the lowest so far.

    What general photos lost beyond `--no-worse` is never the best, however good on the held-out.
    """
    loss = held_out_loss(run.config, found)
    best = run.state.best_score
    kept = guard.keeps(run, run.state.step)
    if loss is None or not kept or (best is not None and loss >= best):
        return False
    run.state.best_step, run.state.best_score = run.state.step, loss
    return True


def held_out_loss(config: TrainConfig, found: dict[str, Any]) -> float | None:
    """Turn the held-out set's summary into one number, lower is better; None without a PSNR.

    The squared error on [-1, 1], from the PSNR, and the perceptual distances of photos and of
    faces, weighted as in the training loss, whichever pixel loss that has. What was not measured
    is left out.
    """
    whole = found.get("all", {})
    if whole.get("psnr") is None:
        return None
    squared_error = 4 * 10 ** (-whole["psnr"] / 10)
    distances = (
        (config.lpips_weight, _distance(whole)),
        (config.face_lpips_weight, _distance(found.get("faces", {}))),
    )
    terms = [weight * distance for weight, distance in distances if distance is not None]
    if not any(terms):
        return squared_error
    return config.rec_weight * squared_error + sum(terms)


def _distance(region: dict[str, Any]) -> float | None:
    lpips = region.get("lpips")
    return region.get("encoder_distance") if lpips is None else lpips
