"""Reconstruction Diff in ComfyUI: every pair is measured, on the pixels that both share."""

import csv
import io
import json
import math
import os
import shutil
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from comfy_api.latest import io as comfy_io

IMAGES = ("strip", "absolute", "signed", "heat_map_image")
ASSETS = Path(os.environ.get("VAE_LAB_ASSETS") or "none")
SQUEEZE = ASSETS / "models" / "lpips_squeeze.safetensors"


def photos(count: int = 1, height: int = 40, width: int = 48, seed: int = 0) -> torch.Tensor:
    """Smooth pictures of 256 levels: [B, H, W, 3]."""
    seeded = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 6, generator=seeded)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (fine.movedim(1, -1) * 255).round() / 255


def disturbed(images: torch.Tensor, strength: float = 0.05) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + noise * strength).clamp(0, 1)


@pytest.fixture
def cls(node):
    return node("VAELabReconstructionDiff")


@pytest.fixture
def compare(cls, run):
    """Runs the node; its outputs by name."""

    def call(original, reconstruction, **inputs):
        out = run(cls, original=original, reconstruction=reconstruction, **inputs)
        return dict(zip([part.id for part in cls.define_schema().outputs], out, strict=True))

    return call


@pytest.fixture
def squeeze(base, node):
    """The genuine LPIPS weights where the nodes look for them; gone after the test."""
    if not SQUEEZE.is_file():
        pytest.skip("LPIPS needs VAE_LAB_ASSETS with models/lpips_squeeze.safetensors")
    place = base / "models" / "vae_lab" / "lpips_squeeze.safetensors"
    place.parent.mkdir(exist_ok=True)
    shutil.copy(SQUEEZE, place)
    yield place
    place.unlink(missing_ok=True)


def by_hand(original: torch.Tensor, reconstruction: torch.Tensor) -> float:
    """PSNR in float64, both as 8-bit files hold them."""
    x, y = ((p.double().clamp(0, 1) * 255).round() / 255 for p in (reconstruction, original))
    return float(-10 * (x - y).square().mean().log10())


# Rivals' faults, one test for each


def test_image_enhance_difference_nan_where_the_second_is_larger(compare):
    dark, light = torch.full((1, 16, 16, 3), 0.25), torch.full((1, 16, 16, 3), 0.5)
    brighter, darker = compare(dark, light, gain=1), compare(light, dark, gain=1)
    step = (128 - 64) / 255  # what 8 bits make of 0.25
    for out, sign in ((brighter, 1), (darker, -1)):
        assert all(out[name].isfinite().all() for name in IMAGES)
        assert (out["signed"] - 0.5).sign().unique().tolist() == [sign]
        torch.testing.assert_close(
            out["signed"],
            torch.full_like(out["signed"], 0.5 + sign * step / 2),
            atol=1 / 255,
            rtol=0,
        )
    assert torch.equal(brighter["absolute"], darker["absolute"])


def test_similarity_score_used_only_the_first_image_and_resized_to_256(compare):
    y = photos(3, 300, 280)
    x = torch.stack([y[0], disturbed(y[1], 0.02), disturbed(y[2], 0.2)])
    out = compare(y, x)
    assert out["per_image"][0] == math.inf
    expected = [by_hand(y[i], x[i]) for i in (1, 2)]
    assert out["per_image"][1:] == pytest.approx(expected, abs=1e-4)
    assert out["absolute"].shape == (3, 300, 280, 3)


def test_heatmaps_gave_their_numbers_as_strings(compare):
    out = compare(photos(), disturbed(photos()))
    for name in ("psnr", "ssim", "lpips", "mse", "mae", "maximum"):
        assert type(out[name]) is float
    assert [type(value) for value in out["colour_shift"]] == [float] * 3
    assert [type(value) for value in out["per_image"]] == [float]


def test_heatmaps_had_over_20_outputs_on_one_node(cls):
    assert len(cls.define_schema().outputs) <= 15


def test_iqa_pack_a_missing_package_took_the_whole_pack_down(cls):
    """What the pack needs, module by module: nothing that ComfyUI does not bring."""
    pack = cls.__module__.split(".nodes.")[0]
    ours = [module for name, module in sys.modules.items() if name.startswith(f"{pack}.")]
    used = [part for module in ours for part in vars(module).values()]
    names = {part.__name__ for part in used if isinstance(part, ModuleType)}
    tops = {name.split(".")[0] for name in names if not name.startswith(pack)}
    brought = {"torch", "numpy", "PIL", "safetensors", "comfy", "comfy_api", "folder_paths"}
    assert ours and tops - sys.stdlib_module_names <= brought | {"latent_preview", "node_helpers"}


def test_essentials_gives_no_mean_as_a_number(compare):
    y, x = photos(2), disturbed(photos(2))
    x8, y8 = ((p.double() * 255).round() / 255 for p in (x, y))
    assert compare(y, x)["mae"] == pytest.approx(float((x8 - y8).abs().mean()), rel=1e-6)


def test_vae_encode_crops_and_the_rest_of_the_pack_compared_shifted_pixels(compare, vae):
    """A 141 x 100 photo comes back as 136 x 96; the shared pixels are core's own crop."""
    y = photos(1, 100, 141)
    x = vae.decode(vae.encode(y))
    assert x.shape[1:3] == (96, 136)
    out = compare(y, x)
    about = json.loads(out["json"])
    same = vae.vae_encode_crop_pixels(y)
    assert out["psnr"] == pytest.approx(by_hand(same, x), abs=1e-4)
    assert about["crop"]["original"] == {"left": 2, "top": 2, "width": 136, "height": 96}
    assert "centre crop 136 x 96" in about["notes"][0]


# What is asked of every node


def test_a_batch_equals_its_items_one_by_one(compare):
    y = photos(3)
    x = torch.stack([disturbed(y[i], s) for i, s in enumerate((0.01, 0.05, 0.3))])
    mask = torch.zeros(3, 40, 48)
    mask[0, 5:20, 5:25], mask[1, 10:30, 20:40], mask[2, 0:12, 0:12] = 1, 1, 1
    whole = compare(y, x, mask=mask, list_figure="inside_psnr")
    for i in range(3):
        one = compare(y[i : i + 1], x[i : i + 1], mask=mask[i : i + 1], list_figure="inside_psnr")
        for name in ("absolute", "signed", "heat_map_image"):
            assert torch.equal(whole[name][i], one[name][0])
        assert whole["per_image"][i] == one["per_image"][0]
        entries = (json.loads(out["json"])["images"] for out in (whole, one))
        batch_entry, own_entry = next(entries)[i], next(entries)[0]
        assert batch_entry | {"image": 1} == own_entry


def test_one_picture_goes_with_each_of_the_other_batch(compare):
    y, x = photos(1), disturbed(photos(1).repeat(3, 1, 1, 1))
    out = compare(y, x)
    assert out["per_image"] == pytest.approx([by_hand(y[0], one) for one in x], abs=1e-4)
    assert len(compare(x, y)["per_image"]) == 3


def test_batches_that_do_not_pair_are_refused(compare):
    with pytest.raises(ValueError, match="^Reconstruction Diff: .*got 2 and 3"):
        compare(photos(2), photos(3))


@pytest.mark.parametrize("size", [(20, 24), (48, 40), (80, 96), (41, 49)])
def test_other_sizes_are_never_stretched_but_refused_or_cropped(compare, size):
    if size == (41, 49):
        y = photos(1, *size)
        assert compare(y, y[:, :40, :48])["psnr"] == math.inf
        return
    with pytest.raises(
        ValueError, match=f"^Reconstruction Diff: .*48 x 40 and {size[1]} x {size[0]}"
    ):
        compare(photos(), photos(1, *size))


def test_inputs_stay_as_they_are(compare):
    given = [photos(2), disturbed(photos(2)), torch.ones(2, 40, 48)]
    before = [part.clone() for part in given]
    compare(given[0], given[1], mask=given[2])
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_half_precision_out(compare, dtype):
    y, x = photos(), disturbed(photos())
    out = compare(y.to(dtype), x.to(dtype))
    assert all(out[name].dtype == dtype for name in IMAGES)
    assert out["psnr"] == pytest.approx(by_hand(y.to(dtype), x.to(dtype)), abs=1e-4)


def test_equal_runs_are_equal_and_leave_the_random_state_alone(compare):
    state = torch.random.get_rng_state()
    first, second = (compare(photos(), disturbed(photos())) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in IMAGES)
    assert first["json"] == second["json"] and first["csv"] == second["csv"]
    assert not any(first[name].requires_grad for name in IMAGES)


def test_lost_pixels_are_marked_and_counted(compare):
    y, x = photos(2), disturbed(photos(2))
    x[1, 3, 4] = torch.nan
    x[1, 30, 40, 0] = torch.inf
    out = compare(y, x)
    magenta = torch.tensor([1.0, 0.0, 1.0])
    for name in ("absolute", "signed"):
        assert (out[name][1] == magenta).all(-1).sum() == 2
        assert not (out[name][0] == magenta).all(-1).any()
    assert all(out[name].isfinite().all() for name in IMAGES)
    assert math.isnan(out["psnr"]) and math.isnan(out["maximum"])
    assert out["per_image"][0] == pytest.approx(by_hand(y[0], x[0]), abs=1e-4)
    entry = json.loads(out["json"])["images"][1]
    assert entry["not_finite"] == 4 and entry["psnr"] is None and entry["ssim"] is None


@pytest.mark.parametrize(
    "shape",
    [(0, 40, 48, 3), (1, 0, 48, 3), (40, 48, 3), (1, 40, 48, 1), (1, 3, 40, 48), (1, 2, 4, 8, 3)],
)
def test_what_is_no_picture_is_refused(compare, shape):
    with pytest.raises(ValueError, match="^Reconstruction Diff: Expected original"):
        compare(torch.zeros(shape), photos())


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (10, 40), (11, 11)])
def test_tiny_pictures_have_what_can_be_had(compare, size):
    out = compare(photos(1, *size), 1 - photos(1, *size))
    assert math.isnan(out["ssim"]) == (min(size) < 11)
    assert math.isfinite(out["psnr"]) and math.isnan(out["lpips"])


@pytest.mark.parametrize(
    "widget",
    [
        {"gain": math.nan}, {"gain": math.inf}, {"gain": 0.0}, {"heat_range": -1.0},
        {"heat_range": math.nan}, {"heat_map": "../x"}, {"lpips_net": "../x"},
        {"lpips_net": "x" * 5000},
        {"list_figure": "__class__"},
    ],
)  # fmt: skip
def test_hostile_widget_values_are_refused(compare, widget):
    with pytest.raises(ValueError, match="^Reconstruction Diff: "):
        compare(photos(), photos(), **widget)


def test_a_cancelled_run_ends_before_its_next_pair(compare):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        compare(photos(2), photos(2))


# Its own


def test_the_identity_is_recognised(compare, pixel_vae):
    y = photos()
    out = compare(y, pixel_vae.decode(pixel_vae.encode(y)))
    assert out["psnr"] == math.inf and out["ssim"] == pytest.approx(1) and out["mse"] == 0.0
    assert json.loads(out["json"])["images"][0]["identical"] is True
    row = next(csv.DictReader(io.StringIO(out["csv"])))
    assert row["psnr"] == "" and row["identical"] == "true"


def test_a_mask_is_measured_apart(compare):
    y, mask = photos(), torch.zeros(1, 40, 48)
    mask[0, 10:22, 12:30] = 1
    x = torch.where(mask[..., None] > 0, disturbed(y, 0.2), y)
    out = compare(y, x, mask=mask, list_figure="inside_psnr")
    entry = json.loads(out["json"])["images"][0]
    inside = mask[0] > 0
    assert out["per_image"][0] == pytest.approx(by_hand(y[0][inside], x[0][inside]), abs=1e-4)
    assert entry["outside"]["mse"] == 0 and entry["outside"]["psnr"] is None
    assert entry["box"] == {"left": 12, "top": 10, "width": 18, "height": 12}
    assert out["strip"].shape[1] > compare(y, x)["strip"].shape[1] + 100
    assert math.isnan(compare(y, x, list_figure="inside_psnr")["per_image"][0])


def test_load_images_empty_mask_selects_nothing(compare):
    out = compare(photos(), disturbed(photos()), mask=torch.zeros(1, 64, 64))
    entry = json.loads(out["json"])["images"][0]
    assert entry["inside"]["psnr"] is None and entry["outside"]["psnr"] == entry["psnr"]


def test_a_fourth_channel_is_left_out_as_core_does(compare):
    y = torch.cat([photos(), torch.zeros(1, 40, 48, 1)], -1)
    out = compare(y, photos())
    assert out["psnr"] == math.inf
    assert "original has 4 channels" in json.loads(out["json"])["notes"][0]


def test_gain_is_for_pictures_alone(compare):
    y, x = photos(), disturbed(photos())
    weak, strong = compare(y, x, gain=1), compare(y, x, gain=10)
    assert weak["mae"] == strong["mae"] == pytest.approx(float(weak["absolute"].mean()), rel=1e-5)
    torch.testing.assert_close(strong["absolute"], (weak["absolute"] * 10).clamp(0, 1))


def test_nothing_is_fetched_and_no_lpips_is_said(compare, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    out = compare(photos(), disturbed(photos()))
    about = json.loads(out["json"])
    assert math.isnan(out["lpips"]) and about["lpips_net"] is None and about["heat_map"] == "ssim"
    assert any("no LPIPS file" in note for note in about["notes"])
    with pytest.raises(ValueError, match="lpips_vgg.safetensors in ComfyUI's models/vae_lab"):
        compare(photos(), photos(), lpips_net="vgg")


def test_lpips_from_its_file(compare, squeeze):
    y = photos(2, 64, 64)
    x = torch.stack([disturbed(y[0], 0.02), disturbed(y[1], 0.2)])
    out = compare(y, x, list_figure="lpips")
    about = json.loads(out["json"])
    assert about["lpips_net"] == "squeeze" and about["heat_map"] == "lpips"
    assert 0 < out["per_image"][0] < out["per_image"][1]
    assert out["lpips"] == pytest.approx(sum(out["per_image"]) / 2)
    assert math.isnan(compare(y, x, lpips_net="off")["lpips"])


def test_a_new_file_makes_the_node_run_again(cls, squeeze):
    with_file = cls.fingerprint_inputs(lpips_net="auto", gain=8.0)
    assert cls.fingerprint_inputs(lpips_net="off", gain=8.0) == []
    squeeze.unlink()
    assert cls.fingerprint_inputs(lpips_net="auto", gain=8.0) != with_file


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_lpips_is_refused(compare, base, content):
    place = base / "models" / "vae_lab" / "lpips_alex.safetensors"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)
    try:
        with pytest.raises(ValueError, match="^Reconstruction Diff: .*lpips_alex"):
            compare(photos(), photos(), lpips_net="alex")
    finally:
        place.unlink()


def test_the_node_shows_its_strips_and_the_slider_where_there_is_one(cls, base):
    given = {
        "gain": 8.0,
        "heat_map": "auto",
        "lpips_net": "off",
        "list_figure": "psnr",
        "heat_range": 0.0,
    }
    shown = cls.execute(original=photos(2), reconstruction=disturbed(photos(2)), **given).ui
    assert len(shown["images"]) == 2
    assert all((base / "temp" / image["filename"]).is_file() for image in shown["images"])
    slider = hasattr(comfy_io, "ImageCompare")
    assert ("compare_view" in [part.id for part in cls.define_schema().inputs]) == slider
    assert ("a_images" in shown) == ("b_images" in shown) == slider
    if slider:
        assert len(shown["a_images"]) == len(shown["b_images"]) == 2
