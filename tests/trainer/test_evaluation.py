"""Evaluation against diffusers, numpy and scikit-image, and means against numbers by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter
from skimage import data
from skimage.metrics import structural_similarity

from trainer.errors import UserError
from trainer.judge.evaluation import (
    multiple_for,
    reconstruct,
    score_photos,
    summarise,
    view,
)
from trainer.judge.perceptual import encoder_features, load_perceptual
from trainer.judge.pictures import open_pictures, with_model
from trainer.judge.regions import RegionScore, sharpness
from trainer.judge.scores import PhotoScore, compare
from trainer.photos.photo_set import PhotoSet
from trainer.photos.skips import SkippedPhoto
from trainer.photos.sources import open_photos

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def photos(tmp_path: Path) -> PhotoSet:
    """Four real photos of different sizes, none a multiple of 8."""
    folder = tmp_path / "photos"
    folder.mkdir()
    sources = {"cat": data.chelsea, "coffee": data.coffee, "person": data.astronaut}
    for i, (name, load) in enumerate(sources.items()):
        Image.fromarray(load()).resize((75 + 10 * i, 61 + i)).save(folder / f"{name}.png")
    Image.fromarray(data.rocket()).resize((43, 90)).save(folder / "rocket.png")
    return open_photos(str(folder), 8)


def score_all(vae: AutoencoderKL, photos: PhotoSet, **options: object) -> list[PhotoScore]:
    """Score on the CPU at full size."""
    return score_photos(
        vae, photos, options.pop("perceptual", None), device="cpu", eval_resolution=512, **options
    )


# Seeing


def test_a_small_photo_is_cropped_around_its_centre_but_never_enlarged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (61, 103, 3), np.uint8)
    seen, faces = view(Image.fromarray(pixels), [(10, 10, 20, 30)], 512, 8)
    assert np.array_equal(seen, pixels[2:58, 3:99])
    assert faces == [(7, 8, 20, 30)]


def test_a_large_photo_is_reduced_on_its_short_side_and_its_faces_with_it() -> None:
    seen, faces = view(Image.new("RGB", (400, 200)), [(80, 80, 40, 60)], 50, 8)
    assert seen.shape == (48, 96, 3)
    assert faces == [(20 - 2, 20 - 1, 10, 15)]


def test_reducing_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    seen, _ = view(Image.fromarray(stripes), None, 64, 8)
    assert np.abs(seen[:, 4:-4].astype(int) - 127).max() <= 2


def test_a_face_that_the_crop_takes_away_is_no_face_and_one_cut_in_part_is_clipped() -> None:
    image = Image.new("RGB", (100, 64))  # 2 pixels go at either side
    _, faces = view(image, [(0, 0, 3, 10), (0, 0, 20, 10)], 512, 8)
    assert faces == [(0, 0, 18, 10)]


def test_nobody_looked_for_faces_is_not_the_same_as_none_found() -> None:
    image = Image.new("RGB", (64, 64))
    assert view(image, None, 64, 8)[1] is None
    assert view(image, [], 64, 8)[1] == []


def test_a_photo_smaller_than_one_latent_cell_is_skipped_with_its_size() -> None:
    with pytest.raises(SkippedPhoto, match="too small: 64 x 7 px"):
        view(Image.new("RGB", (64, 7)), None, 512, 8)


def test_crops_suit_a_vae_that_reduces_more_than_eightfold(tiny_vae: AutoencoderKL) -> None:
    blocks = {
        "block_out_channels": (4,) * 5,
        "down_block_types": ("DownEncoderBlock2D",) * 5,
        "up_block_types": ("UpDecoderBlock2D",) * 5,
    }
    assert multiple_for(tiny_vae) == 8
    assert multiple_for(AutoencoderKL(**blocks, norm_num_groups=2)) == 16


# Scoring


@torch.inference_mode()
def by_hand(vae: AutoencoderKL, pixels: np.ndarray) -> np.ndarray:
    """Reconstruct through diffusers' own encode and decode; 8 bits."""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample
    return ((y[0].permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255).round().astype(np.uint8)


def test_figures_are_those_of_the_mode_rounded_to_bytes(
    tiny_vae: AutoencoderKL, photos: PhotoSet
) -> None:
    scores = score_all(tiny_vae, photos)
    assert len(scores) == 4
    for i, score in enumerate(scores):
        photo, _ = view(photos.image(i), None, 512, 8)
        decoded = by_hand(tiny_vae, photo)
        error = (decoded.astype(float) - photo) / 255
        assert score.psnr == pytest.approx(-10 * math.log10(np.square(error).mean()), abs=0.01)
        assert score.channel_error == pytest.approx(error.mean((0, 1)), abs=1e-4)
        similarity = structural_similarity(
            decoded, photo, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=255, channel_axis=-1,
        )  # fmt: skip
        assert score.ssim == pytest.approx(similarity, abs=1e-3)
        assert (score.name, score.id) == (photos.photos[i].name, photos.photos[i].id)
        assert (score.height, score.width) == photo.shape[:2]
        assert score.lpips is None and score.encoder_distance is None


def test_evaluating_twice_gives_the_same_as_nothing_is_drawn(
    tiny_vae: AutoencoderKL, photos: PhotoSet
) -> None:
    assert score_all(tiny_vae, photos) == score_all(tiny_vae, photos)


def test_processes_share_the_photos_out(tiny_vae: AutoencoderKL, photos: PhotoSet) -> None:
    parts = [score_all(tiny_vae, photos, rank=rank, world=3) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    together = sorted((score for part in parts for score in part), key=lambda score: score.id)
    assert together == sorted(score_all(tiny_vae, photos), key=lambda score: score.id)


def test_a_stop_is_seen_between_photos(tiny_vae: AutoencoderKL, photos: PhotoSet) -> None:
    done: list[int] = []
    scores = score_all(
        tiny_vae, photos, should_stop=lambda: len(done) == 2, progress=lambda: done.append(1)
    )
    assert len(scores) == 2


def test_a_photo_that_vanished_is_counted_and_the_others_are_scored(
    tiny_vae: AutoencoderKL, photos: PhotoSet, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "cat.png").unlink()
    scores = score_all(tiny_vae, photos)
    assert {score.name: score.skipped for score in scores if score.skipped} == {
        "cat.png": "unreadable"
    }
    assert summarise(scores)["all"]["n"] == 3


def test_the_stand_in_for_lpips_has_a_name_of_its_own(
    tiny_vae: AutoencoderKL, photos: PhotoSet
) -> None:
    perceptual = encoder_features(tiny_vae, "cpu")
    whole = summarise(score_all(tiny_vae, photos, perceptual=perceptual))["all"]
    assert whole["lpips"] is None
    assert whole["encoder_distance"] > 0


def test_lpips_is_of_the_rounded_prediction(
    tiny_vae: AutoencoderKL, photos: PhotoSet, assets: Path
) -> None:
    weights = assets / "models" / "lpips_squeeze.safetensors"
    lpips = load_perceptual("squeeze", str(weights), False, tiny_vae, "cpu")
    score = score_all(tiny_vae, photos.subset([0]), perceptual=lpips)[0]
    photo, _ = view(photos.image(0), None, 512, 8)
    pair = [by_hand(tiny_vae, photo), photo]
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None] / 127.5 - 1 for p in pair)
    assert score.lpips == pytest.approx(float(lpips.distance(x, y)), abs=1e-3)
    assert score.encoder_distance is None


def test_a_model_that_gives_nan_has_null_figures(tiny_vae: AutoencoderKL, photos: PhotoSet) -> None:
    tiny_vae.decoder.conv_out.bias.data[1] = NAN
    summary = summarise(score_all(tiny_vae, photos, perceptual=encoder_features(tiny_vae, "cpu")))
    assert summary["all"]["n"] == 4
    assert summary["all"]["psnr"] is None and summary["all"]["ssim"] is None
    json.dumps(summary, allow_nan=False)


def test_what_is_reconstructed_are_whole_levels_of_8_bits(tiny_vae: AutoencoderKL) -> None:
    x = reconstruct(tiny_vae, data.chelsea()[:64, :64], "cpu")
    assert torch.equal(x, (x * 255).round() / 255)
    assert x.min() >= 0 and x.max() <= 1


def test_a_vae_of_grey_pictures_is_measured_on_grey(photos: PhotoSet) -> None:
    blocks = {"norm_num_groups": 2, "block_out_channels": (4,)}
    grey = AutoencoderKL(in_channels=1, out_channels=1, **blocks).eval()
    photos = photos.subset([0])
    score = score_all(grey, photos, perceptual=encoder_features(grey, "cpu"))[0]
    expected = np.asarray(photos.image(0).crop((0, 0, score.width, score.height)).convert("L"))
    assert len(score.channel_error) == 1 and score.psnr > 0 and score.encoder_distance > 0
    picture = with_model(open_pictures(photos, [score.id], 512, 8, "val"), "x", grey, "cpu")[0]
    assert picture.models["x"].shape == picture.original.shape
    assert np.ptp(picture.models["x"], axis=-1).max() == 0
    error = picture.models["x"][..., 0].mean() / 255 - score.channel_error[0]
    assert error == pytest.approx(expected.mean() / 255, abs=0.02)
    with pytest.raises(UserError, match="this one has 4"):
        score_all(AutoencoderKL(in_channels=4, out_channels=4, **blocks), photos)


def test_sharpness_tells_soft_from_hard() -> None:
    image = Image.fromarray(data.chelsea())
    photo, soft = (
        torch.from_numpy(np.array(i)).permute(2, 0, 1)[None] / 255
        for i in (image, image.filter(ImageFilter.GaussianBlur(2)))
    )
    assert sharpness(photo, photo) == 1
    assert sharpness(soft, photo) < 0.5
    assert sharpness(photo, soft) > 2
    assert sharpness(photo, torch.zeros_like(photo)) is None


# Means


def scored(id: str, psnr: float | None, **figures: object) -> PhotoScore:
    """Make a score by hand."""
    return PhotoScore(id, f"{id}.png", psnr=psnr, channel_error=(0.1, 0.0, -0.2), **figures)


def test_means_are_over_photos_and_regions_that_occur() -> None:
    face = {"faces": RegionScore(2, 20.0, 0.5, lpips=0.1), "background": RegionScore(0, 40.0, 0.9)}
    scores = [
        scored("a", 30.0, ssim=0.8, lpips=0.2, faces=2, regions=face),
        scored("b", 20.0, ssim=0.6, lpips=0.4, faces=0),
        PhotoScore("c", "c.png", skipped="damaged"),
    ]
    assert summarise(scores) == {
        "all": {
            "n": 2,
            "psnr": 25.0,
            "ssim": pytest.approx(0.7),
            "lpips": pytest.approx(0.3),
            "channel_error": [0.1, 0.0, -0.2],
            "sharpness": None,
        },
        "faces": {"n": 1, "faces": 2, "psnr": 20.0, "ssim": 0.5, "lpips": 0.1},
        "background": {"n": 1, "psnr": 40.0, "ssim": 0.9, "lpips": None},
    }
    assert summarise(scores[2:]) == {}


def test_nan_spoils_a_mean_while_identical_photos_and_missing_figures_are_left_out() -> None:
    assert summarise([scored("a", 30.0), scored("b", NAN)])["all"]["psnr"] is None
    same = summarise([scored("a", 30.0, ssim=None), scored("b", INF, ssim=0.5)])["all"]
    assert (same["psnr"], same["ssim"], same["identical"]) == (30.0, 0.5, 1)


def test_two_models_are_compared_on_the_photos_that_both_were_scored_on() -> None:
    first = [scored("a", 20.0, lpips=0.2), scored("b", 21.0, lpips=0.2), scored("x", 1.0)]
    second = [scored("b", 20.5, lpips=0.1), scored("a", 22.0, lpips=0.1), scored("y", 99.0)]
    found = compare(first, second)["all"]
    assert found["psnr"] == {
        "n": 2, "difference": 0.75, "interval": None, "better": 1, "worse": 1, "share_better": 0.5,
    }  # fmt: skip
    assert found["lpips"]["difference"] == pytest.approx(-0.1)
    assert found["lpips"]["relative"] == pytest.approx(-0.5)
    assert (found["lpips"]["better"], found["lpips"]["worse"]) == (2, 0)
    assert "ssim" not in found


def test_regions_are_compared_on_the_photos_that_have_them_for_both_models() -> None:
    def faced(id: str, lpips: float | None) -> PhotoScore:
        return scored(id, 20.0, regions={"faces_small": RegionScore(1, 15.0, None, lpips=lpips)})

    first = [faced("a", 0.4), faced("b", 0.2), faced("c", 0.1), scored("d", 20.0)]
    second = [faced("a", 0.3), faced("b", 0.1), faced("c", None), faced("d", 0.0)]
    found = compare(first, second)
    assert set(found) == {"all", "faces_small"}
    assert found["faces_small"]["psnr"]["n"] == 3
    lpips = found["faces_small"]["lpips"]
    assert (lpips["n"], lpips["share_better"]) == (2, 1.0)
    assert lpips["difference"] == pytest.approx(-0.1)
    assert lpips["relative"] == pytest.approx(0.2 / 0.3 - 1)


def test_an_interval_is_of_the_mean_over_photos() -> None:
    first = [scored(str(i), 20.0, lpips=0.2) for i in range(64)]
    second = [scored(str(i), 21.0 + (i % 2), lpips=0.1) for i in range(64)]
    found = compare(first, second)["all"]
    half = 1.96 * np.std([1.0, 2.0] * 32) / 8
    assert found["psnr"]["interval"] == pytest.approx([1.5 - half, 1.5 + half], abs=0.1 * half)
    assert found["lpips"]["relative_interval"] == pytest.approx([-0.5, -0.5])
