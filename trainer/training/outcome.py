"""What a run hands over: the weights of its end, or of the best step that `--no-worse` allows."""

import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainer.errors import UserError
from trainer.report.guard_words import guard_words
from trainer.training.checkpoints import fault, folder_name
from trainer.training.distributed import on_all, on_main
from trainer.training.guard import decibels_lost, keeps, lost_at
from trainer.training.judging import Scores, draw, score
from trainer.training.run import Run, State
from trainer.training.saving import averaged_state
from trainer.vae.autoencoder import from_state
from vae_core.checkpoint import read_tensors


@dataclass(frozen=True)
class Outcome:
    """A step to hand over: its whole VAE under plain names, its figures, how far it had come."""

    tensors: dict[str, Tensor]
    scores: Scores
    state: State


def find_outcome(run: Run) -> Outcome | None:
    """Return what is handed over, on all processes; None if the guard leaves nothing.

    Raises UserError where the best checkpoint is gone or damaged, Interrupted on a signal.
    """
    if keeps(run, run.state.step):
        return at_end(run)
    best = None if run.state.best_step is None else _read_back(run, run.state.best_step)
    return best if best and _still_keeps(run, best) else None


def at_end(run: Run) -> Outcome:
    """Return the run as it stands; the weights on the main process alone, which writes them."""
    return Outcome(averaged_state(run) if run.is_main else {}, run.scores, run.state)


def _read_back(run: Run, step: int) -> Outcome:
    """Take a step from its checkpoint, and measure what was read as if nothing were known."""
    tensors, state = on_all(run.accelerator, lambda: _read(run, step))
    vae = from_state(run.base.architecture, tensors).to(run.accelerator.device)
    scores = score(run, vae, f"step {step}")
    if scores is None:
        run.interrupts.leave(run.accelerator)
    on_main(run.accelerator, lambda: draw(run, vae, step))
    return Outcome(tensors, scores, state)


def _read(run: Run, step: int) -> tuple[dict[str, Tensor], State]:
    folder = run.folder.checkpoints / folder_name(step)
    wrong = fault(folder)
    if wrong:
        raise UserError(
            f"step {step} is the best that keeps to --no-worse, but its checkpoint cannot be "
            f"exported ({wrong}): restore it from a copy and end the run again by --resume"
        )
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return read_tensors(folder / "weights.safetensors"), State(**state["run"])


def _still_keeps(run: Run, outcome: Outcome) -> bool:
    """Tell whether what was read back, measured here and now, keeps to the allowance too."""
    lost = decibels_lost(run.base_scores["general"], outcome.scores["general"])
    return lost is not None and lost <= run.config.no_worse


def guard_facts(run: Run, outcome: Outcome | None) -> dict[str, Any] | None:
    """Return what report.json says under `guard`; None without `--no-worse`."""
    if run.config.no_worse is None:
        return None
    step = run.state.step
    general = outcome and decibels_lost(run.base_scores["general"], outcome.scores["general"])
    return {
        "allowed": run.config.no_worse,
        "lost": lost_at(run, step),
        "step": step,
        "kept": keeps(run, step),
        "exported": outcome.state.step if outcome else None,
        "exported_lost": general,
    }


def nothing_kept(run: Run) -> str:
    """Say that nothing is exported, what is there all the same, and what to do."""
    verdict = f"{guard_words(guard_facts(run, None))}; the checkpoints and the report stay"
    if run.folder.export.exists():
        verdict += ", and export/ is left as an earlier end of this run wrote it"
    return f"{verdict}. Lower --learning-rate, give --general-data, or allow more by --no-worse."
