"""One run from beginning to end: prepare, train, measure, export, report."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from trainer.errors import UserError, sentence
from trainer.judge.identity import open_identity
from trainer.options.config import TrainConfig, recipe
from trainer.options.toml_file import to_toml
from trainer.photos.photo_set import write_skipped
from trainer.training import saving
from trainer.training.activations import choose_activations
from trainer.training.batch_size import AUTO, Choice, choose_batch_size, settle_batch_size
from trainer.training.caching import fill_cache
from trainer.training.distributed import SharedError, SharedOutOfMemory, main_first, on_main
from trainer.training.dryrun import Plan, check_disk, dry_run, start_text
from trainer.training.finish import finish
from trainer.training.interrupts import Interrupted, Interrupts
from trainer.training.judging import judge, judge_base
from trainer.training.loop import train
from trainer.training.meter import Meter
from trainer.training.out_of_memory import is_out_of_memory, less_memory_than, release
from trainer.training.precision import settle_precision
from trainer.training.run import Run, make_run
from trainer.training.run_folder import RunFolder
from trainer.training.setup import (
    make_accelerator,
    open_all_photos,
    open_base,
    open_perceptual,
    open_teacher,
    start_trackers,
)
from trainer.training.start_text import check_crops
from trainer.versions import versions
from vae_core.files import write_text


def run_session(config: TrainConfig, interrupts: Interrupts) -> None:
    """Do what the options ask; raises UserError or Interrupted where it cannot come to its end."""
    config = settle_precision(config)
    accelerator = make_accelerator(config)
    folder = RunFolder(Path(config.output))
    with ExitStack() as held:
        if not config.dry_run:
            on_main(accelerator, lambda: held.enter_context(folder.claimed(config.resume)) and None)
        run = _prepare(config, accelerator, folder, interrupts)
        if config.dry_run:
            return
        try:
            _carry_out(run)
        finally:
            accelerator.end_training()


def _prepare(
    config: TrainConfig, accelerator: Accelerator, folder: RunFolder, interrupts: Interrupts
) -> Run:
    """Open everything and say what was found; but for a face index, nothing is written yet."""
    base = open_base(config, accelerator)
    interrupts.leave(accelerator)
    perceptual = open_perceptual(config, accelerator, base)
    weights = config.face_recognizer_weights, config.face_detector_weights
    identity = main_first(accelerator, lambda: open_identity(*weights))
    teacher = open_teacher(config, accelerator, base)
    photos = open_all_photos(config, accelerator, interrupts)
    world, device = accelerator.num_processes, accelerator.device
    plan = Plan(config, base, photos, perceptual, world, device, teacher=teacher)
    if config.activation_memory == AUTO:
        kept = choose_activations(plan, accelerator)
        plan = replace(plan, config=replace(config, activation_memory=kept.way), kept=kept.found)
    auto = config.batch_size == AUTO
    if auto:
        check_crops(config, base, perceptual)
        plan = _with_batch(plan, choose_batch_size(plan, accelerator))
    run = make_run(plan.config, accelerator, base, photos, perceptual, folder, interrupts, teacher)
    run.identity = identity
    if auto and not config.dry_run:
        counted = Choice(plan.config.batch_size, plan.batch_found)
        plan = _with_batch(plan, settle_batch_size(run, counted))
    on_main(accelerator, lambda: print(dry_run(plan) if config.dry_run else start_text(plan)))
    return run


def _with_batch(plan: Plan, choice: Choice) -> Plan:
    """Put a batch size that was found in the place of auto."""
    config = replace(plan.config, batch_size=choice.batch_size)
    return replace(plan, config=config, batch_found=choice.found)


def _carry_out(run: Run) -> None:
    beginnings = _begin(run)
    meter = Meter(run.config, run.accelerator, run.log, run.state)
    try:
        for line in beginnings:
            meter.say(line)
        if run.config.cache_latents:
            run.cache = fill_cache(run, meter.say)
        _measure_beginning(run, meter)
        train(run, meter)
        finish(run, meter)
    except Interrupted:
        meter.say(how_to_go_on(run))
        raise
    except (OSError, UserError, RuntimeError, MemoryError) as error:
        failure = _in_words(run, error)
        if failure is None:
            raise
        _rescue(run, failure)
        raise failure from None
    finally:
        meter.close()


def _begin(run: Run) -> list[str]:
    """Write down what the run is, or take up the one that is there."""
    said = saving.resume(run) if run.config.resume else []
    on_main(run.accelerator, lambda: _write_beginning(run))
    start_trackers(run.config, run.accelerator, recipe(run.config))
    return said


def _write_beginning(run: Run) -> None:
    with run.whole() as vae:
        check_disk(run.config, vae, run.folder.path)
    # first, as it is what makes the folder a run's: killed after it, --resume takes the run up
    write_text(run.folder.config, to_toml(run.config, versions()))
    run.log.rewind(run.state.step)
    write_skipped(run.folder.path / "skipped.csv", run.photos.skipped)


def _measure_beginning(run: Run, meter: Meter) -> None:
    """Measure the base; and what an interrupted run still owed at its last step."""
    if not judge_base(run, meter):
        run.interrupts.leave(run.accelerator)
    due = run.config.eval_every and run.state.step % run.config.eval_every == 0
    if run.state.step and due and run.state.evaluated_step != run.state.step:
        judge(run, meter)
        run.interrupts.leave(run.accelerator)


def _in_words(run: Run, error: Exception) -> OSError | UserError | None:
    """Return what to tell of an error; None of one that is a mistake of the program."""
    if isinstance(error, SharedOutOfMemory) or is_out_of_memory(error):
        release(error)
        kind = SharedError if isinstance(error, SharedError) else UserError
        return kind(less_memory_than(run))
    return error if isinstance(error, OSError | UserError) else None


def _rescue(run: Run, error: OSError | UserError) -> None:
    """Where something outside fails (a folder or the photos vanish, say), save what there is.

    Several processes can do so only where all of them stopped at the same place.
    """
    together = run.accelerator.num_processes == 1 or isinstance(error, SharedError)
    if not together or not run.state.step:
        return
    try:
        saving.save(run)
    except (OSError, UserError):
        return  # the last complete checkpoint stands
    raise UserError(f"{sentence(error)}; {how_to_go_on(run)}") from error


def how_to_go_on(run: Run) -> str:
    """Say how to take up a stopped run."""
    step = run.state.step
    return (
        f"stopped {f'at step {step}, saved' if step else 'before the first step'}; go on by: "
        f"accelerate launch trainer/finetune_decoder.py --output {run.config.output} --resume"
    )
