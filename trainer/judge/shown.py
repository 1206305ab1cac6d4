"""What a report shows of two models: photos that tell most, faces that lost most, small faces.

Faces are shown enlarged, beside what the models made of them: those of the ten photos of a set
whose faces lost most, and small ones of every kind, from most gained to most lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from trainer.judge.pictures import (
    WORST,
    CloseUp,
    Picture,
    choose_telling,
    gain,
    open_pictures,
)
from trainer.judge.regions import FACES
from trainer.judge.scores import DISTANCES, PhotoScore, figure, pair_up
from trainer.judge.set_scores import SMALL
from trainer.judge.sheets import canvas_side, draw, faces_at, plan_sheets
from trainer.photos.boxes import Box
from trainer.photos.photo_set import PhotoSet

Scores = Mapping[str, Sequence[PhotoScore]]  # by set: "val", "general"

MOST_SHOWN = 30  # whole photos in a report, which keeps it to some tens of megabytes
SMALL_SHOWN = 12  # photos of a set whose small faces are shown


def open_shown(
    sets: Mapping[str, PhotoSet], first: Scores, last: Scores, eval_resolution: int, multiple: int
) -> list[Picture]:
    """Read the pictures of all sets that a report of two models shows, whole or for faces."""
    general = MOST_SHOWN // 3 if "general" in sets else 0
    counts = {"val": MOST_SHOWN - general, "general": general}
    pictures: list[Picture] = []
    for group, photos in sets.items():
        pair = first[group], last[group]
        telling = choose_telling(*pair, counts[group])
        faces = [] if pair[0] is pair[1] else ranked_by_faces(*pair, FACES)[::-1][:WORST]
        small = spread(ranked_by_faces(*pair, SMALL), SMALL_SHOWN)
        sheets = {s.id: s.regions[SMALL].sheet for s in pair[0] if s.id in small}
        whole = [id for id in small if sheets[id] is None]
        opened = open_pictures(
            photos, dict.fromkeys([*telling, *faces, *whole]), eval_resolution, multiple, group
        )
        wanted = {FACES: faces, SMALL: whole}
        pictures += [with_close_ups(p, wanted, p.id in telling) for p in opened]
        numbers = sorted({number for number in sheets.values() if number is not None})
        pictures += open_sheets(photos, numbers, small, group, eval_resolution, multiple)
    return pictures


def ranked_by_faces(
    first: Iterable[PhotoScore], second: Iterable[PhotoScore], region: str
) -> list[str]:
    """Rank the photos with such faces by what these gained, the most gained first: their ids.

    By the perceptual distance, and by PSNR where there is none.
    """
    pairs = [
        (a.id, (a.regions[region], b.regions[region]))
        for a, b in pair_up(first, second)
        if region in a.regions and region in b.regions
    ]
    known = [
        name
        for name in DISTANCES
        if any(figure(part, name) is not None for _, pair in pairs for part in pair)
    ]
    name = known[0] if known else "psnr"
    return [id for id, _ in sorted(pairs, key=lambda pair: gain(pair[1], name), reverse=True)]


def spread(ranked: Sequence[str], count: int) -> list[str]:
    """Take at most `count`, evenly spaced, the first and the last among them."""
    if len(ranked) <= count:
        return list(ranked)
    return [ranked[i * (len(ranked) - 1) // (count - 1)] for i in range(count)]


def with_close_ups(picture: Picture, wanted: Mapping[str, Sequence[str]], whole: bool) -> Picture:
    """Mark the largest face of a photo for the regions in which it is wanted."""
    face = picture.largest_face
    close_ups = tuple(
        CloseUp(region, picture.id, picture.name, face)
        for region, ids in wanted.items()
        if face and picture.id in ids
    )
    return replace(picture, whole=whole, close_ups=close_ups)


def open_sheets(
    photos: PhotoSet,
    numbers: Sequence[int],
    ids: Sequence[str],
    group: str,
    eval_resolution: int,
    multiple: int,
) -> list[Picture]:
    """Draw the sheets of these numbers, for the largest face of each photo in `ids` on them."""
    planned = plan_sheets(photos.photos, eval_resolution, multiple) if numbers else []
    pictures = []
    for number in numbers:
        canvas, drawn = draw(photos, planned[number], canvas_side(multiple))
        close_ups = []
        for place in drawn:
            photo = photos.photos[place.index]
            faces = faces_at(photo, place)
            if photo.id in ids and faces:
                x, y, w, h = _largest(faces)
                box = (place.left + x, place.top + y, w, h)
                close_ups.append(CloseUp(SMALL, photo.id, photo.name, box))
        name = f"sheet {number + 1}"
        pictures.append(Picture(group, name, name, canvas, whole=False, close_ups=tuple(close_ups)))
    return pictures


def _largest(faces: Iterable[Box]) -> Box:
    return max(faces, key=lambda box: box[2] * box[3])
