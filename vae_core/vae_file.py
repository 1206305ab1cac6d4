"""A whole VAE out of a safetensors file, whatever its layout, alone or in a full checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .architecture import architecture_from, architecture_from_config, check_state
from .checkpoint import check_finite, read_tensors
from .header import CheckpointError, Header, read_header, shown
from .keys import diffusers_names, plain_shape, to_diffusers, vae_tensors

_FLOATS = ("F64", "F32", "F16", "BF16")


class VaeFile(NamedTuple):
    """What a file gave: tensors under diffusers names in the file's own dtypes, and the rest."""

    state: dict[str, Tensor]
    architecture: dict[str, Any]
    metadata: dict[str, str]
    other_keys: list[str]
    scale: float | None
    layout: str


def read_vae(path: Path, config: Mapping[str, Any] | None = None) -> VaeFile:
    """Read the VAE in a file, tensor by tensor; what stands beside it is not read.

    Args:
        path: a .safetensors file.
        config: the diffusers config that belongs to it; without one the architecture comes from
            shapes and metadata.

    `scale` is the factor that a TAESD file carries in `vae_scale`, else None. Raises
    CheckpointError, beginning with the file's name, if there is no whole and finite VAE in it.
    """
    header = read_header(path)
    try:
        layout, names = vae_tensors(header.tensors)
        shapes = _shapes(header, names, layout)
        architecture = _architecture(shapes, header.metadata, config)
        check_state(shapes, architecture)
        _check_floats(header, names)
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path.name)} {error}") from None
    read = read_tensors(path, names)
    check_finite(read, shown(path.name))
    scale = read.get(next((name for name in names if names[name] == "vae_scale"), ""))
    state = to_diffusers({names[name]: tensor for name, tensor in read.items()}, layout)
    others = [name for name in header.tensors if name not in names]
    value = float(scale) if scale is not None and scale.numel() == 1 else None
    return VaeFile(state, architecture, header.metadata, others, value, layout)


def _shapes(header: Header, names: Mapping[str, str], layout: str) -> dict[str, tuple[int, ...]]:
    by_bare = {bare: header.tensors[name].shape for name, bare in names.items()}
    renamed = diffusers_names(by_bare, layout)
    return {new: plain_shape(new, by_bare[bare]) for bare, new in renamed.items()}


def _architecture(
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, str],
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    if config is None:
        return architecture_from(shapes, metadata)
    return architecture_from_config(config)


def _check_floats(header: Header, names: Mapping[str, str]) -> None:
    for name in names:
        dtype = header.tensors[name].dtype
        if dtype not in _FLOATS:
            raise CheckpointError(
                f"holds {shown(name)} as {shown(dtype)}; a VAE in F32, F16 or BF16 is expected, "
                "so take one that is not quantised"
            )
