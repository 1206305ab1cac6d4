"""Crops around faces: which sizes, what share, where the boxes lie, and the same every time."""

import io
from dataclasses import replace
from itertools import islice
from math import log
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import kstest

from trainer.photos.batches import Batch, Draws, plan_crop
from trainer.photos.boxes import Box
from trainer.photos.crops import Window, boxes_within, sample_generator
from trainer.photos.face_crops import MOST_IN_A_ROW, Heights, boxes_of, plan_face_crop
from trainer.photos.joined import joined_sets
from trainer.photos.loader import training_batches
from trainer.photos.memory_source import MemorySource
from trainer.photos.photo_set import Photo, PhotoSet
from trainer.photos.sample_line import Place, SampleLine, sample_line
from trainer.photos.scan import scan
from trainer.photos.sources import open_photos
from trainer.photos.streaming import PhotoStream

R = 64
RED = (255, 0, 0)
FACE: Box = (70, 40, 60, 80)  # in a photo of 200 x 240


def photo(face: Box | None, size: tuple[int, int] = (200, 240), seed: int = 0) -> bytes:
    """A grey photo whose face is a red rectangle; the seed makes its bytes its own."""
    image = Image.new("RGB", size, (60, 60, 60 + seed))
    if face is not None:
        x, y, w, h = face
        image.paste(RED, (x, y, x + w, y + h))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def photo_set(faces: list[list[Box]]) -> PhotoSet:
    items = [
        (f"{i}", photo(boxes[0] if boxes else None, seed=i), boxes) for i, boxes in enumerate(faces)
    ]
    return scan(MemorySource("memory", items), 8)


@pytest.fixture
def mixed() -> PhotoSet:
    """Six photos with a face, and six without."""
    return photo_set([[FACE]] * 6 + [[]] * 6)


def batches(photos: PhotoSet | PhotoStream, count: int, **options: object) -> list[Batch]:
    settings = {"resolution": R, "batch_size": 2, "latent_shape": (4, 8, 8), "seed": 0} | options
    return list(islice(training_batches(photos, **settings), count))


def planned(records: list[Photo], epochs: int, heights: Heights, resolution: int = R) -> list:
    others = range(len(records))
    draw = [sample_generator(0, epoch, "a", "face crop") for epoch in range(epochs)]
    return [
        plan_face_crop(records, 0, others, resolution, heights, generator, True)
        for generator in draw
    ]


def tallest(records: list[Photo], tiles: list) -> float:
    return max(box[3] for box in boxes_of(records, tiles))


def test_heights_are_spread_evenly_on_a_logarithmic_scale() -> None:
    records = [Photo(c, c, 1200, 1400, ((300, 300, 220, 280),)) for c in "abc"]
    crops = planned(records, 600, Heights(24, 256), resolution=256)
    spread = [(log(tallest(records, tiles)) - log(24)) / log(256 / 24) for tiles in crops]
    assert kstest(spread, "uniform").pvalue > 0.01
    assert min(spread) > -0.01 and max(spread) < 1.01


def test_no_face_is_higher_than_its_crop() -> None:
    records = [Photo("a", "a", 1000, 1400, ((300, 300, 400, 500),))]
    for tiles in planned(records * 2, 100, Heights(60, 256)):
        (box,) = boxes_of(records * 2, tiles)
        assert 55 < box[3] <= R


def test_nothing_is_enlarged() -> None:
    records = [Photo(c, c, 200, 240, (FACE,)) for c in "abc"]
    records[1] = replace(records[1], faces=((70, 40, 9, 12),))  # smaller than those beside it
    for low, high in ((100, 256), (24, 40)):
        for tiles in planned(records, 100, Heights(low, high)):
            assert all(tile.window.side >= tile.side for tile in tiles)
            assert tallest(records, tiles) <= 80


def test_small_faces_stand_side_by_side_and_fill_the_crop() -> None:
    records = [Photo(c, c, 200, 240, (FACE,)) for c in "abc"]
    rows = set()
    for tiles in planned(records, 100, Heights(10, 12)):
        covered = np.zeros((R, R), bool)
        for tile in tiles:
            covered[tile.top : tile.top + tile.side, tile.left : tile.left + tile.side] = True
        assert covered.all()
        assert sum(tile.index == 0 for tile in tiles) >= 1
        rows.add(len(tiles))
    assert rows == {9}  # 200 px * 11 / 80 = 27 px, of 64
    (close_up,) = {len(t) for t in planned(records, 5, Heights(8, 8), 256)}
    assert close_up == MOST_IN_A_ROW**2


def test_boxes_tell_where_faces_are(mixed: PhotoSet) -> None:
    """Red pixels lie in boxes, and boxes hold red pixels; the edge's pixels are mixed colours."""
    for batch in batches(mixed, 30, face_share=0.8, face_heights=Heights(16, 64)):
        for pixels, boxes in zip(batch.pixels.numpy().astype(int), batch.faces, strict=True):
            red = pixels[..., 0] - pixels[..., 1] > 100
            inside = np.zeros((R, R), bool)
            for x, y, w, h in boxes:
                inside[max(0, round(y)) : round(y + h), max(0, round(x)) : round(x + w)] = True
            if boxes:
                assert (red & inside).sum() > 0.85 * inside.sum()


def test_mirrored_boxes_are_mirrored() -> None:
    straight = boxes_within([FACE], Window(0, 0, 200, False), 100)
    turned = boxes_within([FACE], Window(0, 0, 200, True), 100)
    assert straight == [(35, 20, 30, 40)] and turned == [(35, 20, 30, 40)]
    assert boxes_within([(0, 0, 50, 50)], Window(0, 0, 200, True), 100) == [(75, 0, 25, 25)]
    assert boxes_within([FACE], Window(0, 0, 80, False), 80) == []  # more than half is outside


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8, 1.0])
def test_the_stated_share_of_samples_is_around_a_face(mixed: PhotoSet, share: float) -> None:
    line = sample_line(mixed, 0, share)
    kinds = [next(line.at(position)).around_face for position in range(1000)]
    assert sum(kinds) == round(1000 * share)
    assert all(abs(sum(kinds[:n]) - n * share) < 1 for n in range(1000))  # at every moment


def test_each_part_of_the_line_goes_through_its_photos_epoch_by_epoch(mixed: PhotoSet) -> None:
    places = [next(sample_line(mixed, 0, 0.5).at(position)) for position in range(48)]
    around = [place.index for place in places if place.around_face]
    anywhere = [place.index for place in places if not place.around_face]
    with_faces = [i for i, one in enumerate(mixed.photos) if one.faces]
    for epoch in range(4):
        assert sorted(around[epoch * 6 :][:6]) == with_faces
    for epoch in range(2):
        assert sorted(anywhere[epoch * 12 :][:12]) == list(range(12))


@pytest.mark.parametrize("faces", [[[]] * 4, [[FACE]] * 4])
def test_no_faces_or_no_share_leave_all_as_it_was(faces: list) -> None:
    photos = photo_set(faces)
    unknown = replace(photos, photos=[replace(one, faces=None) for one in photos.photos])
    share = 0.0 if faces[0] else 0.5
    plain = batches(unknown, 6)
    found = batches(photos, 6, face_share=share)
    for one, other in zip(plain, found, strict=True):
        assert one.ids == other.ids and one.pixels.equal(other.pixels)
        assert one.noise.equal(other.noise)


def test_what_is_mixed_in_takes_the_rest(mixed: PhotoSet) -> None:
    general = scan(MemorySource("more", [("x", photo(None, seed=99), None)]), 8)
    line = sample_line(joined_sets(mixed, general), 0, 0.75)
    assert line.rest == (12,) and len(line.first) == 6
    without_faces = mixed.subset([i for i, one in enumerate(mixed.photos) if not one.faces])
    line = sample_line(joined_sets(without_faces, general), 0, 0.75)
    assert line == SampleLine(0, tuple(range(6)), (6,), 0.75, False)
    (batch,) = batches(joined_sets(mixed, general), 1, batch_size=8, face_share=0.75)
    assert batch.ids.count(general.photos[0].id) == 2


def test_workers_processes_and_restarts_change_nothing(mixed: PhotoSet) -> None:
    def samples(some: list[Batch]) -> list[tuple]:
        return [
            (photo_id, pixels.numpy().tobytes(), noise.numpy().tobytes(), boxes)
            for batch in some
            for photo_id, pixels, noise, boxes in zip(
                batch.ids, batch.pixels, batch.noise, batch.faces, strict=True
            )
        ]

    alone = samples(batches(mixed, 12))
    assert samples(batches(mixed, 6, batch_size=4)) == alone
    assert samples(batches(mixed, 5, start=14)) == alone[14:]
    two = [samples(batches(mixed, 6, rank=rank, world=2)) for rank in range(2)]
    assert [two[i // 2 % 2][i // 4 * 2 + i % 2] for i in range(24)] == alone
    assert samples(batches(mixed, 4, workers=2)) == alone[:8]
    assert samples(batches(mixed, 4, seed=1)) != alone[:8]


def test_a_stream_uses_the_boxes_that_come_with_it() -> None:
    items = [(str(i), photo(FACE, seed=i), [FACE]) for i in range(8)]
    stream = PhotoStream(MemorySource("memory", items), R)
    found = batches(stream, 8, batch_size=4, face_share=1.0, face_heights=Heights(8, 8))
    boxes = [boxes for batch in found for boxes in batch.faces]
    assert all(len(some) == 1 for some in boxes)  # alone, as large as the photo's width leaves it
    assert all(some[0][3] == pytest.approx(80 * R / 200, abs=1) for some in boxes)


def test_a_photo_of_another_size_than_recorded_is_skipped(mixed: PhotoSet) -> None:
    first = mixed.photos[0]
    mixed.photos[0] = replace(first, width=first.width + 8)
    found = {skip for batch in batches(mixed, 12) for skip in batch.skipped}
    assert {skip.reason for skip in found} == {"changed"}


def test_a_plan_reads_no_pixel() -> None:
    """What a cache relies on: the same place gives the same boxes without the photo."""
    records = [Photo(c, c, 200, 240, (FACE,)) for c in "ab"]
    draws = Draws(0, R, (4, 8, 8), True)
    plans = [plan_crop(records, Place(0, epoch, True), (0, 1), draws) for epoch in (3, 3, 4)]
    assert plans[0] == plans[1] != plans[2]


def test_real_portraits_come_at_every_size(assets: Path) -> None:
    """Boxes of the data set itself: the middle of each portrait, where its face is."""
    photos = open_photos(str(assets / "data" / "faces" / "val"), 64).subset(range(8))
    boxed = [
        replace(
            one, faces=((one.width * 0.3, one.height * 0.2, one.width * 0.4, one.height * 0.4),)
        )
        for one in photos.photos
    ]
    photos = replace(photos, photos=boxed)
    found = batches(photos, 16, resolution=128, face_share=1.0)
    heights = [box[3] for batch in found for boxes in batch.faces for box in boxes]
    assert min(heights) < 40 and max(heights) > 100
