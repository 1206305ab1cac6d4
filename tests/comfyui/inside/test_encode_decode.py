"""VAE Encode (Scaled), VAE Decode (Scaled) and Latent Rescale, against core's own nodes."""

import math

import pytest
import torch
from conftest import OfFormat
from pictures import picture

SCALINGS = ["SD1 / SD2", "SDXL", "Playground 2.5"]


@pytest.fixture(scope="module")
def core(node, vae):
    """Core's own encode and decode."""
    with torch.inference_mode():
        yield (
            lambda images: node("VAEEncode")().encode(vae, images)[0]["samples"],
            lambda latent: node("VAEDecode")().decode(vae, {"samples": latent})[0],
        )


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1), ((70, 93), 2), ((41, 64), 3)])
def test_with_the_defaults_both_equal_core_bit_for_bit(encode, decode, core, size, count):
    images = picture(*size, count)
    latent, *_ = encode(images)
    assert torch.equal(latent["samples"], core[0](images))
    assert list(latent.keys() - {"vae_lab_std"}) == ["samples"]
    assert torch.equal(decode(latent)[0], core[1](latent["samples"]))


def test_alpha_is_left_out_as_core_does(encode, core):
    images = torch.cat([picture(64, 64), torch.rand(1, 64, 64, 1)], -1)
    assert torch.equal(encode(images)[0]["samples"], core[0](images))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_scaled_latent_is_undone_by_its_mark(encode, decode, core, scaling):
    images = picture(64, 64)
    raw = encode(images)[0]["samples"]
    latent, *_ = encode(images, scaling=scaling)
    assert not torch.allclose(latent["samples"], raw)
    torch.testing.assert_close(decode(latent)[0], core[1](raw), atol=2e-5, rtol=0)
    torch.testing.assert_close(decode(latent, scaling=scaling)[0], core[1](raw), atol=2e-5, rtol=0)


def test_scaling_equals_the_latent_format_of_core(encode, node, run):
    """Oracle: process_in and process_out of core's own formats."""
    from comfy import latent_formats

    images = picture(64, 64)
    raw = encode(images)[0]["samples"]
    formats = {
        "SD1 / SD2": latent_formats.SD15(),
        "SDXL": latent_formats.SDXL(),
        "Playground 2.5": latent_formats.SDXL_Playground_2_5(),
    }
    for label, latent_format in formats.items():
        theirs = latent_format.process_in(raw)
        torch.testing.assert_close(encode(images, scaling=label)[0]["samples"], theirs)
        back = run(node("VAELabLatentRescale"), samples={"samples": theirs}, scaling=label,
                   direction="model to raw")  # fmt: skip
        torch.testing.assert_close(back[0]["samples"], raw, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["SD15", "SDXL", "SDXL_Playground_2_5", "SD3", "Flux", "Wan21"])
def test_from_model_reads_any_format_of_core(node, run, name):
    from comfy import latent_formats

    latent_format = getattr(latent_formats, name)()
    shape = (2, latent_format.latent_channels, *[3] * latent_format.latent_dimensions)
    raw = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    scaled, info = run(
        node("VAELabLatentRescale"),
        samples={"samples": raw},
        scaling="from model",
        model=OfFormat(latent_format),
    )
    torch.testing.assert_close(scaled["samples"], latent_format.process_in(raw))
    assert "scale" in info


def test_from_model_without_a_model_says_so(encode):
    with pytest.raises(ValueError, match="expects a MODEL to be connected"):
        encode(picture(64, 64), scaling="from model")


def test_two_scalings_at_once_are_refused(encode, decode, node, run):
    latent, *_ = encode(picture(64, 64), scaling="SD1 / SD2")
    with pytest.raises(ValueError, match=r"^VAE Decode \(Scaled\): .*0\.18215.*0\.13025"):
        decode(latent, scaling="SDXL")
    with pytest.raises(ValueError, match="second time"):
        run(node("VAELabLatentRescale"), samples=latent, scaling="SDXL")


def test_a_latent_that_looks_scaled_is_warned_of_with_its_evidence(encode, decode):
    latent, *_ = encode(picture(64, 64), scaling="SD1 / SD2")
    del latent["vae_lab_scaling"]
    assert "standard deviation is" in decode(latent)[1]
    assert "warning" not in decode(encode(picture(64, 64) * 4 % 1)[0])[1]


def test_moments_agree_with_the_model_s_own(encode, vae):
    """Oracle: encoder and quant_conv called by hand, KL from torch.distributions."""
    images = picture(64, 64, 2)
    latent, std, kl, compression, info = encode(images)
    model = vae.first_stage_model
    with torch.inference_mode():
        moments = model.quant_conv(model.encoder((images * 2 - 1).movedim(-1, 1)))
    mean, logvar = moments.chunk(2, 1)
    torch.testing.assert_close(latent["samples"], mean, atol=1e-4, rtol=1e-4)
    sigma = (logvar.clamp(-30, 20) / 2).exp()
    torch.testing.assert_close(std["samples"], sigma, atol=1e-6, rtol=1e-4)
    ones = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    oracle = torch.distributions.kl_divergence(torch.distributions.Normal(mean, sigma), ones)
    assert kl == pytest.approx(oracle.flatten(1).sum(1).mean().item(), rel=1e-4)
    assert compression == 48 and "posterior: KL" in info


def test_a_sample_is_seeded_and_leaves_the_global_generator_alone(encode):
    images = picture(64, 64)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (
        encode(images, posterior="sample", seed=seed)[0]["samples"] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, again) and not torch.equal(first, other)
    latent, std, *_ = encode(images)
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(first, latent["samples"] + std["samples"] * noise)


def test_a_vae_without_posterior_says_so(node, run, pixel_vae):
    latent, std, kl, compression, info = run(
        node("VAELabEncode"), pixels=picture(20, 30), vae=pixel_vae
    )
    assert math.isnan(kl) and std["samples"].isnan().all() and compression == 1
    assert "posterior: none" in info and "vae_lab_std" not in latent
    with pytest.raises(ValueError, match="nothing to sample"):
        run(node("VAELabEncode"), pixels=picture(8, 8), vae=pixel_vae, posterior="sample")


@pytest.mark.parametrize("size", [(64, 64), (70, 93), (65, 8), (9, 9)])
def test_padding_keeps_every_pixel(encode, decode, size):
    images = picture(*size)
    latent, *_, info = encode(images, uneven_size="pad and crop back")
    assert latent["samples"].shape[2:] == tuple(math.ceil(side / 8) for side in size)
    assert decode(latent)[0].shape == images.shape
    assert f"all {size[1]} x {size[0]} pixels" in info


def test_cropping_says_which_pixels_are_left(encode):
    latent, *_, info = encode(picture(70, 93))
    assert "columns 2 to 89 and rows 3 to 66 of 93 x 70 pixels" in info


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken(encode, decode, dtype):
    latent, *_ = encode(picture(64, 64).to(dtype))
    assert latent["samples"].isfinite().all()
    half = {"samples": latent["samples"].to(dtype), "vae_lab_scaling": {"scale": 2.0, "shift": 0.5}}
    assert decode(half)[0].isfinite().all()


def test_inputs_are_left_alone_and_nothing_wants_a_gradient(encode, decode):
    images = picture(64, 64)
    before = images.clone()
    latent, std, *_ = encode(images, scaling="SDXL")
    kept = {key: str(value) for key, value in latent.items()}
    image, _ = decode(latent)
    assert torch.equal(images, before) and kept == {k: str(v) for k, v in latent.items()}
    assert not any(t.requires_grad for t in (latent["samples"], std["samples"], image))


def test_other_keys_survive_rescaling(node, run):
    latent = {"samples": torch.zeros(1, 4, 2, 2), "noise_mask": torch.ones(1, 1, 2, 2), "x": 1}
    scaled, _ = run(node("VAELabLatentRescale"), samples=latent, scaling="SDXL")
    assert scaled["noise_mask"] is latent["noise_mask"] and scaled["x"] == 1
    raw, _ = run(node("VAELabLatentRescale"), samples=scaled, direction="model to raw")
    assert "vae_lab_scaling" not in raw and "vae_lab_scaling" in scaled


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (torch.zeros(0, 64, 64, 3), "expected pictures"),
        (torch.zeros(64, 64, 3), "expected pictures"),
        (torch.zeros(1, 4, 64, 3), "at least 8 x 8 pixels"),
    ],
)
def test_pictures_that_cannot_be_encoded_are_refused(encode, pixels, words):
    with pytest.raises(ValueError, match=rf"^VAE Encode \(Scaled\): .*{words}"):
        encode(pixels)


def test_a_latent_of_other_channels_is_refused_with_its_reason(decode):
    with pytest.raises(ValueError, match="16"):
        decode({"samples": torch.zeros(1, 16, 4, 4)})


@pytest.mark.parametrize(
    ("scale", "shift"), [(0.0, 0.0), (math.nan, 0.0), (math.inf, 0.0), (1.0, math.nan), (1e9, 0.0)]
)
def test_hostile_numbers_are_refused(encode, scale, shift):
    with pytest.raises(ValueError, match=r"^VAE Encode \(Scaled\): "):
        encode(picture(8, 8), scaling="custom", custom_scale=scale, custom_shift=shift)


def test_nan_pixels_and_latents_do_not_crash(encode, decode):
    latent, _, kl, *_ = encode(picture(64, 64) * math.nan)
    assert math.isnan(kl)
    decode({"samples": torch.full((1, 4, 4, 4), math.inf)})


def test_the_watch_on_the_moments_is_taken_off(encode, vae):
    encode(picture(64, 64))
    assert not vae.first_stage_model.regularization._forward_pre_hooks


def test_a_batch_is_decoded_as_its_items(encode, decode):
    images = picture(64, 64, 3)
    whole = encode(images)[0]["samples"]
    for index in range(3):
        alone = encode(images[index : index + 1])[0]
        torch.testing.assert_close(whole[index : index + 1], alone["samples"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("widget", ["scaling", "posterior", "uneven_size"])
def test_a_choice_off_the_list_is_refused(encode, widget):
    with pytest.raises(ValueError, match="off the list"):
        encode(picture(64, 64), **{widget: "off the list"})


def test_a_direction_off_the_list_is_refused(node, run):
    with pytest.raises(ValueError, match="^Latent Rescale: expected direction among"):
        run(
            node("VAELabLatentRescale"), samples={"samples": torch.zeros(1, 4, 2, 2)}, direction="x"
        )


@pytest.mark.parametrize("size", [(32, 48), (37, 50)])
def test_vae_encode_for_inpaint_crashed_where_a_ratio_is_a_tuple(node, run, video_vae, size):
    frames = picture(*size, count=5)
    latent, std, kl, _, info = run(node("VAELabEncode"), pixels=frames, vae=video_vae)
    assert isinstance(video_vae.downscale_ratio, tuple) and math.isnan(kl)
    with torch.inference_mode():
        theirs = node("VAEEncode")().encode(video_vae, frames)[0]["samples"]
        pictures = node("VAEDecode")().decode(video_vae, {"samples": theirs})[0]
    assert torch.equal(latent["samples"], theirs) and theirs.ndim == 5 and theirs.isfinite().all()
    assert torch.equal(run(node("VAELabDecode"), samples=latent, vae=video_vae)[0], pictures)
    padded, *_ = run(
        node("VAELabEncode"), pixels=frames, vae=video_vae, uneven_size="pad and crop back"
    )
    assert run(node("VAELabDecode"), samples=padded, vae=video_vae)[0].shape == frames.shape
