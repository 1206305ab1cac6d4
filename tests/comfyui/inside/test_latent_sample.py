"""Latent Sample in ComfyUI: core's noise, sizes from the VAE, and draws around a latent."""

import copy
import math

import pytest
import torch
from conftest import OfFormat

PRIOR, AROUND, POSTERIOR = "prior N(0, I)", "around the latent", "posterior of the latent"


def samples(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 5 + 1


def picture() -> torch.Tensor:
    ramp = torch.linspace(0, 1, 64).expand(64, 64)
    return torch.stack([ramp, ramp.T, 0 * ramp], -1)[None]


@pytest.fixture
def draw(node, run):
    return lambda **widgets: run(node("VAELabLatentSample"), **widgets)


class TestPrior:
    @pytest.mark.parametrize("seed", [0, 5, 2**64 - 1])
    def test_it_is_the_noise_of_cores_samplers(self, node, draw, core_noise, seed):
        empty = node("EmptyLatentImage")().generate(96, 64, 3)[0]["samples"]
        latent, _ = draw(seed=seed, width=96, height=64, batch_size=3)
        assert torch.equal(latent["samples"], core_noise(empty, seed))
        assert set(latent) == {"samples"}

    def test_the_process_keeps_its_random_state(self, draw):
        state = torch.random.get_rng_state()
        draw(seed=9)
        assert torch.equal(state, torch.random.get_rng_state())

    def test_sizes_come_from_the_vae(self, draw, vae, pixel_vae):
        widgets = {"width": 64, "height": 40, "batch_size": 2, "channels": 9, "ratio": 3}
        assert draw(vae=vae, **widgets)[0]["samples"].shape == (2, 4, 5, 8)
        assert draw(vae=pixel_vae, **widgets)[0]["samples"].shape == (2, 3, 40, 64)
        assert draw(**widgets)[0]["samples"].shape == (2, 9, 13, 21)

    @pytest.mark.parametrize(("frames", "cells"), [(1, 1), (4, 1), (5, 2), (9, 3)])
    def test_a_video_vae_gets_frames(self, draw, video_vae, frames, cells):
        latent, note = draw(vae=video_vae, frames=frames, width=32, height=16)
        assert latent["samples"].shape == (1, 16, cells, 2, 4)
        if frames == 5:
            with torch.inference_mode():
                assert video_vae.decode(latent["samples"]).shape[1:] == (5, 16, 32, 3)

    def test_without_a_vae_the_space_says_how_many_channels(self, draw):
        assert draw(space="FLUX.1")[0]["samples"].shape == (1, 16, 64, 64)
        assert draw(space="SDXL")[0]["samples"].shape == (1, 4, 64, 64)
        assert draw()[0]["samples"].shape == (1, 4, 64, 64)

    @pytest.mark.parametrize("family", ["SD1 / SD2", "SDXL", "SD3", "FLUX.1", "Playground 2.5"])
    def test_a_model_latent_is_given_back_raw(self, draw, family):
        """Oracle: process_out of core's own formats."""
        from comfy import latent_formats

        formats = {
            "SD1 / SD2": latent_formats.SD15(),
            "SDXL": latent_formats.SDXL(),
            "SD3": latent_formats.SD3(),
            "FLUX.1": latent_formats.Flux(),
            "Playground 2.5": latent_formats.SDXL_Playground_2_5(),
        }
        raw, note = draw(space=family, seed=4)
        scaled, kept = draw(space=family, seed=4, keep_scaled=True)
        theirs = formats[family].process_out(scaled["samples"])
        torch.testing.assert_close(raw["samples"], theirs)
        assert "vae_lab_scaling" not in raw and set(scaled["vae_lab_scaling"]) == {"scale", "shift"}
        assert family in note and "model latent" in note and "turned into a raw" in note
        assert "marked as scaled" in kept

    def test_a_connected_model_gives_its_space(self, draw, vae):
        from comfy import latent_formats

        raw, note = draw(space="from model", model=OfFormat(latent_formats.SDXL()), vae=vae)
        unit = draw(vae=vae)[0]["samples"]
        torch.testing.assert_close(raw["samples"], latent_formats.SDXL().process_out(unit))
        assert "0.13025" in note
        with pytest.raises(ValueError, match="16 channels for the connected model, got 4"):
            draw(space="from model", model=OfFormat(latent_formats.Flux()), vae=vae)
        assert draw(space="from model", model=OfFormat(latent_formats.Flux()))[0][
            "samples"
        ].shape == (1, 16, 64, 64)

    def test_decode_undoes_the_mark(self, node, run, draw, vae):
        widgets = {"space": "SD1 / SD2", "width": 64, "height": 64, "vae": vae}
        decode = node("VAELabDecode")
        raw = run(decode, samples=draw(**widgets)[0], vae=vae)[0]
        scaled = run(decode, samples=draw(keep_scaled=True, **widgets)[0], vae=vae)[0]
        torch.testing.assert_close(raw, scaled, atol=1e-4, rtol=0)
        assert raw.shape == (1, 64, 64, 3)

    def test_spread_is_a_factor(self, draw):
        unit, note = draw(seed=1)
        half, told = draw(seed=1, spread=0.5)
        assert torch.equal(half["samples"], unit["samples"] / 2)
        assert "N(0, I)" in note and "raw latent space" in note
        assert "N(0, 0.5² I)" in told

    def test_an_odd_size_is_told(self, draw, vae):
        latent, note = draw(width=100, height=64, vae=vae)
        assert latent["samples"].shape == (1, 4, 8, 12)
        assert "96 x 64 pixels at ratio 8 (asked for 100 x 64)" in note

    def test_a_family_of_other_channels_is_refused(self, draw, pixel_vae):
        with pytest.raises(ValueError, match="^Latent Sample: .*4 channels for SDXL, got 3"):
            draw(space="SDXL", vae=pixel_vae)

    def test_a_vae_of_audio_is_refused(self, draw, vae):
        audio = copy.copy(vae)
        audio.latent_dim = 1  # as ComfyUI's class says of Stable Audio's VAE
        with pytest.raises(ValueError, match="^Latent Sample: .*pictures or video"):
            draw(vae=audio)


class TestAround:
    def test_by_hand(self, draw, core_noise):
        latent = samples(2, 4, 8, 8) * torch.tensor([1.0, 7.0]).view(2, 1, 1, 1)
        result, note = draw(mode=AROUND, samples={"samples": latent}, spread=0.25, seed=6)
        std = latent.double().flatten(1).std(1, correction=0).view(2, 1, 1, 1)
        expected = latent.double() + 0.25 * std * core_noise(latent, 6).double()
        torch.testing.assert_close(result["samples"].double(), expected, rtol=1e-5, atol=1e-5)
        assert "own standard deviation" in note and "raw units" in note

    def test_no_spread_is_the_latent_itself(self, draw):
        latent = samples(2, 4, 8, 8)
        result, _ = draw(mode=AROUND, samples={"samples": latent}, spread=0.0, batch_size=2)
        assert torch.equal(result["samples"], latent.repeat_interleave(2, 0))

    def test_the_posterior_is_what_vae_encode_samples(self, node, run, draw, vae):
        encode = node("VAELabEncode")
        for scaling in ("none (ComfyUI standard)", "SD1 / SD2", "Playground 2.5"):
            widgets = {"pixels": picture(), "vae": vae, "scaling": scaling, "seed": 12}
            mean, std, *_ = run(encode, **widgets)
            theirs = run(encode, posterior="sample", **widgets)[0]
            for given in ({"samples": mean}, {"samples": mean, "std": std}):
                ours, note = draw(mode=POSTERIOR, seed=12, **given)
                torch.testing.assert_close(ours["samples"], theirs["samples"], rtol=1e-4, atol=1e-4)
                assert ours.get("vae_lab_scaling") == theirs.get("vae_lab_scaling")
                assert "σ of the posterior" in note

    def test_a_posterior_needs_its_std(self, draw, pixel_vae, node, run):
        latent = {"samples": samples(1, 4, 8, 8)}
        with pytest.raises(ValueError, match="^Latent Sample: .*VAE Encode"):
            draw(mode=POSTERIOR, samples=latent)
        with pytest.raises(ValueError, match=r"\[1, 4, 8, 8\] and \[1, 4, 8, 9\]"):
            draw(mode=POSTERIOR, samples=latent, std={"samples": torch.ones(1, 4, 8, 9)})
        mean, none, *_ = run(node("VAELabEncode"), pixels=picture(), vae=pixel_vae)
        with pytest.raises(ValueError, match="^Latent Sample: .*no posterior"):
            draw(mode=POSTERIOR, samples=mean, std=none)

    def test_draws_are_the_same_in_any_company(self, node, draw):
        whole = {"samples": samples(3, 4, 8, 8)}
        picked = node("LatentFromBatch")().frombatch(whole, 1, 1)[0]
        together = draw(mode=AROUND, samples=whole, batch_size=4)[0]["samples"]
        alone = draw(mode=AROUND, samples=picked, batch_size=4)[0]["samples"]
        assert torch.equal(alone, together[4:8])
        assert len({tuple(item.flatten().tolist()) for item in together}) == 12

    def test_what_stands_beside_the_samples_follows(self, draw):
        latent = {
            "samples": samples(2, 4, 8, 8),
            "noise_mask": torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]),
            "batch_index": [3, 5],
            "vae_lab_scaling": {"scale": 0.13025, "shift": 0.0},
            "vae_lab_std": torch.ones(2, 4, 8, 8),
        }
        before = {key: latent[key].clone() for key in ("samples", "noise_mask", "vae_lab_std")}
        result, note = draw(mode=AROUND, samples=latent, batch_size=2)
        assert result["batch_index"] == [3, 3, 5, 5]
        assert result["noise_mask"][:, 0, 0, 0].tolist() == [0, 0, 1, 1]
        assert result["vae_lab_scaling"] == latent["vae_lab_scaling"]
        assert "vae_lab_std" not in result and "0.13025" in note
        assert all(torch.equal(latent[key], value) for key, value in before.items())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_in_and_out(self, draw, dtype):
        latent = samples(1, 4, 3, 8, 8).to(dtype)
        result = draw(mode=AROUND, samples={"samples": latent})[0]["samples"]
        exact = draw(mode=AROUND, samples={"samples": latent.float()})[0]["samples"]
        assert result.dtype == dtype and not result.requires_grad
        assert torch.equal(result, exact.to(dtype))

    def test_values_that_are_no_numbers_stay_in_their_item(self, draw):
        latent = samples(3, 4, 8, 8)
        latent[1, 0, 0, 0] = math.nan
        result = draw(mode=AROUND, samples={"samples": latent})[0]["samples"]
        assert result[1].isnan().any() and result[[0, 2]].isfinite().all()

    def test_a_latent_is_needed_and_must_vary(self, draw):
        with pytest.raises(ValueError, match="^Latent Sample: .*LATENT to be connected"):
            draw(mode=AROUND)
        with pytest.raises(ValueError, match="^Latent Sample: .*constant"):
            draw(mode=AROUND, samples={"samples": torch.zeros(1, 4, 8, 8)})

    @pytest.mark.parametrize("shape", [(0, 4, 8, 8), (1, 4, 0, 8), (1, 4, 8), (1, 1, 1, 1, 8, 8)])
    def test_latents_of_no_use(self, draw, shape):
        with pytest.raises(ValueError, match="^Latent Sample: expected samples"):
            draw(mode=AROUND, samples={"samples": torch.zeros(shape)})

    def test_a_nested_latent(self, draw):
        from comfy.nested_tensor import NestedTensor

        with pytest.raises(ValueError, match="^Latent Sample: .*nested"):
            draw(mode=AROUND, samples={"samples": NestedTensor([torch.zeros(1, 4, 8, 8)])})


class TestRefusals:
    BAD = [
        ({"spread": math.nan}, "spread from 0 to 1000"),
        ({"spread": math.inf}, "spread from 0 to 1000"),
        ({"width": -8}, "width from 1 to 16384"),
        ({"height": 2**63}, "height from 1"),
        ({"width": math.nan}, "width from 1"),
        ({"width": 4}, "at least 8 x 8 pixels"),
        ({"batch_size": 0}, "batch_size from 1"),
        ({"channels": -1}, "channels from 1"),
        ({"ratio": 0}, "ratio from 1"),
        ({"seed": -1}, "seed from 0"),
        ({"seed": 2**64}, "seed from 0"),
        ({"mode": "x", "samples": {"samples": torch.ones(1, 4, 8, 8)}}, "a mode of the list"),
        ({"space": "x"}, "a scaling of the list"),
        ({"space": "from model"}, "expects a MODEL"),
        ({"width": 16384, "height": 16384, "batch_size": 4096}, "latents of at most"),
    ]

    @pytest.mark.parametrize(("widgets", "words"), BAD)
    def test_hostile_widgets(self, draw, widgets, words):
        with pytest.raises(ValueError, match=f"^Latent Sample: .*{words}"):
            draw(**widgets)
