"""What the report says in words: photos left out, the run, its options, how it was measured."""

from collections.abc import Mapping
from typing import Any

from trainer.judge.bootstrap import FEWEST, LEVEL, RESAMPLES, SEED
from trainer.judge.sheets import CANVAS, ENOUGH, FACE_HEIGHT
from trainer.report.escape import Markup, element
from trainer.report.figures import GROUP_TITLES, Report, number
from trainer.vae.tiles import LARGE

SHEETS = (
    f"Where a set shows fewer than {ENOUGH} small faces, its photos with faces are reduced (never "
    f"enlarged) until the largest face is {FACE_HEIGHT} px high, laid side by side on grey "
    f"canvases of {CANVAS} x {CANVAS} px, and encoded and decoded with them. Small faces are then "
    "measured there, photo by photo, and nowhere else."
)


def skipped(report: Report) -> Markup | None:
    """Say how many photos were left out of each set, and why."""
    lines = []
    for name, data in (report.get("data") or {}).items():
        if data.get("skipped"):
            title = GROUP_TITLES.get(name, "Training")
            lines.append((f"{title}, when the photos were read", data["skipped"]))
    for group, reasons in report["skipped"].items():
        if reasons:
            lines.append((f"{GROUP_TITLES[group]}, when it was measured", reasons))
    if not lines:
        return None
    items = [
        [element("dt", title), element("dd", ", ".join(f"{n:,} {r}" for r, n in reasons.items()))]
        for title, reasons in lines
    ]
    return element(
        "details",
        element("summary", f"{number(sum(sum(r.values()) for _, r in lines), 'photo')} left out"),
        element("dl", items),
        open=True,
    )


def run_section(report: Report) -> Markup | None:
    """Say what was trained by which loss, and what the check of the exported files found."""
    run, export = report.get("run") or {}, report.get("export") or {}
    facts = {
        "Steps": run.get("steps"),
        "Crops seen": run.get("images"),
        "Seconds": run.get("seconds"),
        "Trained": run.get("trained"),
        "Steps left out": run.get("skipped_steps"),
        "Loss": [element("div", line) for line in run.get("loss") or ()],
        "File": _file_words(export) if export else None,
        "In fp16": _fp16_words(export["fp16"]) if "fp16" in export else None,
    }
    items = [
        [element("dt", key), element("dd", f"{value:,}" if isinstance(value, int) else value)]
        for key, value in facts.items()
        if value not in (None, [])
    ]
    if not items:
        return None
    summary = element("summary", "What was trained, and what was written")
    return element("details", summary, element("dl", items), open=True)


def _file_words(export: Mapping[str, Any]) -> str:
    return (
        f"{export['tensors']:,} tensors, {export['parameters']:,} parameters; read back, a decode "
        f"differs from the model's by at most {export['decode_difference']:.1e}"
    )


def _fp16_words(fp16: Mapping[str, Any]) -> str:
    fits = "fits" if fp16["finite"] else "does not fit"
    if fp16["largest"] is None:
        return fits
    return f"{fits}: the largest activation is {fp16['largest']:,.0f} of 65,504, in {fp16['where']}"


def config_section(report: Report) -> Markup | None:
    """List every option of the run, places cut down to their last part."""
    if not report.get("config"):
        return None
    items = [
        [element("dt", element("code", key)), element("dd", element("code", _plain(value)))]
        for key, value in report["config"].items()
    ]
    return element(
        "details", element("summary", number(len(items), "option")), element("dl", items)
    )


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return str(value).lower() if isinstance(value, bool) else str(value)


def method(report: Report) -> Markup:
    """Say how every figure was computed."""
    perceptual = (
        f"LPIPS (Zhang et al., 2018) in float32 with the {report['lpips_net']} network, weights "
        "v0.1; lower is better. Figures of different networks cannot be compared."
        if report["lpips_net"]
        else "Encoder distance: squared difference of unit-length features of the base VAE's own "
        "encoder, mean over its levels; lower is better. It is not LPIPS, and stands in for it "
        "where its weights cannot be had."
        if report["perceptual"]
        else "No perceptual distance was computed."
    )
    entries = {
        "Photos": f"Reduced (never enlarged), antialiased, to {report['eval_resolution']} px on "
        "the short side, cropped around the centre to multiples of 8 px, and seen whole.",
        "Reconstruction": "Encoded and decoded in float32, one photo at a time, through the "
        "posterior's mode; clamped and rounded to 8 bits before anything is measured. Photos of "
        f"{LARGE} px and more on the long side go through an AutoencoderKL in exact tiles: the "
        "same picture, in less memory.",
        "PSNR": "10 log10(1 / mean squared error) on [0, 1], per photo, then the mean over the "
        "photos; higher is better.",
        "SSIM": "Wang et al. (2004): 11-tap gaussian window, sigma 1.5, data range 1, per channel; "
        "higher is better. None under 11 px.",
        "Perceptual": perceptual,
        "Colour": "Mean of reconstruction minus photo per channel, in levels of 8 bits; best at 0.",
        "Sharpness": "Mean squared difference between neighbouring pixels, reconstruction over "
        "photo (a ratio of gradient energies): best at 1; below it softer than the photo, above it "
        "harder.",
        "Faces": "PSNR over the pooled pixels of a photo's face boxes, SSIM over its map there, "
        "the perceptual distance on the square around each face, 25 % larger than its box, "
        "resampled to 128 px. Sizes are heights of faces in the evaluated photo. Background is "
        "what lies outside all boxes, in photos with faces.",
        "Identity": "Cosine of SFace's features of a face, original and reconstruction, aligned by "
        "the original's landmarks; mean over the faces of a photo. 1 is the same; where no "
        "face-recognition model was given there is none.",
        "Sheets": SHEETS,
        "Certainty": f"{100 * LEVEL:.0f} % intervals of the mean change over the photos: "
        f"percentiles of a paired bootstrap, {RESAMPLES:,} resamples, seed {SEED} of "
        f"PyTorch's generator; none under {FEWEST} photos. They speak of photos like these. A "
        "change whose interval holds 0 is called neither better nor worse.",
        "Not computed": "What cannot be computed is a dash here and null in report.json, never 0.",
    }
    items = [[element("dt", key), element("dd", value)] for key, value in entries.items()]
    summary = element("summary", "How every figure was computed")
    return element("details", summary, element("dl", items))
