"""What is said of the faces that training knows of."""

import dataclasses
from pathlib import Path

import pytest

from trainer.photos.boxes import Box
from trainer.photos.face_counts import count_faces, counts_in_words, training_faces_in_words
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from trainer.photos.streaming import PhotoStream


def box(height: float) -> Box:
    return (1.0, 2.0, 10.0, height)


@pytest.fixture
def photos(photo_folder: Path) -> PhotoSet:
    return open_photos(str(photo_folder), 8).subset(range(5))


def with_faces(photos: PhotoSet, *faces: tuple[Box, ...] | None) -> PhotoSet:
    known = [
        dataclasses.replace(photo, faces=boxes)
        for photo, boxes in zip(photos.photos, faces, strict=True)
    ]
    return dataclasses.replace(photos, photos=known)


def test_faces_are_counted_with_their_heights(photos: PhotoSet) -> None:
    known = with_faces(photos, (box(23.6), box(64)), (), (box(159.5),), None, (box(200),))
    assert training_faces_in_words(known) == (
        "3 of 5 training photos hold faces (4 faces, heights from 24 to 200 px); "
        "1 were not looked at"
    )
    assert training_faces_in_words(known, looks_later=True).endswith("1 are still to be looked at")
    lines = [line.rsplit(None, 1) for line in counts_in_words(count_faces(known)).splitlines()]
    assert {name.strip(): int(number) for name, number in lines} == {
        "photos": 5, "with faces": 3, "without": 1, "not looked at": 1, "faces": 4,
        "under 24 px": 1, "24 to 64 px": 0, "64 to 160 px": 2, "160 px and more": 1,
    }  # fmt: skip


def test_without_faces_training_goes_on_and_it_is_said_what_to_give(photos: PhotoSet) -> None:
    said = training_faces_in_words(photos)
    assert said.startswith("no faces are known in the training photos; training goes on without")
    for way in ("--face-detector-weights FILE", "--face-index FILE", "column `faces`"):
        assert way in said


def test_photos_without_a_face_that_were_looked_at_are_not_called_unknown(
    photos: PhotoSet,
) -> None:
    known = with_faces(photos, (), (), (), (), None)
    assert training_faces_in_words(known) == (
        "none of 4 training photos looked at holds a face; training goes on without them; "
        "1 were not looked at"
    )


def test_a_dry_run_does_not_ask_for_a_detector_that_it_has(photos: PhotoSet) -> None:
    said = training_faces_in_words(photos, looks_later=True)
    assert said == "5 training photos are still to be looked at"


def test_of_a_stream_only_its_own_boxes_are_used(photos: PhotoSet) -> None:
    said = training_faces_in_words(PhotoStream(photos.source, 8))
    assert "column `faces` alone" in said
