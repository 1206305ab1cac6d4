"""The end of a run: both forms of the VAE, whole or not at all, and read back before they count."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from trainer.errors import UserError
from trainer.vae.base import Base
from trainer.vae.forms import DTYPES, cast, single_file, write_folder
from trainer.vae.metadata import export_metadata
from trainer.vae.swap import recover, replace_folder
from trainer.vae.verify import (
    Fp16Probe,
    Reference,
    check_file,
    check_folder,
    check_frozen,
    difference,
    reference,
)
from vae_core.checkpoint import CheckpointError, check_finite, write_safetensors

SINGLE_FILE, FOLDER = "vae.safetensors", "diffusers"


class Exported(NamedTuple):
    """What was written, and what the check found."""

    single_file: Path
    diffusers_folder: Path
    tensors: int
    parameters: int
    decode_difference: float
    fp16: Fp16Probe


def export_run(
    vae: nn.Module,
    base: Base,
    folder: Path,
    dtype: str,
    probe: Tensor,
    config: Mapping[str, Any],
    report: Mapping[str, Any],
    trained: str,
) -> Exported:
    """Write folder/vae.safetensors and folder/diffusers/, verified, whole or not at all.

    Args:
        vae: the model to export, adapters merged and averages in place; it is not changed.
        base: what it began as; its encoder must still be there if only the decoder trained.
        folder: made anew; what stood there stays until the new one is verified.
        dtype: fp32, fp16 or bf16.
        probe: a picture [1, 3, H, W] in [-1, 1] to decode by model and files.
        config: the options of the run, for the metadata; paths are reduced to base names.
        report: the figures of the run, for the metadata.
        trained: "decoder" or "all".

    Raises UserError if the weights are not finite or do not fit `dtype`, if the encoder changed
    although frozen, or if a file does not come back as it was written.
    """
    live = {name: tensor.detach().cpu() for name, tensor in vae.state_dict().items()}
    try:
        check_finite(live, "the trained model")
    except CheckpointError as error:
        raise UserError(str(error)) from error
    state = cast(live, DTYPES[dtype])
    if trained == "decoder":
        check_frozen(state, base)
    metadata = export_metadata(base, config, report, trained)
    expected = reference(vae, state, probe)
    recover(folder)
    apart = _write(folder, state, base, metadata, expected)
    return Exported(
        folder / SINGLE_FILE,
        folder / FOLDER,
        len(state),
        sum(tensor.numel() for tensor in state.values()),
        apart,
        expected.fp16,
    )


def _write(
    folder: Path,
    state: Mapping[str, Tensor],
    base: Base,
    metadata: Mapping[str, str],
    expected: Reference,
) -> float:
    """Write both forms beside the target, verify them there, then rename them as a whole."""
    beside = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        file, diffusers = beside / SINGLE_FILE, beside / FOLDER
        write_safetensors(file, single_file(state, base.architecture, base.family), metadata)
        write_folder(diffusers, state, base.architecture, metadata)
        models = (
            check_file(file, state, base.architecture),
            check_folder(diffusers, state, base.architecture),
        )
        apart = max(difference(model, expected) for model in models)
        replace_folder(beside, folder)
    except CheckpointError as error:
        raise UserError(f"the export did not come back as it was written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return apart
