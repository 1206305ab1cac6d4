"""A VAE file in words: what it is, what its latents mean, and what it says of itself.

Everything that comes from a file is shortened and made printable; it is plain text, no HTML.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from .families import FAMILIES, family_and_source
from .header import CheckpointError
from .scaling import NONE, Scaling, describe, scaling_of
from .vae_file import VaeFile

CHOICE = "the node's choice"
LONGEST = 120  # characters taken over from a file, per entry
FIGURES = (("psnr", "PSNR", " dB", 2), ("ssim", "SSIM", "", 4), ("lpips", "LPIPS", "", 4))


def family_of(
    file: VaeFile, config: Mapping[str, Any] | None, chosen: str | None
) -> tuple[str, str]:
    """Name a VAE's family and what told it; a person's choice beats what the file says.

    Raises CheckpointError, beginning with a verb, for a choice of other channels than the VAE's.
    """
    channels = file.architecture["latent_channels"]
    if chosen is None:
        return family_and_source(channels, config, file.metadata, file.other_keys, file.scale)
    expected = FAMILIES[chosen].latent_channels
    if expected != channels:
        raise CheckpointError(
            f"has {channels} latent channels, and {FAMILIES[chosen].label} has {expected}; leave "
            "the family to the file"
        )
    return chosen, CHOICE


def scaling_for(file: VaeFile, family: str, source: str, shift: float = 0.0) -> Scaling | None:
    """Find what lies between raw and model latents; None where nothing says it.

    `shift` is a TAESD file's own, which counts with its scale unless a person chose a family.
    """
    if file.scale and math.isfinite(file.scale) and source != CHOICE:
        return Scaling(file.scale, shift)
    if FAMILIES[family].scale is not None:
        return scaling_of(family)
    shape = file.architecture
    stated = shape["scaling_factor"] if shape["_class_name"] == "AutoencoderKL" else 1.0
    return Scaling(stated, shape["shift_factor"] or 0.0) if stated not in (0.0, 1.0) else None


def about(
    file: VaeFile, label: str, family: tuple[str, str], scaling: Scaling | None, ratio: int
) -> str:
    """Describe a VAE in some lines: title, family, scaling, shape, size, figures, warnings."""
    name, source = family
    lines = [
        ": ".join(filter(None, [printable(label), entry(file, "modelspec.title")])),
        f"family: {FAMILIES[name].label}" + (f" (from {source})" if name != "unknown" else ""),
        f"scaling: {describe(scaling) if scaling else 'not known'}",
        f"architecture: {architecture_in_words(file.architecture)}",
        f"latent: {file.architecture['latent_channels']} channels, a cell for {ratio} x {ratio} "
        "pixels",
        f"file: {size_in_words(file)}",
        *report_in_words(file.metadata),
    ]
    licence = entry(file, "modelspec.license")
    lines += [f"licence: {licence}"] if licence else []
    return "\n".join([*lines, *(f"warning: {doubt}" for doubt in doubts(file, family, scaling))])


def architecture_in_words(shape: Mapping[str, Any]) -> str:
    """Say an architecture in one line."""
    if shape["_class_name"] == "AutoencoderTiny":
        blocks = "-".join(map(str, shape["num_encoder_blocks"]))
        return f"AutoencoderTiny (TAESD), width {shape['encoder_block_out_channels'][0]}, {blocks}"
    widths = "-".join(map(str, shape["block_out_channels"]))
    layers = shape["layers_per_block"]
    attends = any(kind.startswith("Attn") for kind in shape["down_block_types"])
    parts = [
        f"AutoencoderKL, widths {widths}",
        f"{layers} layer{'s' * (layers > 1)} a level",
        "attention in levels and middle" if attends else "attention in the middle",
        "quant convs" if shape["use_quant_conv"] else "no quant convs",
    ]
    return ", ".join(parts + ["grey pictures"] * (shape["in_channels"] == 1))


def size_in_words(file: VaeFile) -> str:
    """Say how much a file holds, in which type and under which keys."""
    parameters = sum(tensor.numel() for tensor in file.state.values())
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in file.state.values()})
    layout = {"ldm": "LDM keys", "taesd": "TAESD keys"}.get(file.layout, "diffusers keys")
    others = f", {len(file.other_keys):,} other tensors left unread" if file.other_keys else ""
    return (
        f"{parameters:,} parameters in {len(file.state)} tensors, {' and '.join(kinds)}, {layout}"
        f"{others}"
    )


def report_in_words(metadata: Mapping[str, str]) -> list[str]:
    """Say what a file's own report claims for held-out photos; nothing where it has none."""
    try:
        report = json.loads(metadata.get("vae_lab.report", "null"))
        tuned = report["tuned"]["val"]["all"]
        base = report.get("base", {}).get("val", {}).get("all", {})
        parts = [_figure(base.get(key), tuned.get(key), *how) for key, *how in FIGURES]
        count = tuned.get("n")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    of = f" of {count} held-out photos" if isinstance(count, int) else ""
    return [f"its own report{of}: {', '.join(filter(None, parts))}"] if any(parts) else []


def doubts(file: VaeFile, family: tuple[str, str], scaling: Scaling | None) -> list[str]:
    """Say what a person should know before the latents go to a diffusion model."""
    name, source = family
    found = []
    if source == CHOICE:
        told, where = family_of(file, None, None)
        if told not in ("unknown", name):
            found.append(f"{where} says {FAMILIES[told].label}, the choice beats it")
    if scaling is None:
        found.append("the family is not known: choose one where latents go to a diffusion model")
    if file.architecture["_class_name"] == "AutoencoderTiny" and not one_number(scaling):
        found.append("this TAESD's latents are taken as they are, as a diffusion model sees them")
    return found


def one_number(scaling: Scaling | None) -> bool:
    """Tell whether a scaling is one number each, as ComfyUI's TAESD holds it."""
    return scaling is not None and not any(isinstance(value, tuple) for value in scaling)


def taesd_scaling(scaling: Scaling | None) -> Scaling:
    """Give what ComfyUI's TAESD undoes: nothing, where it is not known or not one number each."""
    return scaling if scaling is not None and one_number(scaling) else NONE


def entry(file: VaeFile, key: str) -> str:
    """Give an entry of a file's metadata, fit to be shown."""
    return printable(file.metadata.get(key, ""))


def printable(text: str) -> str:
    """Make a text of a file one short line: control and bidi characters become "?"."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def _figure(base: Any, tuned: Any, label: str, unit: str, digits: int) -> str:
    if not _number(tuned):
        return ""
    before = f"{base:.{digits}f} -> " if _number(base) else ""
    return f"{label} {before}{tuned:.{digits}f}{unit}"


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
