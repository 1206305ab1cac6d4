"""Latent Inspect in a real ComfyUI: against its previewer, numpy and formulas by hand."""

import json
import math

import numpy as np
import pytest
import torch

NAMES = ("histogram", "channels", "rgb", "map", "mean", "std", "min", "max", "non_finite", "kl")
NAMES += ("report", "data")
FORMATS = {
    "SD1 / SD2": "SD15",
    "SDXL": "SDXL",
    "SD3": "SD3",
    "FLUX.1": "Flux",
    "Playground 2.5": "SDXL_Playground_2_5",
}
MAGENTA = torch.tensor([1.0, 0.0, 1.0])


def latent(*shape: int, scale: float = 5.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.fixture
def inspect(node, run, base):
    """Runs the node on samples, or on a whole LATENT; gives its outputs by name."""

    def inspect(samples, **widgets):
        given = samples if isinstance(samples, dict) else {"samples": samples}
        outputs = run(node("VAELabLatentInspect"), samples=given, **widgets)
        return dict(zip(NAMES, outputs, strict=True))

    return inspect


def previewed(name: str, samples: torch.Tensor) -> torch.Tensor:
    """What ComfyUI shows of item 0 while it samples: [h, w, 3] in 0..255."""
    import comfy.latent_formats
    import latent_preview

    kind = getattr(comfy.latent_formats, name)()
    factors = (kind.latent_rgb_factors, kind.latent_rgb_factors_bias)
    previewer = latent_preview.Latent2RGBPreviewer(*factors)
    return torch.from_numpy(
        np.array(previewer.decode_latent_to_preview(kind.process_in(samples)))
    ).float()


@pytest.mark.parametrize(("label", "name"), FORMATS.items())
def test_rgb_is_what_comfyui_previews(inspect, pixel_vae, label, name):
    channels = 16 if label in ("SD3", "FLUX.1") else 4
    samples = latent(2, channels, 9, 7, scale=2)
    got = inspect(samples, scaling=label, vae=pixel_vae)["rgb"]
    assert got.shape == (2, 9, 7, 3)
    # the previewer cuts off what is under a whole level
    assert ((got[0] * 255).sub(0.5) - previewed(name, samples)).abs().max() <= 0.502


def test_a_marked_latent_is_not_scaled_twice(inspect):
    samples = latent(1, 4, 8, 8)
    mark = {"scale": 0.18215, "shift": 0.0}
    raw = inspect(samples, scaling="SD1 / SD2", space="model latent")
    for scaling in ("SD1 / SD2", "auto (from the latent's mark)"):
        marked = {"samples": samples * 0.18215, "vae_lab_scaling": mark}
        got = inspect(marked, scaling=scaling, space="model latent")
        torch.testing.assert_close(got["rgb"], raw["rgb"])
        assert got["std"] == pytest.approx(raw["std"], rel=1e-6)
        assert inspect(marked, space="raw latent")["std"] == pytest.approx(
            samples.double().numpy().std(), rel=1e-6
        )


def test_a_family_that_is_not_known_is_not_guessed(inspect):
    got = inspect(latent(1, 4, 8, 8), space="model latent")
    assert "principal components, not true colours (the family is not known" in got["report"]
    assert "WARNING: the model latent is not known" in got["report"]


def test_latent_tools_channels_saturate_at_plus_minus_one(inspect):
    """Rivals map -1..1 to colours, so raw latents are two flat colours: ours follow the values."""
    ramp = torch.linspace(-20, 20, 1024).view(1, 1, 32, 32)
    pixels = (inspect(ramp)["channels"][0] * 255).round().reshape(-1, 3)
    background, most_frequent = pixels.unique(dim=0, return_counts=True)[1].sort().values[[-1, -2]]
    assert background > most_frequent
    assert most_frequent < 0.03 * 256 * 256  # pixels of the tile
    assert "99 %: 19.6" in inspect(ramp)["report"]


def test_latent_tools_says_eight_for_every_vae(inspect, vae, pixel_vae):
    """The ratio is the VAE's: 8 for the bundled one, 1 for pixel space; none without a VAE."""
    samples = latent(1, 4, 16, 12)
    assert inspect(samples, vae=vae)["rgb"].shape[1:3] == (128, 96)
    small = latent(1, 3, 16, 12)
    got = inspect(small, vae=pixel_vae)
    assert got["rgb"].shape[1:3] == (16, 12)
    assert json.loads(got["data"])["sizes"][1]["values_ratio"] == 1
    alone = inspect(samples)
    assert "no VAE is connected: its ratio is not known" in alone["report"]
    (row,) = json.loads(alone["data"])["sizes"]
    assert row["values_ratio"] is None and row["fp32_bytes"] == 4 * 4 * 16 * 12


def test_rivals_give_sizes_or_text_only(inspect):
    """Statistics come as typed outputs, so that other nodes can use them."""
    samples = latent(3, 4, 6, 5, scale=3) + 2
    got, array = inspect(samples), samples.double().numpy()
    figures = (array.mean(), array.std(), array.min(), array.max())
    for name, expected in zip(("mean", "std", "min", "max"), figures, strict=True):
        assert isinstance(got[name], float)
        assert got[name] == pytest.approx(expected, rel=1e-9)
    assert isinstance(got["non_finite"], int) and got["non_finite"] == 0
    item = json.loads(got["data"])["items"][2]["channels"][1]
    assert item["std"] == pytest.approx(array[2, 1].std(), rel=1e-9)


def test_compression_of_the_vae(inspect, vae):
    got = inspect(latent(1, 4, 64, 64), vae=vae)
    sizes = {row["picture"]: row for row in json.loads(got["data"])["sizes"]}
    assert len(sizes) == 6
    for side in (256, 512, 768, 1024, 2048):
        row = sizes[f"{side} x {side} px"]
        assert (row["values_ratio"], row["fp32_ratio"], row["fp16_ratio"]) == (48, 12, 24)
    assert sizes["this: 512 x 512 px"]["values_ratio"] == 48
    assert "16,384 (48x)" in got["report"]
    other = inspect(latent(1, 16, 8, 8), vae=vae)["report"]
    assert "this latent has 16 channels, so it is not this VAE's" in other


@pytest.mark.parametrize("scaling", ["none (ComfyUI standard)", "SD1 / SD2"])
def test_kl_is_that_of_the_encoder(inspect, node, run, vae, scaling):
    pixels = torch.rand(2, 64, 48, 3, generator=torch.Generator().manual_seed(1))
    encoded = run(node("VAELabEncode"), pixels=pixels, vae=vae, scaling=scaling)
    got = inspect(encoded[0])
    assert got["kl"] == pytest.approx(encoded[2], rel=1e-4)


def test_kl_without_a_posterior_is_nan_and_says_why(inspect):
    samples = latent(1, 4, 4, 4)
    got = inspect(samples)
    assert math.isnan(got["kl"]) and "the latent carries no σ" in got["report"]
    other = inspect({"samples": samples, "vae_lab_std": torch.ones(1, 4, 2, 2)})
    assert math.isnan(other["kl"]) and "has another shape" in other["report"]
    given = inspect({"samples": samples, "vae_lab_std": torch.full_like(samples, 0.5)})
    by_hand = 0.5 * (samples.double() ** 2 + 0.25 - math.log(0.25) - 1).sum()
    assert given["kl"] == pytest.approx(by_hand.item(), rel=1e-6)


def test_what_looks_scaled_already_is_said(inspect):
    words = "WARNING: looks already scaled: std 0.9"
    samples = latent(1, 4, 64, 64, scale=0.9)
    assert words in inspect(samples, scaling="SD1 / SD2")["report"]
    assert words not in inspect(samples * 5.5, scaling="SD1 / SD2")["report"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_and_magenta(inspect, bad):
    samples = latent(2, 4, 32, 32)
    samples[1, 2, 3, :3] = bad
    got = inspect(samples, scaling="SD1 / SD2")
    assert got["non_finite"] == 3
    assert "WARNING: NaN or infinite: 3 of 8,192 values" in got["report"]
    kept = samples[samples.isfinite()].double().numpy()
    assert got["std"] == pytest.approx(kept.std(), rel=1e-9)
    for name in ("channels", "rgb"):
        lost = ((got[name] - MAGENTA).abs() < 1 / 255).all(-1).flatten(1).any(1)
        assert lost.tolist() == [False, True]
        assert got[name].isfinite().all()
    assert json.loads(got["data"])["items"][1]["non_finite"] == 3


def test_a_latent_of_nan_only(inspect, vae):
    got = inspect(torch.full((2, 4, 8, 8), math.nan), vae=vae, scaling="SDXL")
    assert got["non_finite"] == 512 and math.isnan(got["mean"]) and math.isnan(got["max"])
    assert json.loads(got["data"])["batch"]["mean"] is None


@pytest.mark.parametrize(
    "shape",
    [(1, 4, 1, 1), (1, 1, 1, 1), (2, 16, 5, 3, 4), (1, 128, 2, 3), (3, 4, 1, 700), (40, 4, 2, 2)],
)
@pytest.mark.parametrize("colour_range", ["one for all channels", "one for each channel"])
def test_any_shape_of_pictures_and_video(inspect, vae, shape, colour_range):
    got = inspect(latent(*shape), vae=vae, colour_range=colour_range)
    drawn = min(shape[0], 32)
    assert len(got["channels"]) == len(got["rgb"]) == drawn
    assert len(got["histogram"]) == len(got["map"]) == 1
    for name in NAMES[:4]:
        picture = got[name]
        assert picture.dtype == torch.float32 and picture.shape[-1] == 3
        assert picture.min() >= 0 and picture.max() <= 1
    assert ("the first 32 of 40 items" in got["report"]) == (shape[0] == 40)


@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (1, 4, 0, 8), (4, 8, 8), (1, 4, 2, 2, 2, 2)])
def test_other_shapes_are_refused_in_a_sentence(inspect, shape):
    with pytest.raises(ValueError, match="Latent Inspect: expected samples"):
        inspect(torch.zeros(shape))


def test_nested_and_integer_latents_are_refused_in_a_sentence(inspect):
    import comfy.nested_tensor

    parts = comfy.nested_tensor.NestedTensor([latent(1, 4, 2, 2), latent(1, 8, 5)])
    with pytest.raises(ValueError, match="Latent Inspect: expected samples as one latent"):
        inspect(parts)
    with pytest.raises(ValueError, match="Latent Inspect: .*int64"):
        inspect(torch.zeros(1, 4, 2, 2, dtype=torch.long))


@pytest.mark.parametrize(
    "widgets",
    [
        *({"percent_outside": value} for value in (math.nan, math.inf, -1, 2**63, 50)),
        {"scaling": "<img src=x onerror=1>"},
        {"scaling": "from model"},
        {"space": "x" * 5000},
        {"colour_range": "../x"},
    ],
    ids=lambda widgets: f"{widgets}"[:40],
)
def test_hostile_widgets_are_refused_in_a_sentence(inspect, widgets):
    with pytest.raises(ValueError, match="Latent Inspect: ") as caught:
        inspect(latent(1, 4, 4, 4), **widgets)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("frame", [-2, 5, 2**63])
def test_a_frame_beyond_the_video_is_refused(inspect, frame):
    with pytest.raises(ValueError, match="Latent Inspect: .*this latent has 5 frames"):
        inspect(latent(1, 4, 5, 4, 4), frame=frame)


def test_a_video_shows_the_frame_it_names(inspect):
    video = latent(1, 4, 5, 6, 6)
    got = inspect(video, scaling="SDXL")
    assert "frame 2 of 0 to 4, the middle one" in got["report"]
    assert torch.equal(got["rgb"], inspect(video[:, :, 2], scaling="SDXL")["rgb"])
    assert torch.equal(
        inspect(video, scaling="SDXL", frame=4)["rgb"],
        inspect(video[:, :, 4], scaling="SDXL")["rgb"],
    )
    assert got["std"] == pytest.approx(video.double().numpy().std(), rel=1e-9)


@pytest.mark.parametrize(("name", "shape"), [("Wan21", (1, 16, 3, 5, 4)), ("SD15", (1, 4, 5, 4))])
def test_the_format_of_a_connected_model_is_used(inspect, pixel_vae, name, shape):
    import comfy.latent_formats
    import comfy.model_patcher

    holder = torch.nn.Module()
    holder.latent_format = getattr(comfy.latent_formats, name)()
    cpu = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(holder, cpu, cpu)
    samples = latent(*shape, scale=1)
    got = inspect(
        samples,
        scaling="from model",
        model=model,
        vae=pixel_vae,
        frame=0 if len(shape) == 5 else -1,
    )
    assert ((got["rgb"][0] * 255).sub(0.5) - previewed(name, samples)).abs().max() <= 0.502


def test_a_batch_is_its_items_one_by_one(inspect):
    samples = latent(3, 4, 8, 8)
    samples[1, 0, 0, 0] = math.nan
    whole = inspect(samples, scaling="SDXL", space="model latent")
    items = json.loads(whole["data"])["items"]
    for index in range(3):
        one = inspect(samples[index : index + 1], scaling="SDXL", space="model latent")
        torch.testing.assert_close(whole["rgb"][index : index + 1], one["rgb"], rtol=0, atol=1e-6)
        assert items[index] == json.loads(one["data"])["items"][0]
    first = inspect(samples[:1], scaling="SDXL", space="model latent")["channels"]
    if first.shape[1:] == whole["channels"].shape[1:]:
        assert torch.equal(whole["channels"][:1], first)


def test_inputs_are_left_alone(inspect):
    samples = latent(2, 4, 6, 6)
    samples[0, 0, 0, 0] = math.nan
    given = {
        "samples": samples,
        "noise_mask": torch.ones(2, 1, 48, 48),
        "batch_index": [3, 5],
        "vae_lab_std": torch.ones_like(samples),
        "vae_lab_scaling": {"scale": 0.5, "shift": 0.1},
    }
    kept = {key: value.clone() if torch.is_tensor(value) else value for key, value in given.items()}
    inspect(given, scaling="SDXL", space="model latent")
    assert given.keys() == kept.keys()
    for key, value in given.items():
        if torch.is_tensor(value):
            torch.testing.assert_close(value, kept[key], equal_nan=True, rtol=0, atol=0)
        else:
            assert value == kept[key]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_full(inspect, dtype):
    samples = latent(1, 4, 64, 64, scale=40).to(dtype)
    got = inspect(samples, scaling="SDXL")
    assert got["std"] == pytest.approx(samples.double().numpy().std(), rel=1e-9)
    assert str(dtype).removeprefix("torch.") in got["report"]


def test_the_same_latent_gives_the_same_again_and_no_global_state_moves(inspect):
    samples = latent(3, 4, 8, 8).requires_grad_()
    torch_state = torch.random.get_rng_state()
    first, second = inspect(samples), inspect(samples)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    for name in NAMES[:4]:
        assert torch.equal(first[name], second[name]) and not first[name].requires_grad
    assert first["data"] == second["data"] and first["report"] == second["report"]


def test_one_item_gets_a_sentence_and_two_a_map(inspect):
    one, two = inspect(latent(1, 4, 8, 8))["map"], inspect(latent(2, 4, 8, 8))["map"]
    assert one.shape == two.shape and not torch.equal(one, two)


def test_previews_are_written_to_temp_and_nowhere_else(node, base):
    before = set(base.rglob("*"))
    body = node("VAELabLatentInspect")
    widgets = {part.id: part.default for part in body.define_schema().inputs[1:6]}
    with torch.inference_mode():
        out = body.execute(samples={"samples": latent(6, 4, 8, 8)}, **widgets)
    new = {path for path in set(base.rglob("*")) - before if path.is_file()}
    assert {path.parent.name for path in new} == {"temp"}
    assert {path.suffix for path in new} == {".png"}
    assert len(out.ui["images"]) == len(new) == 1 + 4 + 4 + 1 + 1
    assert out.ui["text"][0].startswith("Latent [6, 4, 8, 8]")


def test_every_input_and_output_says_what_it_is(node):
    schema = node("VAELabLatentInspect").define_schema()
    assert schema.is_output_node
    for part in (*schema.inputs, *schema.outputs):
        assert len(part.tooltip) > 20, part.id
    assert tuple(part.id for part in schema.outputs) == NAMES


def test_a_large_video_is_quick_enough_to_look_at(inspect):
    """More values than torch.quantile takes: they are sampled, not refused."""
    video = latent(1, 16, 41, 160, 168, scale=1)
    assert video.numel() > 2**24
    got = inspect(video)
    assert got["std"] == pytest.approx(1, rel=1e-2)
