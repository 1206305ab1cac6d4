"""What the figures of a report say, in words, and no more than they say."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainer.report.figures import Report, change, compared, figure_title, labels, number
from trainer.report.guard_words import guard_words

LEAST_DB = 0.01  # smaller changes of PSNR are called none
LEAST_SHARE = 0.005  # the same for a perceptual distance, as a share of the first model's
OVER_SHARP = 1.05  # gradient energy over the photos': more is what the photos do not have
LEAST_SHARPNESS = 0.01  # a smaller loss of it is called none
PERCEPTUAL = ("lpips", "encoder_distance")


class Verdict(NamedTuple):
    """The outcome ("better", "worse", "mixed", "same" or ""), its headline, and what to add."""

    tone: str
    headline: str
    details: list[str]


def verdict(report: Report) -> Verdict:
    """Judge the last model against the first, or the best of several, on the validation photos."""
    names, shown = list(report["models"]), labels(report)
    if len(names) < 2:
        return Verdict("", _figures_of(report, names[0], shown[names[0]]), [])
    name = names[1] if len(names) == 2 else _best(report, names[1:])
    if _is_broken(report, name):
        return Verdict("worse", "Broken: the model gives values that are no numbers", [])
    guard = report.get("guard")
    if guard and guard["exported"] is None:
        return Verdict("worse", "Nothing exported: see the guard", _details(report, name))
    whole = compared(report, name, "val")
    tone = _tone(report, name, whole)
    who = "" if len(names) == 2 else f"{shown[name]}: "
    return Verdict(tone, who + _headline(tone, whole), _details(report, name))


def _is_broken(report: Report, name: str) -> bool:
    """Tell whether a model's PSNR has no mean though it was measured: NaN from the model."""
    wholes = [sets.get("all", {}) for sets in report["models"][name].values()]
    return any(w and w.get("psnr") is None and w.get("identical") != w["n"] for w in wholes)


def perceptual_figure(report: Report, name: str, group: str) -> str | None:
    """Return which perceptual figure a model has on a set."""
    whole = report["models"][name].get(group, {}).get("all", {})
    return next((figure for figure in PERCEPTUAL if whole.get(figure) is not None), None)


def _figures_of(report: Report, name: str, shown: str) -> str:
    whole = report["models"][name].get("val", {}).get("all", {})
    if whole.get("psnr") is None:
        return f"{shown}: no figures could be computed"
    return f"{shown}: {whole['psnr']:.2f} dB PSNR on {number(whole['n'], 'photo')}"


def _best(report: Report, names: list[str]) -> str:
    def psnr(name: str) -> float:
        value = report["models"][name].get("val", {}).get("all", {}).get("psnr")
        return float("-inf") if value is None else value

    return max(names, key=psnr)


def _tone(report: Report, name: str, whole: Mapping[str, Any]) -> str:
    psnr = whole.get("psnr")
    if psnr is None:
        return ""
    signs = [_sign(psnr, LEAST_DB)]
    figure = perceptual_figure(report, name, "val")
    if figure in whole:
        first = next(iter(report["models"].values()))["val"]["all"][figure]
        signs.append(-_sign(whole[figure], LEAST_SHARE * (first or 0)))
    if min(signs) < 0 < max(signs):
        return "mixed"
    return "better" if max(signs) > 0 else "worse" if min(signs) < 0 else "same"


def _sign(entry: Mapping[str, Any], least: float) -> int:
    """Return the direction of a mean difference, 0 if it is under `least` or not certain."""
    difference, interval = entry["difference"], entry["interval"]
    if difference is None or abs(difference) < least:
        return 0
    if interval and interval[0] <= 0 <= interval[1]:
        return 0
    return 1 if difference > 0 else -1


WORDS = {"better": "Better", "worse": "Worse", "mixed": "Mixed", "same": "No clear change"}


def _headline(tone: str, whole: Mapping[str, Any]) -> str:
    psnr = whole.get("psnr")
    if psnr is None:
        return "No verdict: the figures could not be computed"
    on = f"{psnr['difference']:+.2f} dB on {number(psnr['n'], 'photo')}"
    return f"{WORDS[tone]}: {on}, {psnr['better']} of {psnr['n']} better"


def _details(report: Report, name: str) -> list[str]:
    details = [
        _guard(report),
        _perceptual_words(report, name, "val"),
        _certainty(compared(report, name, "val").get("psnr")),
        _elsewhere(compared(report, name, "general").get("psnr")),
        _perceptual_words(report, name, "general"),
        *sharpness_words(report, name),
    ]
    return [line for line in details if line]


def _guard(report: Report) -> str:
    guard = report.get("guard")
    return f"Guard: {guard_words(guard)}." if guard else ""


def _perceptual_words(report: Report, name: str, group: str) -> str:
    figure = perceptual_figure(report, name, group)
    if figure is None:
        return ""
    first = next(iter(report["models"].values()))[group]["all"].get(figure)
    value = report["models"][name][group]["all"][figure]
    if first is None:
        return ""
    where = "Elsewhere: " if group == "general" else ""
    title = where + figure_title(report, figure)
    return f"{title} {first:.4f} to {value:.4f}, {change(figure, first, value)}; lower is better."


def _certainty(psnr: Mapping[str, Any] | None) -> str:
    if psnr is None:
        return ""
    if psnr["interval"] is None:
        return f"{number(psnr['n'], 'photo')} are few: this says little about others."
    low, high = psnr["interval"]
    return f"The mean change lies between {low:+.2f} and {high:+.2f} dB (95 %)."


def _elsewhere(psnr: Mapping[str, Any] | None) -> str:
    if psnr is None:
        return ""
    unclear = "" if _sign(psnr, LEAST_DB) else ": no clear change"
    on = f"{psnr['difference']:+.2f} dB on {number(psnr['n'], 'general photo')}"
    return f"Elsewhere: {on}, {psnr['better']} of {psnr['n']} better{unclear}."


def sharpness_words(report: Report, name: str) -> list[str]:
    """Say where a model adds gradient energy that photos do not have, or lost more than the first.

    Of whole photos and of faces, as either can hide the other.
    """
    first = next(iter(report["models"].values())).get("val", {})
    last = report["models"][name].get("val", {})
    lines = []
    for region, what in {"all": "Photos", "faces": "Faces"}.items():
        before, after = (part.get(region, {}).get("sharpness") for part in (first, last))
        if before is None or after is None:
            continue
        energy = f"gradient energy {after:.2f} of the originals', from {before:.2f}"
        if after > OVER_SHARP:
            lines.append(f"{what} are over-sharp: {energy}.")
        elif after < min(before, 1.0) - LEAST_SHARPNESS:
            lines.append(f"{what} are smeared more than before: {energy}.")
    return lines
