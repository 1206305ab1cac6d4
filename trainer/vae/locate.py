"""Where a base VAE lies: on this machine first, then on the hub. Nothing of it is read yet."""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from trainer.errors import UserError
from trainer.names import printable
from trainer.vae.hub import WEIGHTS, fetch, is_vae_config
from vae_core.checkpoint import shown
from vae_core.header import PICKLE_ADVICE

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_WEIGHTS = (".safetensors", ".sft")
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w./-]+))?")


class Found(NamedTuple):
    """Where a base lies. Without weights it is a bare config, for random ones."""

    name: str
    kind: str
    weights: Path | None
    config: dict[str, Any] | None
    revision: str | None = None


def locate(spec: str) -> Found:
    """Find what `spec` names: first on this machine, then on the hub."""
    path = Path(os.path.expanduser(spec))  # Path.expanduser raises where a home is not known
    if "\0" not in spec and path.exists():
        return _folder(path) if path.is_dir() else _file(path)
    hub = _HUB_ID.fullmatch(spec)
    if hub and path.suffix.lower() not in (*_WEIGHTS, *PICKLES, ".json") and spec[0] != ".":
        got = fetch(hub[1], hub[2])
        config = _config(got.config)
        return Found(spec, f"hub, revision {got.revision[:12]}", got.weights, config, got.revision)
    raise UserError(
        f"{shown(spec)} is not there: a base is a .safetensors file, a diffusers folder, a hub id "
        "(org/name or org/name:subfolder), or an architecture's config.json"
    )


def _file(path: Path) -> Found:
    if path.suffix.lower() == ".json":
        name = path.resolve().parent.name or path.stem
        return Found(printable(name), "random weights", None, _config(path))
    return Found(printable(path.stem), "file", path, None)


def _folder(path: Path) -> Found:
    name = printable(path.resolve().name)
    if (path / "checkpoints").is_dir() or (path / "manifest.json").is_file():
        raise UserError(
            f"{shown(name)} is a training run or a checkpoint of one: name its "
            "export/vae.safetensors, or make a file of it with trainer/convert.py"
        )
    if not is_vae_config(path / "config.json") and (path / "vae" / "config.json").is_file():
        return _folder(path / "vae")._replace(name=name)
    if not (path / "config.json").is_file():
        return Found(name, "file", _only_file(path), None)
    config = _config(path / "config.json")
    weights = next((path / file for file in WEIGHTS if (path / file).is_file()), None)
    if weights is None:
        raise UserError(_no_weights(path))
    return Found(name, "diffusers folder", weights, config)


def _only_file(path: Path) -> Path:
    """Return the one weights file of a folder without a config."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _WEIGHTS)
    if len(files) == 1:
        return files[0]
    if files:
        raise UserError(
            f"the folder {shown(path.name)} has no config.json and {len(files)} weights files: "
            f"name the VAE's own, such as {shown(files[0].name)}"
        )
    if (path / "model_index.json").is_file():
        raise UserError(
            f"the folder {shown(path.name)} is a pipeline without its VAE: get its subfolder vae"
        )
    raise UserError(
        f"the folder {shown(path.name)} holds no VAE: expected config.json and {WEIGHTS[0]} in it "
        "or in its subfolder vae"
    )


def _no_weights(path: Path) -> str:
    pickles = [file.name for file in path.iterdir() if file.suffix.lower() in PICKLES]
    if pickles:
        return (
            f"the folder {shown(path.name)} has only {shown(pickles[0])}, which is {PICKLE_ADVICE}"
        )
    return f"the folder {shown(path.name)} has a config.json but no {WEIGHTS[0]}: copy it there"


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path.name)} is not the JSON of a VAE's config: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{shown(path.name)} is not a VAE's config: a JSON object was expected")
    return config
