"""VAE Reconstruct: one trip is core's encode and decode, N trips are that N times over."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from pictures import picture

SAVE_IMAGE = "8 bits, as Save Image"
ROUNDED = "8 bits, rounded"
PAD = "pad and crop back"


@pytest.fixture
def chain(node, vae):
    """Core's own nodes, chained by hand as users do (nine pairs of them, and more)."""

    def through(images, trips, between=lambda images: images):
        results = []
        with torch.inference_mode():
            for _ in range(trips):
                latent = node("VAEEncode")().encode(vae, images)[0]
                results.append(node("VAEDecode")().decode(vae, latent)[0])
                images = between(results[-1])
        return results, latent["samples"]

    return through


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def psnr(x, y):
    """By hand, in float64, of what 8-bit files would hold."""
    x, y = (np.round(i.clamp(0, 1).double().numpy() * 255) / 255 for i in (x, y))
    return -10 * math.log10(((x - y) ** 2).mean())


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1), ((70, 93), 2), ((41, 64), 3)])
def test_one_trip_equals_core_bit_for_bit(reconstruct, chain, size, count):
    images = picture(*size, count)
    image, trips, latent, *_ = reconstruct(images)
    (theirs,), samples = chain(images, 1)
    assert torch.equal(image, theirs) and torch.equal(trips, theirs)
    assert torch.equal(latent["samples"], samples)


def test_nine_trips_equal_nine_pairs_of_core_s_nodes(reconstruct, chain):
    images = picture(48, 64)
    image, trips, latent, first, last, *_ = reconstruct(images, trips=9)
    theirs, samples = chain(images, 9)
    assert torch.equal(trips, torch.cat(theirs)) and torch.equal(image, theirs[-1])
    assert torch.equal(latent["samples"], samples)
    assert first == pytest.approx(psnr(theirs[0], images), abs=1e-4)
    assert last == pytest.approx(psnr(theirs[-1], images), abs=1e-4)


def test_the_table_holds_every_trip_and_picture(reconstruct, chain):
    images = picture(64, 70, 2)
    *_, text, _ = reconstruct(images, trips=3)
    theirs, _ = chain(images, 3)
    cropped = images[:, :, 3:67]
    rows = table(text)
    assert [(row["trip"], row["image"]) for row in rows] == [
        (str(trip), str(image)) for trip in (1, 2, 3) for image in (1, 2)
    ]
    for row in rows:
        trip, item = int(row["trip"]) - 1, int(row["image"]) - 1
        x, y = theirs[trip][item], cropped[item]
        before = theirs[trip - 1][item] if trip else y
        assert float(row["psnr_original"]) == pytest.approx(psnr(x, y), abs=1e-4)
        assert float(row["psnr_previous"]) == pytest.approx(psnr(x, before), abs=1e-4)
        shift = (x.mul(255).round() - y.mul(255).round()).div(255).mean((0, 1))
        told = [float(row[f"shift_{name}"]) for name in ("red", "green", "blue")]
        assert told == pytest.approx(shift.tolist(), abs=1e-5)


def test_save_image_between_trips_is_what_files_would_hold(reconstruct, chain):
    """Oracle: the expressions of core's SaveImage and LoadImage."""

    def through_a_file(images):
        written = np.clip(255.0 * images.numpy(), 0, 255).astype(np.uint8)
        return torch.from_numpy(written.astype(np.float32) / 255.0)

    images = picture(64, 64)
    theirs, _ = chain(images, 4, through_a_file)
    ours = reconstruct(images, trips=4, between_trips=SAVE_IMAGE)[1]
    torch.testing.assert_close(ours, torch.cat(theirs), atol=1e-5, rtol=0)
    rounded = reconstruct(images, trips=4, between_trips=ROUNDED)[1]
    assert ours[-1].mean() < rounded[-1].mean()  # half a level darker each time
    assert not torch.equal(rounded, reconstruct(images, trips=4)[1])


def test_trips_of_a_batch_come_picture_by_picture_and_equal_them_alone(reconstruct):
    images = picture(64, 64, 2)
    whole = reconstruct(images, trips=3)[1]
    for item in range(2):
        alone = reconstruct(images[item : item + 1], trips=3)[1]
        torch.testing.assert_close(whole[3 * item : 3 * item + 3], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(70, 93), (65, 8), (9, 9)])
def test_padding_keeps_every_pixel(reconstruct, size):
    images = picture(*size, 2)
    image, trips, latent, *_, info, _, _ = reconstruct(images, trips=2, uneven_size=PAD)
    assert image.shape == images.shape and trips.shape[1:3] == images.shape[1:3]
    assert f"all {size[1]} x {size[0]} pixels" in info
    assert latent["vae_lab_window"][2:] == list(size)


def test_a_padded_trip_is_encode_and_decode_of_the_pack(reconstruct, node, run, vae):
    images = picture(70, 93)
    image, _, latent, *_ = reconstruct(images, uneven_size=PAD)
    theirs, *_ = run(node("VAELabEncode"), pixels=images, vae=vae, uneven_size=PAD)
    assert torch.equal(latent["samples"], theirs["samples"])
    assert torch.equal(image, run(node("VAELabDecode"), samples=latent, vae=vae)[0])


def test_cropping_says_which_pixels_are_compared(reconstruct):
    assert "columns 2 to 89 and rows 3 to 66 of 93 x 70 pixels" in reconstruct(picture(70, 93))[5]


def test_samples_name_their_seed_and_differ_by_trip_and_picture(reconstruct, node, run, vae):
    images = picture(64, 64).repeat(2, 1, 1, 1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    given = {"posterior": "sample", "seed": 7, "trips": 2}
    image, trips, latent, *_, info, _, _ = reconstruct(images, **given)
    assert torch.equal(torch.rand(3), expected)
    assert "posterior: sampled, seed 7" in info
    again = reconstruct(images, **given)
    assert torch.equal(trips, again[1]) and torch.equal(latent["samples"], again[2]["samples"])
    assert not torch.equal(trips, reconstruct(images, **(given | {"seed": 8}))[1])
    assert not torch.equal(trips[0], trips[2])  # the same picture, other noise
    one = run(node("VAELabEncode"), pixels=images, vae=vae, posterior="sample", seed=7)[0]
    first = reconstruct(images, **(given | {"trips": 1}))[2]
    assert torch.equal(first["samples"], one["samples"])
    assert "posterior: mean" in reconstruct(images, seed=7)[5]


def test_trips_have_noise_of_their_own(reconstruct):
    """σ is taken out again: what is left of two trips' noise must not be alike."""
    images = picture(64, 64)
    drawn = [reconstruct(images, posterior="sample", seed=3, trips=n) for n in (1, 2)]
    second_start = drawn[0][0]
    mean = reconstruct(second_start)[2]
    residue = (drawn[1][2]["samples"] - mean["samples"]) / mean["vae_lab_std"]
    first_mean = reconstruct(images)[2]
    first = (drawn[0][2]["samples"] - first_mean["samples"]) / first_mean["vae_lab_std"]
    assert residue.std() == pytest.approx(1, abs=0.15)
    both = torch.stack([residue.flatten(), first.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.2


def test_a_vae_that_changes_nothing_drifts_nowhere(reconstruct, pixel_vae):
    images = picture(20, 30).mul(255).round().div(255)
    image, trips, _, first, last, info, text, chart = reconstruct(images, vae=pixel_vae, trips=3)
    torch.testing.assert_close(image, images, atol=1e-6, rtol=0)
    assert first == last == math.inf and len(trips) == 3
    assert table(text)[0]["psnr_original"] == "" and chart.isfinite().all()
    with pytest.raises(ValueError, match="nothing to sample"):
        reconstruct(images, vae=pixel_vae, posterior="sample")


def test_nan_is_stated_and_not_hidden(reconstruct):
    images = picture(64, 64, 2)
    images[1] = math.nan
    _, _, _, first, last, info, text, chart = reconstruct(images, trips=2)
    assert math.isnan(first) and math.isnan(last)
    assert "warning: from trip 1 on there are values that are NaN" in info
    rows = table(text)
    assert rows[1]["psnr_original"] == "" and int(rows[1]["not_finite"]) > 0
    assert float(rows[0]["psnr_original"]) > 0 and rows[0]["not_finite"] == "0"
    assert chart.isfinite().all()


def test_the_chart_is_a_picture(reconstruct):
    chart = reconstruct(picture(64, 64), trips=5)[7]
    assert chart.ndim == 4 and chart.shape[0] == 1 and chart.shape[3] == 3
    assert chart.min() >= 0 and chart.max() <= 1 and chart.std() > 0.02


@pytest.mark.parametrize("trips", [0, 65, -1, math.nan, 2**63])
def test_hostile_numbers_of_trips_are_refused(reconstruct, trips):
    with pytest.raises(ValueError, match=r"^VAE Reconstruct: expected trips from 1 to 64"):
        reconstruct(picture(64, 64), trips=trips)


@pytest.mark.parametrize(
    "widgets",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"seed": math.nan},
        {"between_trips": "?"},
        {"posterior": "?"},
        {"uneven_size": None},
    ],
)
def test_other_hostile_widgets_are_refused(reconstruct, widgets):
    with pytest.raises(ValueError, match="^VAE Reconstruct: expected "):
        reconstruct(picture(64, 64), **widgets)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (torch.zeros(0, 64, 64, 3), "expected pictures"),
        (torch.zeros(64, 64, 3), "expected pictures"),
        (torch.zeros(1, 4, 64, 3), "at least 8 x 8 pixels"),
        (torch.zeros(1).expand(999, 9999, 9999, 3), "at most"),
    ],
)
def test_pictures_that_cannot_be_sent_are_refused(reconstruct, pixels, words):
    with pytest.raises(ValueError, match=rf"^VAE Reconstruct: .*{words}"):
        reconstruct(pixels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken(reconstruct, dtype):
    image, *_, first, _, _, _, _ = reconstruct(picture(64, 64).to(dtype), trips=2)
    assert image.isfinite().all() and math.isfinite(first)


def test_inputs_are_left_alone_and_nothing_wants_a_gradient(reconstruct):
    images = picture(64, 64)
    before = images.clone()
    out = reconstruct(images, trips=2, between_trips=ROUNDED)
    assert torch.equal(images, before)
    tensors = [out[0], out[1], out[2]["samples"], out[7]]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_alpha_is_left_out_as_core_does(reconstruct, chain):
    images = torch.cat([picture(64, 64), torch.rand(1, 64, 64, 1)], -1)
    assert torch.equal(reconstruct(images)[0], chain(images, 1)[0][0])


def test_a_cancelled_run_stops_before_the_next_trip(reconstruct, vae, monkeypatch):
    import comfy.model_management as management

    seen = []
    encode, decode = vae.encode, vae.decode

    def watched_decode(latent):
        images = decode(latent)
        seen.append("decode")
        if len(seen) == 4:
            management.interrupt_current_processing()
        return images

    monkeypatch.setattr(vae, "decode", watched_decode)
    monkeypatch.setattr(vae, "encode", lambda images: seen.append("encode") or encode(images))
    with pytest.raises(management.InterruptProcessingException):
        reconstruct(picture(64, 64), trips=5)
    assert seen == ["encode", "decode"] * 2


def test_progress_is_told_after_every_trip(reconstruct, monkeypatch):
    import comfy.utils

    told = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: told.append((value, total))
    )
    reconstruct(picture(64, 64), trips=3)
    # newer versions leave out what follows within a tenth of a second
    assert told[0] == (1, 3) and told[-1] == (3, 3) and (4, 3) not in told
