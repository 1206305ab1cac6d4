"""What a latent cache will hold: its key, its size, what is there of it, and what is to be made."""

import errno
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from trainer.errors import UserError
from trainer.names import printable
from trainer.options.config import TrainConfig
from trainer.photos.batches import Draws, LatentShape
from trainer.photos.crops import CROPS_VERSION
from trainer.photos.face_crops import Heights
from trainer.photos.latent_cache import Contents, Key, Layout, bytes_of, open_cache, record_id
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sample_line import sample_line
from trainer.training.disk import disk_free, disk_needed, on_one_disk, size
from trainer.training.memory import planned_model
from trainer.vae.autoencoder import canonical_sha256, is_tiny, latent_channels, ratio
from trainer.vae.base import Base

# Of an architecture, what no tensor's name or shape tells about the encoder.
_ENCODER_FIELDS = ("_class_name", "act_fn", "norm_num_groups")


class CachePlan(NamedTuple):
    """A cache as it is, and what it lacks for a set of photos."""

    folder: Path
    key: Key
    layout: Layout
    contents: Contents
    lacking: list[tuple[int, bool]]  # records of the set: photo, whether around its faces
    total: int  # records of the set
    besides: int  # bytes that the run itself will write to the same disk
    free: int  # bytes on that disk, those included that the run wrote there before

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to do: another run may then read the cache too."""
        return not self.lacking and self.contents.listed

    @property
    def bytes_to_write(self) -> int:
        return len(self.lacking) * self.layout.photo_bytes


def plan_cache(config: TrainConfig, base: Base, photos: PhotoSet) -> CachePlan:
    """Look at the folder of --cache-latents; nothing is written.

    Raises UserError where it holds something else, or latents made in another way.
    """
    folder = Path(config.cache_latents)
    key = cache_key(config, base, photos)
    contents = open_cache(folder, key)
    there = contents.ids
    records = records_of(config, photos)
    lacking = [place for name, place in records.items() if name not in there]
    besides, free, output = 0, disk_free(folder), Path(config.output)
    if on_one_disk(folder, output):
        besides = disk_needed(config, planned_model(config, base.architecture))
        free = disk_free(output)
    sizes = layout(config, base)
    return CachePlan(folder, key, sizes, contents, lacking, len(records), besides, free)


def records_of(config: TrainConfig, photos: PhotoSet) -> dict[str, tuple[int, bool]]:
    """List what is cached of a set, by record: (photo, whether around its faces)."""
    line = sample_line(photos, config.seed, config.face_share)
    return {record_id(photos.photos[i].id, face): (i, face) for i, face in line.records()}


def draws_of(config: TrainConfig, latent_shape: LatentShape) -> Draws:
    """Return what decides about a run's samples besides their photos and epochs."""
    heights = Heights(config.face_min_height, config.face_max_height)
    where = (config.seed, config.resolution, latent_shape, config.flip)
    return Draws(*where, config.face_share, heights)


def cache_key(config: TrainConfig, base: Base, photos: PhotoSet) -> Key:
    """Name all that decides about a record besides its photo."""
    return {
        "faces": _faces_sha256(config, photos),
        "encoder": encoder_sha256(base),
        "mixed-precision": config.mixed_precision,
        "resolution": config.resolution,
        "seed": config.seed,
        "flip": config.flip,
        "background": config.background,
        "cache-crops": config.cache_crops,
        "decoding": CROPS_VERSION,
    }


def _faces_sha256(config: TrainConfig, photos: PhotoSet) -> str:
    """Hash what decides about crops around faces: all boxes, as photos stand beside each other."""
    line = sample_line(photos, config.seed, config.face_share)
    if not line.around_faces:
        return "none"
    members = [photos.photos[index] for index in line.first]
    boxes = [(photo.id, photo.faces) for photo in members]
    heights = (config.face_min_height, config.face_max_height)
    return hashlib.sha256(json.dumps([heights, boxes]).encode()).hexdigest()


def encoder_sha256(base: Base) -> str:
    """Hash what encodes: weights of encoder and quant_conv, and what their shapes do not tell."""
    fields = {name: base.architecture.get(name) for name in _ENCODER_FIELDS}
    text = f"{canonical_sha256(base.frozen_state)} {json.dumps(fields, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()


def layout(config: TrainConfig, base: Base) -> Layout:
    """Size the records of a run."""
    side = config.resolution // ratio(base.vae)
    shape = (latent_channels(base.vae), side, side)
    return Layout(config.cache_crops, config.resolution, shape, not is_tiny(base.vae))


def in_words(plan: CachePlan) -> str:
    """Say what a cache holds, what is still to be written, and the space for it.

    Raises UserError where the disk has no room for the rest.
    """
    check_room(plan)
    shards, crops = plan.contents.shards, plan.layout.crops
    records = plan.total * crops
    there = records - len(plan.lacking) * crops
    text = (
        f"{records:,} records of {plan.layout.record_bytes:,} bytes ({crops} crops of each photo) "
        f"in {printable(str(plan.folder))}\n{there:,} of them there already; the folder holds "
        f"{size(bytes_of(plan.folder, shards))} in {len(shards):,} shards"
    )
    if plan.lacking:
        text += (
            f"\n{size(plan.bytes_to_write)} to be encoded and written, of {size(plan.free)} free"
        )
    if plan.contents.damaged:
        names = ", ".join(plan.contents.damaged[:3])
        text += f"\n{len(plan.contents.damaged)} damaged shards are not used: {names}"
    return text


def check_room(plan: CachePlan) -> None:
    """Raise UserError, with the figures, where the disk has no room for what is to be written."""
    if plan.lacking and plan.bytes_to_write + plan.besides > plan.free:
        besides = f" and {size(plan.besides)} for the run itself" if plan.besides else ""
        raise UserError(
            f"Expected {size(plan.bytes_to_write)} of free disk at {plan.folder} for the latents "
            f"of {len(plan.lacking):,} photos{besides}, but there is {size(plan.free)}: free some, "
            "give --cache-latents on another disk, or lower --cache-crops."
        )


def disk_full(error: OSError, plan: CachePlan) -> UserError | None:
    """Say in a sentence that the disk is full; None for any other failure."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return UserError(
        f"the disk of --cache-latents {plan.folder} is full: free some space and go on by "
        "--resume, which keeps what is encoded, or give another folder or fewer --cache-crops"
    )
