"""The header of a safetensors file, read with suspicion.

The format (https://github.com/huggingface/safetensors#format): eight bytes of header length,
a JSON header, then the tensors' bytes. The library takes repeated names (the last wins) and extra
fields; here they are refused, and what is no safetensors file at all is called by its name.
"""

import json
import math
import stat
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

MAX_HEADER = 100_000_000  # bytes, the library's own limit
MAX_TENSORS = 100_000  # FLUX with its text encoders has about 2,000

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

PICKLE_ADVICE = (
    "a PyTorch pickle, which can run code when it is opened, so it is not opened; convert it "
    'first: python -c "import torch; from safetensors.torch import save_file; '
    "s = torch.load('in.ckpt', map_location='cpu', weights_only=True); s = s.get('state_dict', s); "
    "save_file({k: v.contiguous().clone() for k, v in s.items() if torch.is_tensor(v)}, "
    "'out.safetensors')\""
)


class CheckpointError(ValueError):
    """A file that can not be used; the message is one sentence for the user."""


class TensorInfo(NamedTuple):
    """Where a tensor lies: `start` and `end` are offsets from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Header(NamedTuple):
    """What a file says of itself."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def shown(name: str) -> str:
    """Quote a name from a file for a message: control and bidi characters escaped, cut at 100."""
    return repr(name if len(name) <= 100 else name[:97] + "...")


def read_header(path: Path) -> Header:
    """Read and check a file's header without reading a tensor.

    Offsets must cover the file exactly, without holes or overlaps; names must not repeat.
    Raises CheckpointError saying what the file is instead; OSError if it can not be opened.
    """
    path = Path(path)
    label = shown(path.name)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{label} is not a regular file; a .safetensors file was expected")
    with open(path, "rb") as handle:
        length = _header_length(handle, status.st_size, label)
        raw = handle.read(length)
    return _parse(raw, status.st_size - 8 - length, 8 + length, label)


def _header_length(handle: BinaryIO, size: int, label: str) -> int:
    """Return the header's length if the file begins like safetensors; else say what it is."""
    begin = handle.read(512)
    length = struct.unpack("<Q", begin[:8])[0] if len(begin) >= 8 else 0
    if begin[8:9] == b"{" and 2 <= length <= MAX_HEADER:
        if length > size - 8:
            raise CheckpointError(
                f"{label} is cut off: its header alone needs {length + 8:,} bytes and the file has "
                f"{size:,}; download or copy it again"
            )
        handle.seek(8)
        return length
    raise CheckpointError(f"{label} {_what_it_is(begin)}")


def _what_it_is(begin: bytes) -> str:
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not begin:
        return "is empty (0 bytes); download or copy it again"
    if begin.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights themselves; fetch them with: git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not weights (a failed download or login page); download it again"
    if begin.startswith(b"PK\x03\x04"):
        if b".pkl" in begin:
            return f"is {PICKLE_ADVICE}"
        return "is a zip archive, not weights; unpack it and name the .safetensors file in it"
    if begin[:1] == b"\x80" and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"is {PICKLE_ADVICE}"
    if begin.startswith(b"GGUF"):
        return "is a GGUF file; a VAE is read from .safetensors only, so get that form of it"
    if text.startswith((b"{", b"[")):
        return "is JSON text, not weights; name the .safetensors file, or a config.json by its name"
    return "is not a .safetensors file: it does not begin with that format's header"


def _parse(raw: bytes, body: int, offset: int, label: str) -> Header:
    if raw.count(b'"data_offsets"') > MAX_TENSORS:
        raise CheckpointError(
            f"{label} claims over {MAX_TENSORS:,} tensors, which no checkpoint has; get it again"
        )
    try:
        header = json.loads(raw, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
        metadata = _metadata(header.pop("__metadata__", {}))
        tensors = {name: _tensor_info(entry, offset) for name, entry in header.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{label} has a damaged header: {error}; get it again") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{label} has a damaged header that is not the JSON expected there; get it again"
        ) from None
    _check_cover(tensors, offset, body, label)
    return Header(tensors, metadata)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise CheckpointError(f"{shown(twice)} stands in it twice")
    return found


def _no_constant(word: str) -> None:
    raise CheckpointError(f"{word} stands in it")


def _metadata(entries: dict[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in entries.values()):
        raise CheckpointError("its metadata holds something else than text")
    return entries


def _tensor_info(entry: dict[str, Any], offset: int) -> TensorInfo:
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError("a tensor is not described by dtype, shape and data_offsets")
    start, end = entry["data_offsets"]
    numbers = [start, end, *entry["shape"]]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise CheckpointError("a size in it is not a whole number")
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if not isinstance(dtype, str) or len(shape) > 16:
        raise CheckpointError("a tensor's type or shape makes no sense")
    if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - start:
        raise CheckpointError("a tensor's shape does not fit the bytes that it claims")
    return TensorInfo(dtype, shape, offset + start, offset + end)


def _check_cover(tensors: Mapping[str, TensorInfo], offset: int, body: int, label: str) -> None:
    """Check that the tensors lie one after the other, from the header to the end of the file."""
    here = offset
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.end)):
        if info.start != here or info.end < here:
            raise CheckpointError(
                f"{label} has a damaged header: its tensors overlap or leave holes; get it again"
            )
        here = info.end
    if here > offset + body:
        raise CheckpointError(
            f"{label} is cut off: {offset + body:,} of {here:,} bytes are there; "
            "download or copy it again"
        )
    if here < offset + body:
        raise CheckpointError(
            f"{label} has {offset + body - here:,} bytes behind its last tensor; get it again"
        )
