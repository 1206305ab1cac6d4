"""The guard of `--no-worse`: what general photos lost, which steps keep to it, and when to give up.

Everything here follows from the scores, which all processes hold, and from `State`, which a
checkpoint brings back: so processes agree without a word, and a resumed run judges as before.
"""

import math
from collections.abc import Sequence

from trainer.errors import UserError
from trainer.judge.scores import PhotoScore, figure, mean, pair_up
from trainer.training.run import Run

PATIENCE = 3  # evaluations in a row


class NothingKept(Exception):
    """General photos lost more than allowed at the end and at every step that was measured."""


def decibels_lost(base: Sequence[PhotoScore], tuned: Sequence[PhotoScore]) -> float | None:
    """Return the mean PSNR that a set lost in dB, over the photos that both were measured on.

    Negative where it gained. None where there is no telling: the base gave no number, or the tuned
    model gave NaN for any photo, which would otherwise drop out of the mean.
    """
    if any(score.psnr is not None and math.isnan(score.psnr) for score in tuned):
        return None
    pairs = [(figure(a, "psnr"), figure(b, "psnr")) for a, b in pair_up(base, tuned)]
    return mean(a - b for a, b in pairs if a is not None and b is not None)


def require_general_figures(run: Run) -> None:
    """Raise UserError where the base has no PSNR on any general photo, so that nothing guards."""
    base = run.base_scores.get("general", [])
    if run.config.no_worse is not None and decibels_lost(base, base) is None:
        raise UserError(
            f"Expected general photos that can be measured for --no-worse, but of {len(base)} the "
            "base gives a PSNR for none: give other photos by --general-val-data."
        )


def note(run: Run) -> None:
    """Write down what the last evaluation's step lost, once however often it is measured."""
    if "general" not in run.scores:
        return
    lost = decibels_lost(run.base_scores["general"], run.scores["general"])
    others = [entry for entry in run.state.general_lost if entry[0] != run.state.step]
    run.state.general_lost = [*others, [run.state.step, lost]]


def lost_at(run: Run, step: int) -> float | None:
    """Return what a measured step lost in dB, or None if that is not known."""
    return dict(run.state.general_lost).get(step)


def keeps(run: Run, step: int) -> bool:
    """Tell whether a measured step loses no more than is allowed; without a guard, all do."""
    allowed = run.config.no_worse
    return allowed is None or _as_number(lost_at(run, step)) <= allowed


def forget_best_that_breaks(run: Run) -> None:
    """Let go of a best step that the allowance of now, which a resume may change, rules out."""
    if run.state.best_step is not None and not keeps(run, run.state.best_step):
        run.state.best_step = run.state.best_score = None


def gave_up(run: Run) -> bool:
    """Tell whether training should end early: the loss of general photos persists.

    One dip says little, as losses grow with the learning rate and heal as it falls. So it takes
    `PATIENCE` evaluations in a row that lose too much, the last of them no less than the first:
    a loss that shrinks from one to the next is healing, and may yet come to what is allowed.
    """
    if run.config.no_worse is None:
        return False
    last = [_as_number(lost) for _, lost in run.state.general_lost[-PATIENCE:]]
    too_much = all(lost > run.config.no_worse for lost in last)
    return len(last) == PATIENCE and too_much and last[-1] >= last[0]


def _as_number(lost: float | None) -> float:
    return math.inf if lost is None else lost
