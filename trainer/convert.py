"""Convert a VAE between the key layouts and types that tools want, or blend two decoders.

IN is anything that --vae takes (a .safetensors file, alone or a full checkpoint; a diffusers
folder; a hub id), a training run, or one of its checkpoints. OUT is replaced whole or not at all,
and may be IN.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from trainer/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError, sentence
from trainer.names import printable
from trainer.training.run_weights import is_run, read_run_weights
from trainer.vae.base import Weights, read_weights
from trainer.vae.blend import blend, blend_metadata, read_share
from trainer.vae.forms import DTYPES, cast, single_file, write_folder
from trainer.vae.metadata import carried, identity, modelspec
from trainer.vae.swap import recover, replace_folder
from trainer.vae.verify import same_bits
from vae_core.checkpoint import CheckpointError, check_finite, shown, write_safetensors
from vae_core.files import move_file
from vae_core.vae_file import read_vae

_SUFFIXES = (".safetensors", ".sft")
_OURS = ("config.json", "diffusion_pytorch_model.safetensors")
_KEPT = ("modelspec.license", "modelspec.author", "modelspec.description", "modelspec.resolution")
_RUN = ("vae_lab.base_sha256", "vae_lab.config", "vae_lab.report")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, 1 (a sentence on stderr) or 2 (usage)."""
    arguments = _parser().parse_args(argv)
    try:
        print(printable(convert(arguments)))
    except (UserError, CheckpointError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"nothing was changed: {sentence(error)}")
    return 0


def _fail(message: str) -> int:
    print(f"convert.py: {printable(message)}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", metavar="IN", help="the VAE to read")
    parser.add_argument("target", metavar="OUT", help="file, or folder for --layout diffusers")
    parser.add_argument(
        "--layout",
        choices=("ldm", "diffusers"),
        default="ldm",
        help="ldm: the file that ComfyUI, A1111, Forge and kohya read (taesd keys for a TAESD)\n"
        "diffusers: a folder with config.json, or one file if OUT ends in .safetensors",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights; else as in IN")
    parser.add_argument(
        "--blend",
        nargs=2,
        metavar=("OTHER", "SHARE"),
        help="mix in the decoder of OTHER: (1 - SHARE) * IN + SHARE * OTHER, SHARE from 0 to 1",
    )
    parser.add_argument(
        "--family", help="sd1, sdxl, sd3, flux or playground25, if IN does not tell"
    )
    return parser


def convert(arguments: argparse.Namespace) -> str:
    """Do what the command line asks, and return the line that says what was done."""
    target = Path(os.path.expanduser(arguments.target))
    folder = arguments.layout == "diffusers" and target.suffix.lower() not in _SUFFIXES
    _check_target(target, folder)
    weights = _read(arguments.source, arguments.family)
    metadata = _metadata(weights)
    dtype = DTYPES[arguments.dtype] if arguments.dtype else _dtype(weights)
    if arguments.blend:
        weights, metadata = _blend(weights, metadata, *arguments.blend)
    state = cast(weights.state, dtype)
    if folder:
        _write_folder(target, state, weights.architecture, metadata)
    else:
        ldm = arguments.layout == "ldm"
        tensors = single_file(state, weights.architecture, weights.family) if ldm else state
        _write_file(target, tensors, state, metadata)
    count = sum(tensor.numel() for tensor in state.values())
    kinds = " and ".join(sorted({str(t.dtype).removeprefix("torch.") for t in state.values()}))
    return (
        f"wrote {target}: {len(state)} tensors, {count:,} parameters, {kinds}, "
        f"family {weights.family} ({weights.family_source})"
    )


# Reading


def _read(spec: str, family: str | None) -> Weights:
    path = Path(os.path.expanduser(spec))
    weights = read_run_weights(path, family) if is_run(path) else read_weights(spec, family)
    check_finite(weights.state, shown(weights.name))
    return weights


def _dtype(weights: Weights) -> torch.dtype:
    kinds = {tensor.dtype for tensor in weights.state.values()}
    (kind,) = kinds if len(kinds) == 1 else (torch.float32,)
    return kind if kind in DTYPES.values() else torch.float32


def _blend(
    weights: Weights, metadata: Mapping[str, str], other_spec: str, share_text: str
) -> tuple[Weights, dict[str, str]]:
    """Mix in the other decoder; what was measured on IN alone is no longer said."""
    share = read_share(share_text)
    other = _read(other_spec, None)
    mixed, warning = blend(weights, other, share)
    if warning:
        print(f"convert.py: warning: {printable(warning)}", file=sys.stderr)
    kept = {key: value for key, value in metadata.items() if key not in _RUN}
    return weights._replace(state=mixed), {**kept, **blend_metadata(weights, other, share)}


def _metadata(weights: Weights) -> dict[str, str]:
    """Carry over what IN says of itself and what a conversion leaves true."""
    title = carried(weights.metadata, ("modelspec.title",)).get("modelspec.title", weights.name)
    return {
        "format": "pt",
        **identity(weights.architecture, weights.family),
        **modelspec(weights.architecture, weights.family, title),
        **carried(weights.metadata, _KEPT + _RUN),
    }


# Writing


def _check_target(target: Path, folder: bool) -> None:
    """Refuse an OUT that can not be, or that would take other people's files with it."""
    if not target.parent.is_dir():
        raise UserError(f"the folder of OUT, {target.parent}, is not there: make it first")
    if not folder:
        if target.suffix.lower() not in _SUFFIXES:
            raise UserError(f"OUT, {target}, must end in .safetensors to be one file")
        if target.is_dir():
            raise UserError(f"OUT, {target}, is a folder: name a file in it")
        return
    recover(target)
    if target.exists() and not target.is_dir():
        raise UserError(f"OUT, {target}, is a file: name a folder, or one ending in .safetensors")
    strangers = [path.name for path in target.iterdir()] if target.exists() else []
    strangers = sorted(set(strangers) - set(_OURS))
    if strangers:
        raise UserError(
            f"OUT, {target}, holds more than a VAE ({shown(strangers[0])}), which would be lost: "
            "name a new folder"
        )


def _write_file(
    target: Path,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    def write(beside: Path) -> None:
        file = beside / target.name
        write_safetensors(file, tensors, metadata)
        _check_written(file, state)
        move_file(file, target)

    _beside(target, write)


def _write_folder(
    target: Path,
    state: Mapping[str, Tensor],
    architecture: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    def write(beside: Path) -> None:
        write_folder(beside / target.name, state, architecture, metadata)
        _check_written(beside / target.name / _OURS[1], state)
        replace_folder(beside / target.name, target)

    _beside(target, write)


def _beside(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` work in a folder beside the target, and remove it whatever happens."""
    beside = target.with_name(f".tmp-{target.name[:60]}-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        write(beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_written(file: Path, state: Mapping[str, Tensor]) -> None:
    read = read_vae(file).state
    wrong = set(read) ^ set(state) or {n for n in read if not same_bits(read[n], state[n])}
    if wrong:
        raise UserError(f"{file.name} did not come back as it was written; OUT is as it was")


if __name__ == "__main__":
    sys.exit(main())
