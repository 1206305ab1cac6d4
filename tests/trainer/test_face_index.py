"""The index file: what is written comes back, and what cannot be trusted is refused and stays."""

import dataclasses
import math
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from trainer.errors import UserError
from trainer.photos.face_finder import Found
from trainer.photos.face_index import FaceIndex, Faces, Making, open_index, read_index
from trainer.photos.photo_set import Photo

MAKING = Making("a" * 64)
KEY = "0" * 64
FACES = Faces(640, 480, (Found((10.25, 20.0, 1 / 3, 40.0), 0.9), Found((0.0, 0.0, 8.0, 10.0), 0.7)))


@pytest.fixture
def index(tmp_path: Path) -> FaceIndex:
    index = FaceIndex(tmp_path / "deep" / "faces.parquet", MAKING, {KEY: FACES})
    index.photos["1" * 64] = Faces(30, 40, ())
    index.save()
    return index


def test_what_is_written_comes_back_to_the_last_bit(index: FaceIndex) -> None:
    again = read_index(index.path)
    assert again.photos == index.photos and again.making == MAKING
    assert [path.name for path in index.path.parent.iterdir()] == ["faces.parquet"]
    table = parquet.read_table(index.path)  # as others read it
    assert table.column_names == ["photo", "width", "height", "boxes", "scores"]
    assert table["boxes"].to_pylist()[0] == [list(face.box) for face in FACES.found]


def test_what_another_process_wrote_meanwhile_is_kept(index: FaceIndex) -> None:
    other = open_index(index.path, MAKING, print)
    other.photos["2" * 64] = FACES
    other.save()
    index.photos["3" * 64] = FACES
    index.save()
    assert set(read_index(index.path).photos) == {digit * 64 for digit in "0123"}


@pytest.mark.parametrize(
    ("making", "what"),
    [(Making("b" * 64), "another detector"), (Making("a" * 64, "1"), "another version")],
)
def test_boxes_found_otherwise_are_not_mixed_and_that_is_said(
    index: FaceIndex, making: Making, what: str
) -> None:
    said: list[str] = []
    anew = open_index(index.path, making, said.append)
    assert anew.photos == {}
    assert len(said) == 1 and what in said[0] and "made anew" in said[0]
    assert len(read_index(index.path).photos) == 2  # until something is found
    anew.photos[KEY] = FACES
    anew.save()
    assert read_index(index.path).photos == {KEY: FACES}
    assert read_index(index.path).making == making
    assert open_index(index.path, making, said.append).photos and len(said) == 1


def test_an_index_of_other_photos_is_refused(index: FaceIndex) -> None:
    assert index.faces_of(Photo(KEY, "a.png", 640, 480)) == FACES
    assert index.faces_of(Photo("f" * 64, "b.png", 640, 480)) is None
    with pytest.raises(UserError, match=r"a\.png has 640 x 480 pixels, and it has 64 x 48"):
        index.faces_of(Photo(KEY, "a.png", 64, 48))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    parquet.write_table(pyarrow.table({"photo": ["a"], "boxes": [[[1.0]]]}), path)


def no_table(path: Path) -> None:
    path.write_text("my faces, do not lose")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, foreign, no_table, emptied])
def test_a_damaged_or_foreign_file_is_refused_and_stays(index: FaceIndex, damage) -> None:
    damage(index.path)
    before = index.path.read_bytes()
    for read in (lambda: open_index(index.path, MAKING, print), lambda: read_index(index.path)):
        with pytest.raises(UserError, match=r"expected a face index at .*: give another") as told:
            read()
        assert "\n" not in str(told.value)
    index.photos["2" * 64] = FACES
    with pytest.raises(UserError, match="cannot be used"):  # damaged after it was opened
        index.save()
    assert index.path.read_bytes() == before


def test_a_missing_index_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.parquet.*--face-detector-weights"):
        read_index(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="expected a face index"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    "junk",
    [
        FACES._replace(width=0),
        FACES._replace(width=9),  # boxes outside the photo
        FACES._replace(found=(Found((math.nan, 0, 5, 5), 0.9),)),
        FACES._replace(found=(Found((-1, 0, 5, 5), 0.9),)),
        FACES._replace(found=(Found((1, 0, 0, 5), 0.9),)),
        FACES._replace(found=(Found((1, 2, 3), 0.9),)),
        FACES._replace(found=(Found((1, 2, 3, 4), math.inf),)),
        FACES._replace(found=(Found((1, 2, 3, 4), None),)),
    ],
)
def test_junk_in_an_index_is_refused(index: FaceIndex, junk: Faces) -> None:
    index.photos[KEY] = junk
    index.save()
    with pytest.raises(UserError, match="photo 0000000000000000 has boxes or scores that cannot"):
        read_index(index.path)


def test_more_than_any_set_of_photos_holds_is_refused(
    index: FaceIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.photos.face_index.MOST_NUMBERS", 10)
    with pytest.raises(UserError, match="holds 18 numbers, at most 10"):
        read_index(index.path)


def test_in_memory_alone_nothing_is_written(tmp_path: Path, index: FaceIndex) -> None:
    before = sorted(tmp_path.rglob("*"))
    dataclasses.replace(index, path=None).save()
    assert sorted(tmp_path.rglob("*")) == before
