"""The README.md of a run folder: a model card that a hub accepts, with figures and limits.

Facts that the card takes from the report, each of which may be missing:
`base`: {"name", "hub_id", "family", "architecture"}; `run`: {"steps", "images", "trained"};
`data`: {"train" | "val" | "general": {"photos": int, "skipped": {reason: int}}}.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from trainer.report.escape import markdown
from trainer.report.figures import (
    GROUP_TITLES,
    Block,
    Cell,
    Report,
    blocks,
    groups,
    labels,
    number,
    private,
)
from trainer.report.gallery import signed
from trainer.report.verdict import verdict

# The hub knows repositories, not the subfolders in them; what is no id would break the YAML.
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::[\w./-]+)?\Z", re.ASCII)
SINGLE_FILE, DIFFUSERS_FOLDER = "export/vae.safetensors", "export/diffusers"
SD_WIDTHS = [128, 256, 512, 512]
FAMILY_TAGS = {
    "sd1": ["stable-diffusion"],
    "sdxl": ["stable-diffusion-xl"],
    "sd3": ["stable-diffusion-3"],
    "flux": ["flux"],
    "playground25": ["playground-v2.5"],
}
# What is said of the training, in this order; the rest stands in config.toml.
TOLD_OPTIONS = (
    "rec_loss", "rec_weight", "lpips_net", "lpips_weight", "face_weight", "face_lpips_weight",
    "hf_weight", "gan_weight", "gan_start", "kl_weight", "trainable", "lora_rank", "resolution",
    "face_share", "face_min_height", "face_max_height", "batch_size",
    "gradient_accumulation_steps", "learning_rate", "lr_schedule", "ema_decay", "mixed_precision",
    "seed",
)  # fmt: skip


def model_card(report: Report, config: Mapping[str, Any] | None = None) -> str:
    """Write the card: front matter, verdict, figures, use, training, limits."""
    parts = [
        f"# {_title(report)}",
        _verdict(report),
        "## Figures",
        *(_table(report, group) for group in groups(report)),
        _figures_note(report),
        "## How to use it",
        _use(report),
        "## Training",
        _training(report, private(config or {})),
        "## Limits",
        _limits(report),
    ]
    return front_matter(report) + "\n" + "\n\n".join(part for part in parts if part) + "\n"


def front_matter(report: Report) -> str:
    """Write the YAML that the hub reads, between lines of three dashes.

    The licence of the result is for its owner to say: `other` is what the hub takes until then.
    """
    base = report.get("base") or {}
    fields = {
        "license": "other",
        "license_name": "see-license-section",
        "library_name": "diffusers",
        "tags": ["vae", "autoencoder", *FAMILY_TAGS.get(base.get("family"), []), "comfyui",
                 "vae-lab"],
    }  # fmt: skip
    hub_id = _HUB_ID.match(base.get("hub_id") or "")
    if hub_id:
        fields |= {"base_model": hub_id[1], "base_model_relation": "finetune"}
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def _title(report: Report) -> str:
    name = (report.get("base") or {}).get("name")
    return f"{markdown(name)}, decoder fine-tuned" if name else "A fine-tuned VAE decoder"


def _verdict(report: Report) -> str:
    found = verdict(report)
    return markdown(" ".join([f"{found.headline}.", *found.details]))


# Figures


def _table(report: Report, group: str) -> str:
    names = [markdown(label) for label in labels(report).values()]
    rows = [
        f"| {GROUP_TITLES[group]} | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for block in blocks(report, group):
        rows += _rows(block)
    return "\n".join(rows)


def _rows(block: Block) -> list[str]:
    width = len(block.rows[0].cells) if block.rows else 0
    rows = [f"| **{markdown(block.title)}**, {block.count} |" + " |" * width]
    return rows + [
        f"| {markdown(row.label)} | " + " | ".join(map(_cell, row.cells)) + " |"
        for row in block.rows
    ]


def _cell(cell: Cell) -> str:
    change = f"{cell.change} {cell.interval}".rstrip()
    return signed(f"{cell.value} ({change})" if change else cell.value)


def _figures_note(report: Report) -> str:
    note = (
        f"Photos reduced to {report['eval_resolution']} px on the short side and seen whole, "
        "through the posterior's mode, predictions rounded to 8 bits. PSNR per photo, then the "
        "mean. In brackets: 95 % intervals of the change, by a paired bootstrap over photos."
    )
    if report["perceptual"] and not report["lpips_net"]:
        note += " The encoder distance is of the base VAE's own features; it is not LPIPS."
    return note


# Use


def _use(report: Report) -> str:
    architecture = (report.get("base") or {}).get("architecture") or {}
    kind = architecture.get("_class_name", "AutoencoderKL")
    lines = [loaders(architecture), _diffusers(kind)]
    return "\n\n".join(lines)


def loaders(architecture: Mapping[str, Any]) -> str:
    if architecture.get("_class_name") == "AutoencoderTiny":
        return (
            f"- **ComfyUI**: `{SINGLE_FILE}` into `models/vae/`, then the node Load VAE.\n"
            "- **A1111, Forge**: they take this kind of VAE for previews only."
        )
    if list(architecture.get("block_out_channels", SD_WIDTHS)) != SD_WIDTHS:
        return (
            f"- **ComfyUI**: `{SINGLE_FILE}` into `models/vae/`, then the node *Load VAE (any "
            "size)* of VAE Lab: the widths are not Stable Diffusion's, so the usual loaders of "
            "ComfyUI, A1111 and Forge do not take it."
        )
    return (
        f"- **ComfyUI**: `{SINGLE_FILE}` into `models/vae/`, then the node Load VAE.\n"
        f"- **A1111**: `{SINGLE_FILE}` into `models/VAE/`, then Settings, SD VAE.\n"
        f"- **Forge**: `{SINGLE_FILE}` into `models/VAE/`, then the field VAE / Text Encoder."
    )


def _diffusers(kind: str) -> str:
    return (
        f"- **diffusers**:\n\n```python\nfrom diffusers import {kind}\n\n"
        f'vae = {kind}.from_pretrained("{DIFFUSERS_FOLDER}")\n```'
    )


# Training and limits


def _training(report: Report, config: Mapping[str, Any]) -> str:
    lines = [_base_line(report.get("base") or {}), *_data_lines(report.get("data") or {})]
    run = report.get("run") or {}
    if run.get("steps") is not None:
        lines.append(f"- Steps: {run['steps']:,}" + _crops(run))
    told = [f"`{name}` {markdown(config[name])}" for name in TOLD_OPTIONS if name in config]
    if told:
        lines.append("- Options: " + ", ".join(told))
    return "\n".join(lines)


def _base_line(base: Mapping[str, Any]) -> str:
    family = base.get("family") or "unknown"
    return f"- Base: {markdown(base.get('name', 'not recorded'))} (family {markdown(family)})"


def _data_lines(data: Mapping[str, Mapping[str, Any]]) -> list[str]:
    titles = {"train": "Trained on", "val": "Held out", "general": "General photos"}
    return [
        f"- {title}: {number(data[name]['photos'], 'photo')}{_left_out(data[name])}"
        for name, title in titles.items()
        if name in data
    ]


def _left_out(data: Mapping[str, Any]) -> str:
    count = sum((data.get("skipped") or {}).values())
    return f", {count:,} left out" if count else ""


def _crops(run: Mapping[str, Any]) -> str:
    return f", {run['images']:,} crops seen" if run.get("images") else ""


def _limits(report: Report) -> str:
    lines: Sequence[str] = (
        "The figures are of the photos named above: other kinds of photos may gain less, or lose.",
        "They measure reconstruction. Latents from a diffusion model are not those of photos, and "
        "what they decode to was not measured.",
        "The encoder is the base's own, so latents and models made for it stay valid."
        if (report.get("run") or {}).get("trained") != "all"
        else "The encoder was trained too: latents and diffusion models made for the base may not "
        "fit it.",
        "The licence of the base model holds for these weights too, and the rights in the photos "
        "are not cleared by training: state both under `license` before publishing.",
    )
    return "\n".join(f"- {line}" for line in lines)
