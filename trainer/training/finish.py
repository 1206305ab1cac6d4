"""The end of a run: last figures, last checkpoint, export, report, model card, verdict."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from trainer.judge.evaluation import multiple_for, view
from trainer.judge.pictures import Picture, with_model
from trainer.judge.shown import open_shown
from trainer.options.config import recipe
from trainer.photos.photo_set import write_skipped
from trainer.photos.skips import Skip, SkippedPhoto
from trainer.report.card import loaders, model_card
from trainer.report.guard_words import guard_words
from trainer.report.pages import HTML_NAME, write_report
from trainer.report.report_data import build_report
from trainer.report.table import print_table
from trainer.training import saving
from trainer.training.checkpoints import best_checkpoint
from trainer.training.distributed import on_main
from trainer.training.guard import NothingKept
from trainer.training.judging import judge, original, summaries
from trainer.training.meter import Meter
from trainer.training.outcome import Outcome, at_end, find_outcome, guard_facts, nothing_kept
from trainer.training.run import Run
from trainer.training.start_text import loss_in_words
from trainer.training.waiting import advice, share_of_run
from trainer.vae.autoencoder import from_state, image_channels, input_pixels
from trainer.vae.export import Exported, export_run
from vae_core.files import write_text

PROBE_SIDE = 256  # pixels; enough to compare decodes, and quick where there is no GPU


def finish(run: Run, meter: Meter) -> None:
    """Measure what was reached, save it, export it or what the guard puts in its place, say so.

    Raises NothingKept, with the verdict, where the guard leaves nothing to export.
    """
    if run.state.evaluated_step != run.state.step or not run.scores:
        judge(run, meter)
    saving.save(run)
    run.interrupts.leave(run.accelerator)
    outcome = find_outcome(run)
    meter.close()
    on_main(run.accelerator, lambda: _write_results(run, outcome))
    if outcome is None:
        raise NothingKept(nothing_kept(run))


def _write_results(run: Run, outcome: Outcome | None) -> None:
    """Export and report an outcome; of none, report what the end would have been."""
    shown = outcome or at_end(run)
    tuned = from_state(run.base.architecture, shown.tensors)
    config = asdict(run.config)
    report = build_report(
        {"base": run.base_scores, "tuned": shown.scores},
        run.perceptual,
        eval_resolution=run.config.eval_resolution,
        facts=_facts(run, shown) | {"guard": guard_facts(run, outcome)},
    )
    exported = _export(run, outcome, tuned) if outcome else None
    if exported:
        report["export"] = _checked(exported)
    write_report(run.folder.path, report, run.log.read(), _pictures(run, tuned, shown), config)
    _write_skipped(run)
    if exported:
        write_text(run.folder.path / "README.md", model_card(report, config))
        print(_closing_words(run, report, exported))


def _export(run: Run, outcome: Outcome, tuned: torch.nn.Module) -> Exported:
    return export_run(
        tuned,
        run.base,
        run.folder.export,
        run.config.export_dtype,
        _probe(run),
        recipe(run.config),
        {"base": summaries(run.base_scores), "tuned": summaries(outcome.scores)},
        run.config.trainable,
    )


def _facts(run: Run, outcome: Outcome) -> dict[str, Any]:
    hub_id = run.config.vae if run.base.revision else None
    sets = {"train": run.photos.train, "val": run.photos.val, "general": run.photos.general}
    return {
        "base": {
            "name": run.base.name,
            "hub_id": hub_id,
            "revision": run.base.revision,
            "family": run.base.family,
            "sha256": run.base.sha256,
            "architecture": run.base.architecture,
        },
        "run": {
            "steps": outcome.state.step,
            "images": outcome.state.position,
            "seconds": round(outcome.state.elapsed, 1),
            "trained": run.config.trainable,
            "skipped_steps": outcome.state.skipped,
            "loss": loss_in_words(run.config, run.base, run.perceptual).splitlines(),
        },
        "data": {
            name: {
                "photos": len(photos.photos),
                "skipped": Counter(skip.reason for skip in run.photos.left_out.get(name, ())),
            }
            for name, photos in sets.items()
            if photos is not None
        },
    }


def _checked(exported: Exported) -> dict[str, Any]:
    """Say what the check of the files found."""
    return {
        "tensors": exported.tensors,
        "parameters": exported.parameters,
        "decode_difference": exported.decode_difference,
        "fp16": exported.fp16._asdict(),
    }


def _probe(run: Run) -> Tensor:
    """Take a held-out photo to decode by model and files: [1, C, H, W] in [-1, 1]."""
    multiple = multiple_for(run.reference)
    side = min(PROBE_SIDE, run.config.eval_resolution)
    for index in range(len(run.photos.val)):
        try:
            seen, _ = view(run.photos.val.image(index), None, side, multiple)
            return input_pixels(run.reference, torch.from_numpy(seen)[None])
        except SkippedPhoto:
            continue
    generator = torch.Generator().manual_seed(0)
    shape = (1, image_channels(run.reference), 4 * multiple, 4 * multiple)
    return torch.rand(shape, generator=generator) * 2 - 1


def _pictures(run: Run, tuned: torch.nn.Module, outcome: Outcome) -> list[Picture]:
    """Reconstruct what the report shows, by base and by tuned."""
    if not run.config.sample_photos:
        return []
    sets = {"val": run.photos.val, "general": run.photos.general}
    sets = {group: photos for group, photos in sets.items() if photos is not None}
    side, device = run.config.eval_resolution, run.accelerator.device
    with original(run) as base:
        opened = open_shown(sets, run.base_scores, outcome.scores, side, multiple_for(base))
        pictures = with_model(opened, "base", base, device)
    return with_model(pictures, "tuned", tuned.to(device), device)


def _write_skipped(run: Run) -> None:
    """Write the list again, with what was met in training: a photo that vanished, say."""
    met = [Skip(*entry) for entry in run.state.skipped_photos]
    write_skipped(run.folder.path / "skipped.csv", [*run.photos.skipped, *dict.fromkeys(met)])


# Last words


def _closing_words(run: Run, report: Mapping[str, Any], exported: Exported) -> str:
    lines = [
        "",
        print_table(report),
        "",
        f"report   {run.folder.path / HTML_NAME}",
        f"file     {exported.single_file}  ({exported.tensors} tensors, read back and compared: "
        f"largest difference {exported.decode_difference:.1e})",
        f"folder   {exported.diffusers_folder}",
        _about_fp16(exported),
        _about_skipped(run),
        _about_discriminator(run),
        _about_waiting(run),
        _about_best(run, report),
        f"guard    {guard_words(report['guard'])}" if report["guard"] else None,
        "",
        loaders(run.base.architecture),
    ]
    return "\n".join(line for line in lines if line is not None)


def _about_fp16(exported: Exported) -> str:
    probe = exported.fp16
    fits = "fits" if probe.finite else "does NOT fit"
    return f"fp16     {fits}: largest activation {probe.largest:.0f} of 65504, in {probe.where}"


def _about_skipped(run: Run) -> str | None:
    if not (run.state.skipped or run.state.skipped_photos):
        return None
    return (
        f"skipped  {run.state.skipped} steps whose loss was not finite, "
        f"{len(run.state.skipped_photos)} photos in training (skipped.csv)"
    )


def _about_discriminator(run: Run) -> str | None:
    skipped = int(run.adversary.skipped) if run.adversary else 0
    return f"judge    {skipped} of its steps skipped, as not finite" if skipped else None


def _about_waiting(run: Run) -> str | None:
    said = advice(share_of_run(run.log.read()))
    return f"waiting  {said}" if said else None


def _about_best(run: Run, report: Mapping[str, Any]) -> str | None:
    best = best_checkpoint(run.folder.checkpoints)
    if best is None or run.state.best_step == report["run"]["steps"]:
        return None
    return (
        f"best     the held-out loss was lowest at {best.name}, before the end; to take that one: "
        f"python trainer/convert.py {best} vae.safetensors --layout ldm --dtype "
        f"{run.config.export_dtype}"
    )
