"""Sheets of small faces: their layout by hand, their figures against photos scored alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from trainer.judge.evaluation import reconstruct, score_photos
from trainer.judge.perceptual import encoder_features
from trainer.judge.scores import PhotoScore, summarise
from trainer.judge.set_scores import SMALL, assemble, count_views, score_set
from trainer.judge.sheets import (
    CANVAS,
    ENOUGH,
    GREY,
    count_small,
    draw,
    faces_at,
    lay_out,
    plan_sheets,
    reduced,
)
from trainer.photos.photo_set import Photo, PhotoSet
from vae_core.compare.figures import square
from vae_core.compare.pairs import Box


def photo(id: str, width: int, height: int, *faces: tuple[float, ...]) -> Photo:
    return Photo(id, f"{id}.png", width, height, faces)


def score_all(vae: AutoencoderKL, photos: PhotoSet, **options: object) -> list[PhotoScore]:
    return assemble(score_set(vae, photos, None, device="cpu", eval_resolution=64, **options))


# Layout


def test_a_photo_is_reduced_until_its_largest_face_is_48_px_high() -> None:
    assert reduced(photo("a", 800, 600, (0, 0, 50, 60), (100, 0, 150, 240)), 512) == (160, 120)


def test_a_photo_is_never_enlarged_and_never_larger_than_the_sheet() -> None:
    assert reduced(photo("a", 200, 100, (0, 0, 20, 30)), 512) == (200, 100)
    assert reduced(photo("a", 2048, 1024, (0, 0, 50, 60)), 512) == (512, 256)


def test_photos_lie_in_rows_in_the_order_of_their_ids_whatever_theirs_in_the_set() -> None:
    face = (0, 0, 10, 48)
    photos = [photo("c", 300, 100, face), photo("a", 300, 200, face), photo("b", 200, 150, face)]
    photos += [photo("d", 212, 312, face), photo("e", 10, 10, face), photo("0", 90, 90)]
    sheets = lay_out(photos, 512)
    assert [[(photos[p.index].id, *p[1:]) for p in sheet] for sheet in sheets] == [
        [("a", 0, 0, 300, 200), ("b", 300, 0, 200, 150), ("c", 0, 200, 300, 100),
         ("d", 300, 200, 212, 312)],
        [("e", 0, 0, 10, 10)],
    ]  # fmt: skip
    order = [4, 2, 0, 5, 1, 3]
    again = lay_out([photos[i] for i in order], 512)
    assert [[(order[p.index], *p[1:]) for p in s] for s in again] == [
        list(map(tuple, s)) for s in sheets
    ]


def test_nothing_overlaps_and_nothing_is_cut() -> None:
    draws = np.random.default_rng(0).integers(40, 1500, (60, 3))
    photos = [
        photo(f"{i:02}", int(w), int(h), (0, 0, 20, min(int(face), int(h))))
        for i, (w, h, face) in enumerate(draws)
    ]
    sheets = lay_out(photos, CANVAS)
    for sheet in sheets:
        taken = np.zeros((CANVAS, CANVAS), int)
        for place in sheet:
            part = taken[place.top :, place.left :][: place.height, : place.width]
            assert part.shape == (place.height, place.width)
            part += 1
        assert taken.max() == 1
    assert sorted(p.index for sheet in sheets for p in sheet) == list(range(60))


def test_sheets_are_made_only_where_the_photos_show_too_few_small_faces() -> None:
    crowd = [(20.0 * i, 0.0, 10.0, 63.0) for i in range(ENOUGH)]
    assert plan_sheets([photo("a", 640, 640, *crowd)], 640, 8) == []
    assert len(plan_sheets([photo("a", 640, 640, *crowd[1:])], 640, 8)) == 1
    assert (
        plan_sheets([photo("a", 640, 640), replace(photo("b", 64, 64), faces=None)], 640, 8) == []
    )
    half = [photo("a", 640, 640, (0, 0, 80, 100))]  # small where it is seen at half its size
    assert [count_small(half, side, 8) for side in (640, 320)] == [0, 1]


def test_a_sheet_holds_the_photos_reduced_and_grey_between_them(portraits: PhotoSet) -> None:
    (sheet,) = lay_out(portraits.photos, 512)
    canvas, drawn = draw(portraits, sheet, 512)
    assert drawn == sheet and len(sheet) == 5
    place = sheet[1]
    image = portraits.image(place.index).resize(
        (place.width, place.height), Image.Resampling.LANCZOS
    )
    cut = canvas[place.top : place.top + place.height, place.left : place.left + place.width]
    assert np.array_equal(cut, np.asarray(image))
    assert (canvas[max(p.top + p.height for p in sheet) :] == GREY).all()
    ((x, y, w, h),) = faces_at(portraits.photos[place.index], place)
    assert h == pytest.approx(48, abs=0.5) and w == pytest.approx(48 * 110 / 130, abs=0.5)


def test_a_photo_that_vanished_leaves_its_place_grey(portraits: PhotoSet) -> None:
    (sheet,) = lay_out(portraits.photos, 512)
    gone = sheet[0]
    broken = replace(portraits, keys=list(portraits.keys))
    broken.keys[gone.index] = "no such photo"
    canvas, drawn = draw(broken, sheet, 512)
    assert drawn == sheet[1:]
    assert (canvas[: gone.height, : gone.width] == GREY).all()


# Figures


def test_small_faces_come_from_the_sheet_photo_by_photo(
    small_vae: AutoencoderKL, portraits: PhotoSet
) -> None:
    perceptual = encoder_features(small_vae, "cpu")
    found = score_set(small_vae, portraits, perceptual, device="cpu", eval_resolution=512)
    scores = {score.id: score for score in assemble(found)}
    (sheet,) = plan_sheets(portraits.photos, 512, 8)
    canvas, _ = draw(portraits, sheet, 512)
    made = (reconstruct(small_vae, canvas, "cpu")[0].permute(1, 2, 0) * 255).round().numpy()
    for place in sheet:
        seen = portraits.photos[place.index]
        ((x, y, w, h),) = faces_at(seen, place)
        rows = slice(place.top + round(y), place.top + round(y + h))
        columns = slice(place.left + round(x), place.left + round(x + w))
        error = np.square(made[rows, columns] / 255 - canvas[rows, columns] / 255).mean()
        small = scores[seen.id].regions[SMALL]
        assert small.psnr == pytest.approx(-10 * np.log10(error), rel=1e-5)
        whole = [torch.from_numpy(im / 255).float().permute(2, 0, 1)[None] for im in (made, canvas)]
        box = Box(place.left + x, place.top + y, w, h)
        parts = [square(image, box) * 2 - 1 for image in whole]
        assert small.encoder_distance == pytest.approx(float(perceptual.distance(*parts)), rel=1e-3)
        assert (small.faces, small.sheet) == (1, 0)


def test_everything_but_small_faces_is_as_without_sheets(
    small_vae: AutoencoderKL, portraits: PhotoSet
) -> None:
    # at 64 px the faces are small in the photos too: those figures make room for the sheets'
    alone = score_photos(small_vae, portraits, None, device="cpu", eval_resolution=64)
    together = score_all(small_vae, portraits)
    assert [s.id for s in together] == sorted(s.id for s in alone)
    for score in alone:
        other = next(s for s in together if s.id == score.id)
        assert replace(other, regions={}) == replace(score, regions={})
        assert other.regions.keys() == score.regions.keys()
        for name in score.regions:
            assert (other.regions[name] == score.regions[name]) == (name != SMALL)
    summary = summarise(together)
    assert (summary[SMALL]["n"], summary[SMALL]["faces"], summary[SMALL]["from_sheets"]) == (
        5,
        5,
        1,
    )
    assert "from_sheets" not in summary["faces"]


@pytest.mark.parametrize("world", [2, 4])
def test_photos_and_sheets_are_shared_out_evenly(
    small_vae: AutoencoderKL, portraits: PhotoSet, world: int
) -> None:
    calls = [0] * world
    found = []
    for rank in range(world):

        def count(rank: int = rank) -> None:
            calls[rank] += 1

        found += score_set(
            small_vae, portraits, None, device="cpu", eval_resolution=64,
            rank=rank, world=world, progress=count,
        )  # fmt: skip
    assert assemble(found) == score_all(small_vae, portraits)
    assert sum(calls) == count_views(portraits, 64, 8) == 7
    assert max(calls) - min(calls) <= 1


def test_a_stop_keeps_what_was_measured(small_vae: AutoencoderKL, portraits: PhotoSet) -> None:
    assert score_all(small_vae, portraits, should_stop=lambda: True) == []
