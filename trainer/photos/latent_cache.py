"""Latents kept on disk: crops of photos and the moments of their latents, in safetensors shards.

DIR/index.json                 what decides about every record (the key), and which photos lie where
DIR/photos-1f2e….safetensors   crops uint8 [n, N, R, R, 3] of n photos, N crops each, R pixels wide;
                               mean and logvar float16 [n, N, C, h, w], logvar where there is one

A shard is complete or absent, and names its photos itself: what an interrupted build has written
counts, whether or not the index tells of it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.photos.batches import LatentShape
from vae_core.checkpoint import CheckpointError, read_header, write_safetensors
from vae_core.files import write_json

FORMAT = 1
INDEX = "index.json"
SHARDS = "photos-*.safetensors"
SHARD_BYTES = 256 * 2**20  # of one shard, unless a single photo takes more
MOST_PHOTOS = 4096  # of one shard, so that the list of their ids stays short
_BEING_WRITTEN = ".tmp-*"

Key = Mapping[str, str | int | bool]  # what decides about the content of every record
Shards = dict[str, list[str]]  # the photos' ids of each shard, by its file's name


class PhotoLatents(NamedTuple):
    """All variants of one record: crops uint8 [N, R, R, 3], mean, logvar float16 [N, C, h, w]."""

    record: str  # its id
    crops: Tensor
    mean: Tensor
    logvar: Tensor | None


def record_id(photo_id: str, around_face: bool) -> str:
    """Name a photo's record: a photo may have one of plain crops, and one around its faces."""
    return f"{photo_id}/face" if around_face else photo_id


class Layout(NamedTuple):
    """How large the records of one photo are."""

    crops: int
    resolution: int
    latent_shape: LatentShape
    has_logvar: bool

    @property
    def record_bytes(self) -> int:
        """Return the bytes of one variant, without the file's header."""
        moments = torch.Size(self.latent_shape).numel() * (1 + self.has_logvar)
        return 3 * self.resolution**2 + 2 * moments

    @property
    def photo_bytes(self) -> int:
        return self.crops * self.record_bytes

    @property
    def photos_per_shard(self) -> int:
        return max(1, min(MOST_PHOTOS, SHARD_BYTES // self.photo_bytes))


class Contents(NamedTuple):
    """What lies in a cache's folder: whole shards, and the names of damaged ones."""

    shards: Shards
    damaged: list[str]
    listed: bool  # whether the index tells of just these shards; not so after an interruption

    @property
    def ids(self) -> set[str]:
        return {photo_id for ids in self.shards.values() for photo_id in ids}


# Opening


def open_cache(folder: Path, key: Key) -> Contents:
    """List what a cache's folder holds; nothing where it is not there or empty.

    Raises UserError where the folder holds something else, or latents made in another way.
    """
    if not (folder / INDEX).exists():
        _refuse_strangers(folder)
        return Contents({}, [], listed=False)
    index = _read_index(folder)
    _refuse_stale(folder, index["key"], key)
    shards, damaged = {}, []
    for path in sorted(folder.glob(SHARDS)):
        ids = _photos_of(path, index["shards"].get(path.name), key)
        if ids is None:
            damaged.append(path.name)
        else:
            shards[path.name] = ids
    return Contents(shards, damaged, listed=shards.keys() == index["shards"].keys())


def _refuse_strangers(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--cache-latents {folder} is a file: give a folder, new or empty")
    there = sorted(entry.name for entry in folder.glob("*") if entry.name[0] != ".")
    if there:
        raise UserError(
            f"--cache-latents {folder} is not empty (it holds {there[0]}) and is no latent cache: "
            "give a new or an empty folder"
        )


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return {"key": dict(index["key"]), "shards": dict(index["shards"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / INDEX} cannot be read ({type(error).__name__}): give --cache-latents "
            "another folder, or delete this one"
        ) from error


def _refuse_stale(folder: Path, there: Key, here: Key) -> None:
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if names:
        apart = "; ".join(
            f"{name} is {_short(there.get(name))} there and {_short(here.get(name))} here"
            for name in names
        )
        raise UserError(
            f"the latents in {folder} were made in another way than this run asks for ({apart}): "
            "give --cache-latents another folder, or delete this one"
        )


def _short(value: object) -> str:
    return "not known" if value is None else str(value)[:12]


def _photos_of(path: Path, listed: object, key: Key) -> list[str] | None:
    """Return the ids in a shard, from the index or from the shard itself; None if it is damaged."""
    if isinstance(listed, dict) and listed.get("bytes") == path.stat().st_size:
        return listed["photos"]
    try:
        metadata = read_header(path).metadata
        return json.loads(metadata["photos"]) if metadata["key"] == digest(key) else None
    except (CheckpointError, ValueError, KeyError):
        return None


def digest(key: Key) -> str:
    """Shorten a key to 64 hex digits."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()


# Writing


def begin_cache(folder: Path, key: Key) -> None:
    """Make a folder a cache, and remove what a killed process left half-written in it."""
    for leftover in folder.glob(_BEING_WRITTEN):
        leftover.unlink(missing_ok=True)
    if not (folder / INDEX).exists():
        write_index(folder, key, {})


def write_shard(folder: Path, key: Key, photos: Sequence[PhotoLatents]) -> str:
    """Write some photos' records to a shard, whole or not at all, and return its name.

    The name follows from key and photos alone, so that processes need not agree on one.
    """
    ids = json.dumps([photo.record for photo in photos])
    name = f"photos-{hashlib.sha256((digest(key) + ids).encode()).hexdigest()[:32]}.safetensors"
    parts = {"crops": [p.crops for p in photos], "mean": [p.mean for p in photos]}
    if photos[0].logvar is not None:
        parts["logvar"] = [photo.logvar for photo in photos]
    tensors = {part: torch.stack(values) for part, values in parts.items()}
    write_safetensors(folder / name, tensors, {"key": digest(key), "photos": ids})
    return name


def write_index(folder: Path, key: Key, shards: Shards) -> None:
    """Write down the key, and what lies in each shard."""
    listed = {
        name: {"bytes": (folder / name).stat().st_size, "photos": shards[name]}
        for name in sorted(shards)
    }
    write_json(folder / INDEX, {"format": FORMAT, "key": dict(key), "shards": listed})


def bytes_of(folder: Path, names: Iterable[str]) -> int:
    """Add up the sizes of some shards."""
    return sum((folder / name).stat().st_size for name in names)
