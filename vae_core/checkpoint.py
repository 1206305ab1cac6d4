"""Reading tensors one by one, and writing them so that equal input gives equal bytes.

The safetensors library writes metadata in random order; this writer sorts every key.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .files import replace_file
from .header import DTYPES, CheckpointError, Header, TensorInfo, read_header, shown

__all__ = [
    "CheckpointError",
    "Header",
    "TensorInfo",
    "check_finite",
    "read_header",
    "read_tensors",
    "shown",
    "write_safetensors",
]

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read the named tensors (all if None) one by one, leaving the rest of the file unread.

    The file is closed on return and no memory map is kept, so it may be written over.
    """
    path = Path(path)
    infos = read_header(path).tensors
    wanted = list(infos if names is None else names)
    with open(path, "rb") as handle:
        return {name: _read_tensor(handle, name, infos, path.name) for name in wanted}


def check_finite(state: Mapping[str, Tensor], label: str) -> None:
    """Raise CheckpointError naming the first tensor that holds a NaN or an infinity."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{label} is damaged: {shown(name)} holds {count} values that are NaN or infinite; "
                "use another copy or an earlier checkpoint"
            )


def _read_tensor(
    handle: BinaryIO, name: str, infos: Mapping[str, TensorInfo], file_name: str
) -> Tensor:
    info = infos.get(name)
    if info is None:
        raise CheckpointError(f"{shown(file_name)} holds no tensor {shown(name)}")
    dtype = DTYPES.get(info.dtype)
    if dtype is None:
        raise CheckpointError(
            f"{shown(file_name)}: {shown(name)} is of type {shown(info.dtype)}, which can not be "
            "read; F16, BF16 or F32 was expected"
        )
    if info.start == info.end:
        return torch.empty(info.shape, dtype=dtype)
    buffer = bytearray(info.end - info.start)
    handle.seek(info.start)
    if handle.readinto(buffer) != len(buffer):
        raise CheckpointError(f"{shown(file_name)} was cut short while it was being read")
    return torch.frombuffer(buffer, dtype=dtype).reshape(info.shape)


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors and text metadata, whole or not at all; equal input gives equal bytes.

    Tensors follow each other by element size (largest first), then by name, so that each lies
    aligned; the header's keys are sorted, and spaces pad it to a multiple of 8 bytes.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header = _header_bytes(ordered, metadata)

    def write(handle: BinaryIO) -> None:
        handle.write(struct.pack("<Q", len(header)) + header)
        for _, tensor in ordered:
            handle.write(_tensor_bytes(tensor))

    replace_file(Path(path), write)


def _header_bytes(ordered: list[tuple[str, Tensor]], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": _text_only(metadata)} if metadata else {}
    here = 0
    for name, tensor in ordered:
        end = here + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [here, end],
        }
        here = end
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    raw = text.encode("utf-8")
    return raw + b" " * (-len(raw) % 8)


def _text_only(metadata: Mapping[str, str]) -> dict[str, str]:
    """Check that all is text; lone surrogates, which no reader takes, become question marks."""
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise TypeError(f"metadata {key!r} must be text, not {type(value).__name__}")
    return {
        key.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace").decode()
        for key, value in metadata.items()
    }


def _tensor_bytes(tensor: Tensor) -> memoryview | bytes:
    if tensor.numel() == 0:
        return b""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())
