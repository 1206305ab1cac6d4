"""Figures of pairs against scikit-image and float64 by hand; and their text."""

import csv
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vae_core.compare import figure_text, figures
from vae_core.compare.figures import Figures, PairFigures, measure
from vae_core.compare.pairs import Box, Pair, match, pair

NAN = math.nan


def make_pair(strength: float = 0.05, mask: torch.Tensor | None = None) -> Pair:
    """A real photo of 96 x 101 pixels and a noisy copy, brighter in red."""
    photo = torch.from_numpy(np.ascontiguousarray(data.astronaut()[40:136, 180:281])) / 255.0
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0)) * strength
    noise[..., 0] += strength
    return pair(match(photo[None], photo[None] + noise, mask), 0)


def in_float64(taken: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Original and reconstruction, [H, W, 3]."""
    return tuple(p[0].movedim(0, -1).double().numpy() for p in (taken.y, taken.x))


def some_mask() -> torch.Tensor:
    mask = torch.zeros(96, 101, dtype=torch.bool)
    mask[20:70, 30:60] = True
    mask[40:50, 40:45] = False
    return mask


def test_whole_pictures_as_scikit_image_and_by_hand() -> None:
    taken = make_pair()
    y, x = in_float64(taken)
    got = measure(taken).whole
    assert got.psnr == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), abs=1e-5)
    similarity = structural_similarity(
        y, x, gaussian_weights=True, use_sample_covariance=False, data_range=1, channel_axis=-1
    )
    assert got.ssim == pytest.approx(similarity, abs=1e-6)
    assert got.mse == pytest.approx(((x - y) ** 2).mean(), rel=1e-9)
    assert got.mae == pytest.approx(np.abs(x - y).mean(), rel=1e-9)
    assert got.maximum == pytest.approx(np.abs(x - y).max(), rel=1e-9)
    shift = (x - y).mean((0, 1))
    assert [got.red, got.green, got.blue] == pytest.approx(shift.tolist(), abs=1e-9)
    assert got.red > 0.02 and got.lpips is None


@pytest.mark.parametrize("region", ["inside", "outside"])
def test_regions_as_pooled_pixels(region: str) -> None:
    mask = some_mask()
    taken = make_pair(mask=mask.float()[None])
    y, x = in_float64(taken)
    chosen = (mask if region == "inside" else ~mask).numpy()
    got = getattr(measure(taken), region)
    errors = (x - y)[chosen]
    assert got.mse == pytest.approx((errors**2).mean(), rel=1e-9)
    assert got.psnr == pytest.approx(10 * np.log10(1 / (errors**2).mean()), abs=1e-5)
    assert got.mae == pytest.approx(np.abs(errors).mean(), rel=1e-9)
    assert got.maximum == pytest.approx(np.abs(errors).max(), rel=1e-9)
    assert [got.red, got.green, got.blue] == pytest.approx(errors.mean(0).tolist(), abs=1e-9)
    full = structural_similarity(
        y, x, gaussian_weights=True, use_sample_covariance=False, data_range=1, channel_axis=-1,
        full=True,
    )[1].mean(-1)  # fmt: skip
    seen = np.zeros_like(chosen)
    seen[5:-5, 5:-5] = chosen[5:-5, 5:-5]
    assert got.ssim == pytest.approx(full[seen].mean(), abs=1e-6)


def test_box_of_the_mask() -> None:
    assert measure(make_pair(mask=some_mask().float()[None])).box == Box(30, 20, 30, 50)
    assert measure(make_pair()).box is None


def test_identical_pictures() -> None:
    got = measure(make_pair(0.0))
    assert got.identical and got.whole.psnr == math.inf
    assert got.whole.ssim == pytest.approx(1) and got.whole.mse == got.whole.maximum == 0


def test_what_cannot_be_had_is_none_and_never_zero() -> None:
    tiny = pair(match(torch.zeros(1, 10, 20, 3), torch.ones(1, 10, 20, 3)), 0)
    got = measure(tiny).whole
    assert got.ssim is None and got.lpips is None and got.psnr == 0.0
    empty = measure(make_pair(mask=torch.zeros(1, 96, 101)))
    assert empty.inside == Figures() and empty.box is None
    assert empty.outside is not None and empty.outside.psnr == empty.whole.psnr
    full = measure(make_pair(mask=torch.ones(1, 96, 101)))
    assert full.outside == Figures() and full.inside.psnr == full.whole.psnr


def test_a_lost_pixel_gives_nan_where_it_is() -> None:
    photo = make_pair(mask=some_mask().float()[None])
    broken = photo.x.clone()
    broken[0, 1, 80, 90] = torch.nan
    got = measure(photo._replace(x=broken, lost=1))
    assert all(math.isnan(v) for v in (got.whole.psnr, got.whole.ssim, got.whole.maximum))
    assert math.isnan(got.whole.green) and not math.isnan(got.whole.red)
    assert math.isnan(got.outside.psnr) and got.inside.psnr == measure(photo).inside.psnr
    assert not got.identical


def test_the_square_around_a_box_is_never_stretched() -> None:
    """A chessboard keeps its fields square: as many edges across as down."""
    field = (torch.arange(64)[:, None] // 8 + torch.arange(80) // 8) % 2
    picture = field.float().expand(1, 3, 64, 80)
    for box in (Box(20, 10, 8, 30), Box(70, 50, 10, 14), Box(0, 0, 80, 64)):
        part = figures.square(picture, box)
        assert part.shape == (1, 3, 128, 128)
        side = min(round(max(box.width, box.height) * 1.25), 64)
        across = (part[0, 0, 2] > 0.5).float().diff().abs().sum()
        down = (part[0, 0, :, 2] > 0.5).float().diff().abs().sum()
        assert abs(across - side / 8) <= 1 and abs(down - side / 8) <= 1


# Batches


def entry(psnr: float | None, **more: float | None) -> PairFigures:
    return PairFigures(Figures(psnr=psnr, **more), None, None, None, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([20.0, 30.0], 25.0),
        ([20.0, None], 20.0),
        ([20.0, math.inf], 20.0),
        ([math.inf, math.inf], math.inf),
        ([None], None),
        ([], None),
        ([20.0, NAN], NAN),
        ([math.inf, NAN], NAN),
    ],
)
def test_means(values: list[float | None], expected: float | None) -> None:
    got = figures.mean(values)
    assert got == expected or (math.isnan(expected) and math.isnan(got))


def test_a_batch_has_means_and_the_largest_maximum() -> None:
    both = [entry(20.0, maximum=0.25, red=0.1), entry(30.0, maximum=0.75, red=-0.2)]
    got = figure_text.batch(both).whole
    assert (got.psnr, got.maximum, got.red) == (25.0, 0.75, pytest.approx(-0.05))
    assert math.isnan(figure_text.batch([*both, entry(1.0, maximum=NAN)]).whole.maximum)


def test_csv_reads_back() -> None:
    rows = [entry(20.123456789, ssim=0.5, maximum=1.0), entry(math.inf, ssim=NAN, mse=0.0)]
    table = list(csv.DictReader(io.StringIO(figure_text.to_csv(rows, (24, 32), "squeeze"))))
    assert [row["image"] for row in table] == ["1", "2", "batch"]
    assert float(table[0]["psnr"]) == pytest.approx(20.123456789, rel=1e-6)
    assert table[0]["width"] == "32" and table[0]["height"] == "24"
    assert table[1]["psnr"] == table[1]["ssim"] == table[1]["lpips"] == ""
    assert table[1]["identical"] == "true" and table[1]["mse"] == "0.0"
    assert table[2]["ssim"] == "" and table[0]["lpips_net"] == "squeeze"
    assert "inside_psnr" not in table[0]


def test_csv_of_masked_pairs_has_regions() -> None:
    text = figure_text.to_csv([measure(make_pair(mask=some_mask().float()[None]))], (96, 101), None)
    row = next(csv.DictReader(io.StringIO(text)))
    assert set(figure_text.COLUMNS) < set(row)
    assert float(row["inside_psnr"]) > 0 and row["outside_lpips"] == "" == row["lpips_net"]


def test_json_says_null_where_there_is_no_number() -> None:
    def no_constant(word: str) -> None:
        raise AssertionError(word)

    rows = [entry(math.inf, mse=0.0, ssim=NAN), entry(20.0)]
    text = figure_text.to_json(rows, {"gain": NAN})
    document = json.loads(text, parse_constant=no_constant)
    assert document["gain"] is None and document["count"] == 2
    assert document["images"][0]["psnr"] is None and document["images"][0]["identical"] is True
    assert document["batch"]["psnr"] == 20.0 and document["batch"]["ssim"] is None
    assert "inside" not in document["images"][0]


def test_json_of_a_region() -> None:
    one = measure(make_pair(mask=some_mask().float()[None]))
    document = json.loads(figure_text.to_json([one, one], {}))
    assert document["images"][1]["box"] == {"left": 30, "top": 20, "width": 30, "height": 50}
    assert document["images"][0]["inside"]["psnr"] == pytest.approx(one.inside.psnr, rel=1e-6)
    assert set(document["batch"]["outside"]["colour_shift"]) == {"red", "green", "blue"}


def test_a_column_has_a_number_per_pair() -> None:
    rows = [entry(20.0), entry(None), entry(math.inf)]
    got = figure_text.column(rows, "psnr")
    assert got[0] == 20.0 and math.isnan(got[1]) and got[2] == math.inf
    assert all(math.isnan(value) for value in figure_text.column(rows, "inside_ssim"))


# LPIPS, with real weights

ASSETS = os.environ.get("VAE_LAB_ASSETS")
WEIGHTS = Path(ASSETS or "") / "models" / "lpips_squeeze.safetensors"


@pytest.fixture(scope="module")
def squeeze() -> figures.Perceptual:
    if not ASSETS or not WEIGHTS.is_file():
        pytest.skip("LPIPS needs VAE_LAB_ASSETS with models/lpips_squeeze.safetensors")
    from vae_core.checkpoint import read_tensors
    from vae_core.lpips import prepare

    return figures.Perceptual("squeeze", prepare(read_tensors(WEIGHTS)))


def test_lpips_has_its_published_figure(squeeze: figures.Perceptual) -> None:
    """The check of the weights: two batches of noise, mean distance 0.1008."""
    seed = torch.Generator().manual_seed(123)
    x, y = (torch.rand(10, 3, 100, 100, generator=seed) for _ in range(2))
    got = [figures.distance(x[i : i + 1], y[i : i + 1], squeeze) for i in range(10)]
    assert sum(got) / 10 == pytest.approx(0.1008, abs=2e-4)


def test_lpips_of_pairs(squeeze: figures.Perceptual) -> None:
    near, far = (measure(make_pair(s, some_mask().float()[None]), squeeze) for s in (0.02, 0.2))
    assert 0 < near.whole.lpips < far.whole.lpips and 0 < near.inside.lpips < far.inside.lpips
    assert near.outside.lpips is None
    assert measure(make_pair(0.0), squeeze).whole.lpips == pytest.approx(0, abs=1e-6)


def test_lpips_of_what_is_too_small_or_lost(squeeze: figures.Perceptual) -> None:
    small = torch.rand(1, 3, 16, 40)
    assert figures.distance(small, small, squeeze) is None
    lost = torch.full((1, 3, 32, 32), torch.nan)
    assert math.isnan(figures.distance(lost, lost, squeeze))


def test_lpips_map_has_the_size_of_the_picture(squeeze: figures.Perceptual) -> None:
    taken = make_pair()
    broken = taken.x.clone()
    broken[0, 0, 0, 0] = torch.nan
    mapped = figures.distance_map(broken, taken.y, squeeze)
    assert mapped.shape == (96, 101) and mapped.isfinite().all()
