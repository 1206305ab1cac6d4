"""The VAE that training begins from: a hub id, a diffusers folder, a file, or a bare config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from trainer.errors import UserError, sentence
from trainer.vae.autoencoder import (
    DECODER_PREFIXES,
    build,
    canonical_sha256,
    from_state,
    ratio,
)
from trainer.vae.locate import PICKLES, Found, locate
from vae_core.checkpoint import CheckpointError, shown
from vae_core.families import FAMILIES, family_and_source, resolve_family, with_scaling
from vae_core.header import PICKLE_ADVICE
from vae_core.vae_config import architecture_from_config
from vae_core.vae_file import VaeFile, read_vae


@dataclass(frozen=True)
class Base:
    """A VAE as it was found, and everything that a report or an export says of it."""

    vae: nn.Module
    architecture: dict[str, Any]
    family: str
    family_source: str
    sha256: str
    name: str
    found: str
    frozen_state: dict[str, Tensor]
    metadata: dict[str, str]
    revision: str | None


class Weights(NamedTuple):
    """A VAE's tensors under diffusers names, in the dtype of their file, and what is known."""

    state: dict[str, Tensor]
    architecture: dict[str, Any]
    family: str
    family_source: str
    metadata: dict[str, str]
    name: str
    kind: str
    revision: str | None


def load_base(spec: str, family: str | None = None, seed: int = 0) -> Base:
    """Load a base VAE into float32.

    Args:
        spec: `org/name`, `org/name:subfolder`, a diffusers folder (of a VAE or of a pipeline), a
            .safetensors file (VAE alone or full checkpoint), or an architecture's config.json.
        family: what `--family` says; it beats what is detected, unless the channels contradict.
        seed: of the random weights that a bare config gets.

    Raises UserError: one sentence that says what was found and what to do.
    """
    weights = read_weights(spec, family, seed)
    vae = from_state(weights.architecture, weights.state)
    frozen = {
        name: tensor.clone()
        for name, tensor in vae.state_dict().items()
        if not name.startswith(DECODER_PREFIXES)
    }
    return Base(
        vae=vae,
        architecture=weights.architecture,
        family=weights.family,
        family_source=weights.family_source,
        sha256=canonical_sha256(vae.state_dict()),
        name=weights.name,
        found=_description(vae, weights),
        frozen_state=frozen,
        metadata=weights.metadata,
        revision=weights.revision,
    )


def read_weights(spec: str, family: str | None = None, seed: int = 0) -> Weights:
    """Read the tensors of anything that `load_base` takes, without building the model."""
    try:
        return read_found(locate(spec), family, seed)
    except OSError as error:
        raise UserError(f"{shown(spec)} can not be read: {sentence(error)}") from error


def read_found(found: Found, family: str | None = None, seed: int = 0) -> Weights:
    """Read the tensors of a base whose place is known; errors as `load_base`."""
    try:
        file = _random(found, seed) if found.weights is None else _read(found)
        name, source = _family(found, file, family)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    return Weights(
        file.state,
        _scaled(file.architecture, name, source),
        name,
        source,
        file.metadata,
        found.name,
        f"{found.kind}, {_dtypes(file)}" if found.weights else found.kind,
        found.revision,
    )


# Reading


def _read(found: Found) -> VaeFile:
    try:
        return read_vae(found.weights, found.config)
    except CheckpointError as error:
        looks = found.weights.suffix.lower() in PICKLES and PICKLE_ADVICE not in str(error)
        if looks and "not a .safetensors" in str(error):
            raise UserError(f"{shown(found.weights.name)} is {PICKLE_ADVICE}") from error
        raise


def _random(found: Found, seed: int) -> VaeFile:
    try:
        architecture = architecture_from_config(found.config)
    except CheckpointError as error:
        raise UserError(f"the config of {shown(found.name)} {error}") from error
    state = build(architecture, seed).state_dict()
    return VaeFile(dict(state), architecture, {}, [], None, "diffusers")


def _family(found: Found, file: VaeFile, asked: str | None) -> tuple[str, str]:
    channels = file.architecture["latent_channels"]
    if asked is None:
        return family_and_source(channels, found.config, file.metadata, file.other_keys, file.scale)
    name = resolve_family(asked)
    expected = FAMILIES[name].latent_channels
    if expected not in (None, channels):
        raise UserError(
            f"--family {name} has {expected} latent channels and {shown(found.name)} has "
            f"{channels}: leave --family out, or name another family"
        )
    return name, "--family"


def _scaled(architecture: Mapping[str, Any], family: str, source: str) -> dict[str, Any]:
    """Give the config the family's constants; whoever says "unknown" means none at all."""
    if (family, source) == ("unknown", "--family"):
        return {**architecture, "scaling_factor": 1.0, "shift_factor": None}
    return with_scaling(architecture, family)


# Saying


def _description(vae: nn.Module, weights: Weights) -> str:
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    return (
        f"{weights.architecture['_class_name']} ({weights.kind}): {len(weights.state)} tensors, "
        f"{parameters:,} parameters, {weights.architecture['latent_channels']} latent channels, "
        f"f{ratio(vae)}"
    )


def _dtypes(file: VaeFile) -> str:
    layout = {"ldm": "LDM keys", "taesd": "TAESD keys"}.get(file.layout, "diffusers keys")
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in file.state.values()})
    return f"{layout}, {' and '.join(kinds)}"


def scaling_of(family: str) -> Mapping[str, Any]:
    """Give a family's constants as plain JSON: model latent = (raw - shift) * scale."""
    entry = FAMILIES[family]
    return {"scale": entry.scale, "shift": entry.shift, "mean": entry.mean, "std": entry.std}
