"""The VAE files that can be chosen: of ComfyUI's model folders, and the one of this pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths

from ...vae_core.header import shown

BUNDLED = "kl-f8-small (bundled)"
BUNDLED_FILE = Path(__file__).resolve().parents[2] / "models" / "kl-f8-small" / "vae.safetensors"
CHECKPOINT = " (checkpoint)"
EXTENSIONS = (".safetensors", ".sft")  # the rest are pickles, which can run code
MOST_CONFIG = 1_000_000  # bytes; a VAE's config.json has about 600


def choices() -> list[str]:
    """List what can be chosen: the bundled VAE, models/vae, then full checkpoints."""
    return list(_places())


def path_of(choice: str) -> Path:
    """Find the file of a choice; ValueError for anything that is not on the list."""
    place = _places().get(choice) if isinstance(choice, str) else None
    if place is None:
        raise ValueError(
            f"expected a .safetensors file of models/vae or models/checkpoints, got "
            f"{shown(str(choice))}: put it there, and choose it from the list."
        )
    folder, name = place
    found = str(BUNDLED_FILE) if not folder else folder_paths.get_full_path(folder, name)
    if found is None:
        raise ValueError(f"{shown(name)} is on the list and no longer there: refresh the list.")
    return Path(found)


def state_of(choice: Any) -> str:
    """Tell a file from the one that replaces it: by its times and sizes, without reading it."""
    try:
        path = path_of(choice)
        files = [path, *filter(None, [config_file(path)])]
        stats = [file.stat() for file in files]
    except (ValueError, OSError):
        return ""  # what is wrong is said when the node runs
    return ", ".join(f"{stat.st_mtime_ns} {stat.st_size}" for stat in stats)


def config_file(path: Path) -> Path | None:
    """Find the config.json that belongs to a file which diffusers wrote."""
    config = path.with_name("config.json")
    belongs = path.name.startswith("diffusion_pytorch_model")
    return config if belongs and config.is_file() else None


def config_beside(path: Path) -> dict[str, Any] | None:
    """Read the config.json that belongs to a file, or None; ValueError if it is none."""
    file = config_file(path)
    if file is None:
        return None
    try:
        config = json.loads(file.read_bytes()) if file.stat().st_size < MOST_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"the config.json beside {shown(path.name)} is not that of a VAE.")
    return config


def _places() -> dict[str, tuple[str, str]]:
    """Map each choice to its folder, a name of ComfyUI's, and the file's name in it."""
    places = {BUNDLED: ("", "")} if BUNDLED_FILE.is_file() else {}
    places |= {name: ("vae", name) for name in _files("vae")}
    for name in _files("checkpoints"):
        places.setdefault(name + CHECKPOINT, ("checkpoints", name))
    return places


def _files(folder: str) -> list[str]:
    names = folder_paths.get_filename_list(folder)
    return [name for name in names if name.lower().endswith(EXTENSIONS)]
