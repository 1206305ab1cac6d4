"""How many faces are known in a set of photos, how large they are, and how that is said."""

from typing import NamedTuple

from trainer.photos.photo_set import PhotoSet
from trainer.photos.streaming import PhotoStream

BANDS = (24, 64, 160)  # heights in pixels between which faces are counted
WAYS = (
    "give --face-detector-weights FILE (or `download`) to have them found, --face-index FILE if "
    "they were found before, or photos in a table with a column `faces`"
)


class FaceCounts(NamedTuple):
    """Of a set of photos: all, those looked at, those with faces; and each face's height in px."""

    photos: int
    looked_at: int
    with_faces: int
    heights: list[float]


def count_faces(photos: PhotoSet) -> FaceCounts:
    """Count the faces that are known in a set."""
    known = [photo.faces for photo in photos.photos if photo.faces is not None]
    heights = sorted(box[3] for boxes in known for box in boxes)
    return FaceCounts(len(photos), len(known), sum(map(bool, known)), heights)


def training_faces_in_words(photos: PhotoSet | PhotoStream, looks_later: bool = False) -> str:
    """Say which faces training knows of; without any, that it goes on all the same.

    `looks_later`: a dry run, which leaves to the run what is not in the index.
    """
    if isinstance(photos, PhotoStream):
        return (
            "of a stream, training takes them from its column `faces` alone; "
            "--face-detector-weights and --face-index serve the photos that are measured"
        )
    counts = count_faces(photos)
    unseen = counts.photos - counts.looked_at
    if looks_later and not counts.looked_at:
        return f"{unseen:,} training photos are still to be looked at"
    if not counts.looked_at:
        return f"no faces are known in the training photos; training goes on without them: {WAYS}"
    rest = f"{unseen:,} {'are still to be' if looks_later else 'were not'} looked at"
    if not counts.heights:
        found = f"none of {counts.looked_at:,} training photos looked at holds a face"
        return f"{found}; training goes on without them; {rest}"
    low, high = round(counts.heights[0]), round(counts.heights[-1])
    number = f"{len(counts.heights):,} face{'' if len(counts.heights) == 1 else 's'}"
    return (
        f"{counts.with_faces:,} of {counts.photos:,} training photos hold faces "
        f"({number}, heights from {low:,} to {high:,} px); {rest}"
    )


def counts_in_words(counts: FaceCounts) -> str:
    """List the counts of a set, a line each: photos with and without faces, faces by height."""
    low, middle, high = BANDS
    bands = {
        f"under {low} px": (0, low),
        f"{low} to {middle} px": (low, middle),
        f"{middle} to {high} px": (middle, high),
        f"{high} px and more": (high, float("inf")),
    }
    numbers = {
        "photos": counts.photos,
        "with faces": counts.with_faces,
        "without": counts.looked_at - counts.with_faces,
        "not looked at": counts.photos - counts.looked_at,
        "faces": len(counts.heights),
    }
    for name, (least, below) in bands.items():
        numbers[f"  {name}"] = sum(least <= height < below for height in counts.heights)
    return "\n".join(f"{name:<18}{number:>8,}" for name, number in numbers.items())
