"""The training loop: steps, with evaluation, checkpoints and stops between them."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.photos.batches import Batch
from trainer.photos.face_crops import Heights
from trainer.photos.loader import training_batches
from trainer.training import saving
from trainer.training.distributed import all_finite, joined, mean_over_processes, on_all
from trainer.training.guard import PATIENCE, gave_up
from trainer.training.interrupts import Interrupted
from trainer.training.judging import judge
from trainer.training.meter import Meter
from trainer.training.optimizer import set_learning_rate
from trainer.training.run import Run
from trainer.training.schedule import learning_rate, progress
from trainer.training.waiting import TimedBatches
from trainer.vae.autoencoder import Posterior, input_pixels

MOST_SKIPPED_IN_A_ROW = 10

Terms = dict[str, Tensor]


def train(run: Run, meter: Meter) -> None:
    """Train until steps or minutes are spent, or the guard gives up.

    On a stop, save and raise `Interrupted`.
    """
    batches = TimedBatches(batches_of(run))
    clock = _Clock(run)
    in_a_row = 0
    while progress(run.config, run.state.step, run.state.elapsed) < 1.0 and not gave_up(run):
        rate = learning_rate(run.config, run.state.step, run.state.elapsed)
        set_learning_rate(run.optimizer, rate)
        with batches.step():
            terms = take_step(run, batches)
        clock.read()
        in_a_row = 0 if terms else in_a_row + 1
        if terms:
            run.state.step += 1
            run.ema.update(run.trained())
            _log(run, terms, rate, batches, meter)
        else:
            _count_skipped(run, in_a_row)
        _leave_if_asked(run)
        if terms:
            _evaluate_and_save(run, meter)
        clock.read()
    _say_if_early(run, meter)


class _Clock:
    """Seconds of training, those before a resume included.

    Where they end the run, one clock for all processes; else each has its own, and none waits.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began = time.monotonic() - run.state.elapsed

    def read(self) -> None:
        """Bring `run.state.elapsed` up to date."""
        elapsed = time.monotonic() - self._began
        if self._run.config.max_train_minutes:
            elapsed = joined(self._run.accelerator, [elapsed])[0]
        self._run.state.elapsed = elapsed


def batches_of(run: Run) -> Iterator[Batch]:
    """Give the micro-batches of this process, from where the run stands, without end."""
    return iter(
        training_batches(
            run.photos.train,
            resolution=run.config.resolution,
            batch_size=run.config.batch_size,
            latent_shape=run.latent_shape(),
            seed=run.config.seed,
            rank=run.accelerator.process_index,
            world=run.accelerator.num_processes,
            start=run.state.position,
            workers=run.config.workers,
            flip=run.config.flip,
            cache=run.cache,
            face_share=run.config.face_share,
            face_heights=Heights(run.config.face_min_height, run.config.face_max_height),
            pixel_noise=run.pixel_noise_shape(),
        )
    )


def take_step(run: Run, batches: Iterator[Batch]) -> Terms | None:
    """Compute and apply one optimizer step; None if the loss or its gradient was not finite."""
    parts = run.config.gradient_accumulation_steps
    taken = on_all(run.accelerator, lambda: [next(batches) for _ in range(parts)])
    _note_skipped_photos(run, taken)
    if run.adversary:
        run.adversary.prepare(run.state.step)
    terms = _backward(run, taken)
    applied = _apply(run, terms["loss"])
    run.optimizer.zero_grad()
    if run.adversary and applied:
        run.adversary.learn(run.accelerator, run.optimizer.param_groups[0]["lr"])
    # only now, so that a step which an error broke off is taken anew on the same samples
    run.state.position += run.global_batch()
    return terms if applied else None


def _backward(run: Run, batches: list[Batch]) -> Terms:
    """Add up the gradients of the mean loss over some batches; return the mean terms."""
    total: Terms = {}
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        with nullcontext() if last else run.accelerator.no_sync(run.step_module):
            terms = on_all(run.accelerator, partial(forward, run, batch))
            run.accelerator.backward(terms["loss"] / len(batches))
        for name, value in terms.items():
            total[name] = total.get(name, 0.0) + value.detach() / len(batches)
    return total


def forward(run: Run, batch: Batch) -> Terms:
    """Score one micro-batch, from pixels or from cached moments."""
    device = run.accelerator.device
    pixels = input_pixels(run.vae, on_device(batch.pixels, device))
    noise = on_device(batch.noise, device)
    if batch.mean is None:
        added = None if batch.pixel_noise is None else on_device(batch.pixel_noise, device)
        return run.step_module(pixels, noise, None, batch.faces, added)
    logvar = None if batch.logvar is None else on_device(batch.logvar, device)
    posterior = Posterior(on_device(batch.mean, device), logvar)
    return run.step_module(pixels, noise, posterior, batch.faces)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; to a GPU from pinned memory, as a copy from elsewhere waits for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _apply(run: Run, loss: Tensor) -> bool:
    """Clip and step; False, with the weights as they were, if loss or gradient was not finite.

    The one place in a step where this process waits for its device, and only with all of the
    backward pass queued: what it reads tells of every batch of the step and of the gradient.
    """
    scaler = run.accelerator.scaler
    # the scaler sees to the gradient by itself, and unscales it once per step that it is asked for
    norm = loss if scaler else _clip(run)
    if not all_finite(run.accelerator, torch.stack([loss, norm])):
        return False
    if scaler:
        _clip(run)
    run.optimizer.step()
    return not run.accelerator.optimizer_step_was_skipped


def _clip(run: Run) -> Tensor:
    """Clip the gradient and return its norm as it was."""
    limit = run.config.max_grad_norm or math.inf
    return run.accelerator.clip_grad_norm_(list(run.trained().values()), limit)


def _note_skipped_photos(run: Run, batches: list[Batch]) -> None:
    for batch in batches:
        fresh = [list(skip) for skip in batch.skipped]
        run.state.skipped_photos += [s for s in fresh if s not in run.state.skipped_photos]


def _count_skipped(run: Run, in_a_row: int) -> None:
    run.state.skipped += 1
    if in_a_row >= MOST_SKIPPED_IN_A_ROW:
        saving.save(run)
        raise UserError(
            f"the loss was not finite {in_a_row} times in a row, so the run stopped at step "
            f"{run.state.step}, saved: lower --learning-rate or use --mixed-precision bf16 or no, "
            "then go on by --resume"
        )


def _log(run: Run, terms: Terms, rate: float, batches: TimedBatches, meter: Meter) -> None:
    done = progress(run.config, run.state.step, run.state.elapsed) >= 1.0
    if run.state.step % run.config.log_every and not done:
        meter.advance(run.state)
        return
    means = mean_over_processes(run.accelerator, torch.stack(list(terms.values())))
    waited = max(joined(run.accelerator, [batches.share()]))  # the slowest holds all up
    values = dict(zip(terms, means.tolist(), strict=True))
    meter.log(run.state, values | {"lr": rate, "wait": round(waited, 4)})


def _leave_if_asked(run: Run) -> None:
    if run.interrupts.agreed(run.accelerator):
        saving.save(run)
        raise Interrupted(run.interrupts.signal)


def _say_if_early(run: Run, meter: Meter) -> None:
    if gave_up(run) and progress(run.config, run.state.step, run.state.elapsed) < 1.0:
        meter.say(
            f"training ends early, at step {run.state.step}: general photos lost more than "
            f"{run.config.no_worse:g} dB at {PATIENCE} evaluations in a row, and it does not shrink"
        )


def _evaluate_and_save(run: Run, meter: Meter) -> None:
    """Do what is due at this step: an evaluation, a checkpoint, or both at once."""
    step, config = run.state.step, run.config
    evaluate = config.eval_every and step % config.eval_every == 0
    better = judge(run, meter) if evaluate else False
    _leave_if_asked(run)
    if better or (config.checkpoint_every and step % config.checkpoint_every == 0):
        saving.save(run)
