"""What `--no-worse` came to, in words: for the report, the model card and the end of a run.

`guard` in report.json: {"allowed": dB, "lost": dB or null, "step": int, "kept": bool, "exported":
int or null, "exported_lost": dB or null}. `lost`, `step` and `kept` are of the end of training.
"""

from collections.abc import Mapping
from typing import Any


def guard_words(guard: Mapping[str, Any]) -> str:
    """Say what general photos lost, and which step is exported for it, in one sentence."""
    allowed, step = guard["allowed"], guard["step"]
    if guard["kept"]:
        end = change_words(guard["lost"], allowed)
        kept = f"general photos {end} at step {step}, within the {allowed:g} dB allowed"
        return f"{kept}: exported is that step"
    broken = broken_words(guard["lost"], allowed, step)
    if guard["exported"] is None:
        return f"{broken}, and no measured step keeps to it: nothing is exported"
    difference = round(-guard["exported_lost"], 2) + 0.0  # never -0.00
    return (
        f"{broken}: exported is step {guard['exported']} ({difference:+.2f} dB), the best that "
        "keeps to it"
    )


def broken_words(lost: float | None, allowed: float, step: int) -> str:
    """Say that a step lost too much: "general photos lost 0.31 dB at step 2000, more than ..."."""
    more = ", which is not within" if lost is None else ", more than"
    return (
        f"general photos {change_words(lost, allowed)} at step {step}{more} the {allowed:g} allowed"
    )


def change_words(lost: float | None, allowed: float) -> str:
    """Say what was lost or gained, to as many places as tell it from what is allowed."""
    if lost is None:
        return "gave no number"
    close = lost > allowed >= round(lost, 2)
    return f"{'lost' if lost > 0 else 'gained'} {abs(lost):.{4 if close else 2}f} dB"
