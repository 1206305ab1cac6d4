"""Hold photos out for validation, by what is in them."""

from trainer.errors import UserError
from trainer.photos.photo_set import PhotoSet, hash_place
from trainer.photos.streaming import PhotoStream


def hold_out(
    photos: PhotoSet | PhotoStream, share: float
) -> tuple[PhotoSet | PhotoStream, PhotoSet]:
    """Part photos into (train, val), about `share` of them in val, by content hash.

    A photo's side depends on its bytes alone: the same on every machine, whatever its name, and
    it stays there when photos are added. Of two or more, each side gets at least one. Raises
    UserError for a single photo.
    """
    if isinstance(photos, PhotoStream):
        return photos.hold_out(share)
    if len(photos) < 2:
        raise UserError(
            f"Expected at least 2 photos, so that one can be held out for validation, but found "
            f"{len(photos)}: add photos to --data, or give others by --val-data"
        )
    places = [hash_place(photo.id) for photo in photos.photos]
    by_place = sorted(range(len(photos)), key=places.__getitem__)
    count = sum(place < share for place in places)
    count = min(max(count, 1), len(photos) - 1)
    held = set(by_place[:count])
    train = [index for index in range(len(photos)) if index not in held]
    return photos.subset(train), photos.subset(sorted(held))
