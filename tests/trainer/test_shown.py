"""Which photos and faces a report shows: rankings by hand, faces where they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderKL

from trainer.judge.pictures import with_model
from trainer.judge.regions import FACES, RegionScore
from trainer.judge.scores import PhotoScore
from trainer.judge.set_scores import SMALL, assemble, score_set
from trainer.judge.shown import open_shown, ranked_by_faces, spread
from trainer.photos.photo_set import PhotoSet
from trainer.report.close_ups import SIDE, enlarged


def faced(id: str, psnr: float, lpips: float | None = None) -> PhotoScore:
    return PhotoScore(id, id, psnr=20.0, regions={FACES: RegionScore(1, psnr, None, lpips)})


def test_faces_are_ranked_by_the_perceptual_distance_and_by_psnr_without() -> None:
    first = [faced("a", 20, 0.3), faced("b", 20, 0.3), faced("c", 20, 0.3), PhotoScore("d", "")]
    second = [faced("a", 21, 0.4), faced("b", 20, 0.2), faced("c", 19, 0.3), PhotoScore("d", "")]
    assert ranked_by_faces(first, second, FACES) == ["b", "c", "a"]
    bare = [[faced(s.id, s.regions[FACES].psnr) for s in scores[:3]] for scores in (first, second)]
    assert ranked_by_faces(*bare, FACES) == ["a", "b", "c"]
    assert ranked_by_faces(first, second, SMALL) == []


def test_a_spread_has_first_and_last() -> None:
    ids = [str(i) for i in range(100)]
    chosen = spread(ids, 12)
    assert (chosen[0], chosen[-1], len(set(chosen))) == ("0", "99", 12)
    assert spread(ids[:5], 12) == ids[:5]


def shown(vae: AutoencoderKL, photos: PhotoSet) -> list:
    first = assemble(score_set(vae, photos, None, device="cpu", eval_resolution=64))
    last = [
        replace(s, regions={n: replace(r, psnr=r.psnr - i) for n, r in s.regions.items()})
        for i, s in enumerate(first)
    ]
    return open_shown({"val": photos}, {"val": first}, {"val": last}, 64, 8)


def test_small_faces_are_shown_from_their_sheet(
    small_vae: AutoencoderKL, portraits: PhotoSet
) -> None:
    pictures = shown(small_vae, portraits)
    *photos, sheet = pictures
    assert len(photos) == 6 and all(picture.whole for picture in photos)
    assert [one.region for p in photos for one in p.close_ups] == [FACES] * 5
    assert not sheet.whole and sheet.original.shape == (512, 512, 3)
    assert {one.id for one in sheet.close_ups} == {p.id for p in portraits.photos if p.faces}
    (made,) = with_model([sheet], "base", small_vae, "cpu")
    assert made.close_ups == sheet.close_ups and made.models["base"].shape == (512, 512, 3)
    for one in sheet.close_ups:  # the same face, from the sheet and from its photo
        (photo,) = (p for p in portraits.photos if p.id == one.id)
        x, y, w, h = photo.faces[0]
        image = np.asarray(portraits.image(portraits.photos.index(photo)))
        face = enlarged(image, one._replace(box=(x, y, w, h))).astype(float)
        again = enlarged(sheet.original, one).astype(float)
        assert again.shape == (SIDE, SIDE, 3)
        assert np.abs(face - again).mean() < 16
        assert np.corrcoef(face.ravel(), again.ravel())[0, 1] > 0.95


def test_a_photo_that_is_gone_is_not_shown(
    small_vae: AutoencoderKL, portraits: PhotoSet, tmp_path: Path
) -> None:
    first = assemble(score_set(small_vae, portraits, None, device="cpu", eval_resolution=64))
    gone = next(photo for photo in portraits.photos if photo.faces)
    (tmp_path / "portraits" / gone.name).unlink()
    pictures = open_shown({"val": portraits}, {"val": first}, {"val": list(first)}, 64, 8)
    assert gone.id not in {p.id for p in pictures}
    assert gone.id not in {one.id for p in pictures for one in p.close_ups}


@pytest.mark.parametrize("same", [True, False])
def test_of_one_model_no_faces_lost_most(
    small_vae: AutoencoderKL, portraits: PhotoSet, same: bool
) -> None:
    scores = assemble(score_set(small_vae, portraits, None, device="cpu", eval_resolution=64))
    last = scores if same else list(scores)
    pictures = open_shown({"val": portraits}, {"val": scores}, {"val": last}, 64, 8)
    regions = {one.region for p in pictures for one in p.close_ups}
    assert regions == ({SMALL} if same else {FACES, SMALL})
