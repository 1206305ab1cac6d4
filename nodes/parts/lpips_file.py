"""LPIPS weights in ComfyUI's models/vae_lab, as trainer/weights.py writes them; never fetched."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.model_management
import folder_paths

from ...vae_core.checkpoint import read_tensors
from ...vae_core.compare.figures import Perceptual
from ...vae_core.lpips import net_of, prepare

FOLDER = "vae_lab"
AUTO, OFF = "auto", "off"
NETS = ("alex", "vgg", "squeeze")  # in the order of AUTO: alex follows people's judgement best
CHOICES = (AUTO, OFF, *NETS)
BYTES_PER_PIXEL = {"alex": 256, "squeeze": 512, "vgg": 4096}  # about, of a pair's features

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def find(net: str) -> Path | None:
    """Find a network's file in ComfyUI's folders."""
    path = folder_paths.get_full_path(FOLDER, file_name(net))
    return Path(path) if path else None


def file_name(net: str) -> str:
    """Name the file of a network."""
    return f"lpips_{net}.safetensors"


def load(choice: str, pixels: int) -> Perceptual | None:
    """Load the chosen weights onto ComfyUI's device, with room for pictures of so many pixels.

    None for "off", and for "auto" where there is no file. Raises ValueError for a network whose
    file is missing or is not what its name says.
    """
    if choice not in CHOICES:
        raise ValueError(
            f"Expected lpips_net as one of {', '.join(CHOICES)}, got {str(choice)[:80]!r}."
        )
    wanted = {AUTO: NETS, OFF: ()}.get(choice, (choice,))
    for net in wanted:
        path = find(net)
        if path is not None:
            return _read(path, net, pixels)
    if choice in NETS:
        raise ValueError(
            f"Expected {file_name(choice)} in ComfyUI's models/{FOLDER}, found none: write it with "
            f"'python trainer/weights.py --lpips-net {choice} --output {file_name(choice)}', "
            "or set lpips_net to off."
        )
    return None


def fingerprint(choice: str) -> list[tuple[str, int, int]]:
    """Tell the files that a choice may read apart, so that a new one makes the node run again."""
    nets = NETS if choice == AUTO else [net for net in NETS if net == choice]
    stats = [(net, path.stat()) for net in nets if (path := find(net))]
    return [(net, stat.st_size, stat.st_mtime_ns) for net, stat in stats]


def _read(path: Path, net: str, pixels: int) -> Perceptual:
    state = read_tensors(path)
    if net_of(state) != net:
        raise ValueError(f"Expected LPIPS weights of {net} in {path.name}, got {net_of(state)}.")
    device = comfy.model_management.get_torch_device()
    if device.type != "cpu":
        comfy.model_management.free_memory(pixels * BYTES_PER_PIXEL[net], device)
    return Perceptual(net, prepare(state, device))
