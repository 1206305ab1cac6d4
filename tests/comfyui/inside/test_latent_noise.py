"""Latent Noise in ComfyUI: its noise is core's, what must not change does not, nothing is lost."""

import math

import pytest
import torch

ADD, UNITS = "add, in standard deviations", "add, in the latent's units"
PRESERVE, TIMESTEP = "variance-preserving", "at a timestep of SD's schedule"
MODES = {ADD: "0.5", UNITS: "0.5", PRESERVE: "0.5", TIMESTEP: "400"}
KINDS = ["gaussian", "uniform", "low-frequency (pyramid)"]


def samples(*shape: int, seed: int = 3) -> torch.Tensor:
    """Latents with the spread of SD1's raw ones."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 5 + 1


@pytest.fixture
def noisy(node, run):
    def add(latent, **widgets):
        given = latent if isinstance(latent, dict) else {"samples": latent}
        return run(node("VAELabLatentNoise"), samples=given, **widgets)

    return add


class TestNoise:
    @pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 9, 7), (2, 16, 3, 5, 4), (5, 1, 1, 1)])
    @pytest.mark.parametrize("seed", [0, 2**64 - 1])
    def test_gaussian_noise_is_that_of_cores_samplers(self, noisy, core_noise, shape, seed):
        latent = samples(*shape)
        alone = noisy(latent, mode=UNITS, seed=seed)[1]["samples"]
        assert torch.equal(alone, core_noise(latent, seed))

    @pytest.mark.parametrize("indices", [[0, 1, 2], [7, 2, 2], [3, 0, 5]])
    def test_gaussian_noise_follows_batch_index_as_in_core(self, noisy, core_noise, indices):
        latent = {"samples": samples(3, 4, 9, 7), "batch_index": indices}
        alone = noisy(latent, seed=11)[1]
        assert torch.equal(alone["samples"], core_noise(latent["samples"], 11, indices))
        assert alone["batch_index"] == indices

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("mode", MODES)
    def test_an_item_picked_out_keeps_its_noise(self, node, noisy, kind, mode):
        whole = {"samples": samples(4, 4, 8, 8)}
        picked = node("LatentFromBatch")().frombatch(whole, 2, 1)[0]
        widgets = {"kind": kind, "mode": mode, "strengths": MODES[mode]}
        together = noisy(whole, **widgets)[0]["samples"]
        assert torch.equal(noisy(picked, **widgets)[0]["samples"], together[2:3])

    def test_was_latent_noise_had_no_seed(self, noisy):
        """Same seed, same result, and the process's random state is left alone."""
        latent, state = samples(2, 4, 8, 8), torch.random.get_rng_state()
        first, again, other = (noisy(latent, seed=seed)[0]["samples"] for seed in (5, 5, 6))
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert torch.equal(state, torch.random.get_rng_state())

    def test_was_latent_noise_stopped_at_strength_1(self, noisy):
        latent = samples(1, 4, 8, 8)
        strong, _, _ = noisy(latent, strengths="30")
        weak, _, _ = noisy(latent, strengths="3")
        ratio = (strong["samples"] - latent).std() / (weak["samples"] - latent).std()
        assert ratio.item() == pytest.approx(10, rel=1e-4)

    @pytest.mark.parametrize("kind", KINDS)
    def test_kj_and_ess_noise_seeded_the_whole_process(self, noisy, kind):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        noisy(samples(1, 4, 8, 8), kind=kind, seed=77)
        assert torch.equal(torch.rand(3), expected)

    @pytest.mark.parametrize("shape", [(1, 16, 4, 4), (1, 3, 32, 32), (1, 128, 2, 3, 3)])
    def test_bnk_noise_had_always_4_channels_and_ratio_8(self, noisy, shape):
        latent, alone, _ = noisy(samples(*shape), scaling="none (model latents already)")
        assert latent["samples"].shape == alone["samples"].shape == shape


class TestModes:
    def test_standard_deviations_are_each_items_own(self, noisy, core_noise):
        latent = samples(2, 4, 8, 8) * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1)
        result = noisy(latent, strengths="0.25", seed=4)[0]["samples"]
        std = latent.double().flatten(1).std(1, correction=0).view(2, 1, 1, 1)
        expected = latent.double() + 0.25 * std * core_noise(latent, 4).double()
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)

    def test_a_timestep_is_that_of_cores_own_sampling(self, noisy, core_noise):
        """Oracle: core's discrete schedule and its latent format for SD1."""
        from comfy.latent_formats import SD15
        from comfy.model_sampling import EPS, ModelSamplingDiscrete

        class Sampling(ModelSamplingDiscrete, EPS):
            pass

        latent, steps = samples(1, 4, 8, 8), [0, 250, 999]
        result = noisy(latent, mode=TIMESTEP, strengths="0, 250, 999", seed=8)[0]["samples"]
        for t, ours in zip(steps, result, strict=True):
            sigma = Sampling().sigmas[t].double()
            variance_exploding = SD15().process_in(latent).double() + sigma * core_noise(latent, 8)
            theirs = SD15().process_out(variance_exploding / (1 + sigma**2).sqrt())
            torch.testing.assert_close(ours.double(), theirs[0], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("family", ["SD1 / SD2", "SDXL", "Playground 2.5"])
    def test_a_marked_latent_is_not_scaled_twice(self, node, run, noisy, family):
        raw = {"samples": samples(2, 4, 8, 8)}
        scaled, _ = run(node("VAELabLatentRescale"), samples=raw, scaling=family)
        widgets = {"mode": PRESERVE, "strengths": "0.3"}
        from_raw = noisy(raw, scaling=family, **widgets)[0]
        from_scaled = noisy(scaled, scaling="SDXL", **widgets)[0]
        assert from_scaled["vae_lab_scaling"] == scaled["vae_lab_scaling"]
        assert "vae_lab_scaling" not in from_raw
        back, _ = run(node("VAELabLatentRescale"), samples=from_scaled, direction="model to raw")
        torch.testing.assert_close(back["samples"], from_raw["samples"], rtol=1e-4, atol=1e-4)

    def test_model_latents_already_are_taken_as_they_are(self, noisy, core_noise):
        latent = samples(1, 4, 8, 8)
        widgets = {"mode": PRESERVE, "strengths": "0.36", "scaling": "none (model latents already)"}
        expected = 0.8 * latent + 0.6 * core_noise(latent, 0)
        torch.testing.assert_close(noisy(latent, **widgets)[0]["samples"], expected)

    def test_channel_weights(self, noisy):
        latent = samples(1, 4, 8, 8)
        result = noisy(latent, channel_weights="1, 0.5; 0 ，1", mode=UNITS)[0]["samples"]
        full = noisy(latent, mode=UNITS)[0]["samples"]
        assert torch.equal(result[:, 2], latent[:, 2])
        assert torch.equal(result[:, 0], full[:, 0])
        half = (result - latent)[:, 1] / (full - latent)[:, 1]
        torch.testing.assert_close(half, torch.full_like(half, 0.5), rtol=1e-2, atol=0)


class TestPath:
    @pytest.mark.parametrize(
        ("mode", "text"), [(ADD, "0 0.5 2"), (UNITS, "0,1,3"), (PRESERVE, "0, 0.5, 1")]
    )
    def test_a_list_goes_from_clean_to_noise(self, noisy, mode, text):
        latent = samples(2, 4, 8, 8)
        result, alone, _ = noisy(latent, mode=mode, strengths=text, seed=2)
        new, noise = result["samples"], alone["samples"]
        assert new.shape == (6, 4, 8, 8)
        assert torch.equal(new[0], latent[0]) and torch.equal(new[3], latent[1])
        assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[2], noise[3])
        far = (new - latent.repeat_interleave(3, 0)).flatten(1).norm(dim=1)
        assert far[0] < far[1] < far[2] and far[3] < far[4] < far[5]

    def test_all_noise_is_the_noise_in_model_space(self, noisy):
        result, alone, _ = noisy(samples(1, 4, 8, 8), mode=PRESERVE, strengths="1")
        torch.testing.assert_close(result["samples"] * 0.18215, alone["samples"])

    def test_a_timestep_of_minus_1_is_clean(self, noisy):
        latent = samples(1, 4, 8, 8)
        result = noisy(latent, mode=TIMESTEP, strengths="-1, 0")[0]["samples"]
        assert torch.equal(result[:1], latent) and not torch.equal(result[1:], latent)

    def test_masks_and_indices_follow_their_items(self, noisy):
        mask = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
        latent = {
            "samples": samples(2, 4, 8, 8),
            "noise_mask": mask,
            "batch_index": [4, 9],
            "other": "kept",
        }
        result, alone, _ = noisy(latent, strengths="0, 1")
        assert result["batch_index"] == [4, 4, 9, 9]
        assert result["noise_mask"][:, 0, 0, 0].tolist() == [0, 0, 1, 1]
        assert result["other"] == "kept"
        assert set(alone) == {"samples", "batch_index"}
        assert torch.equal(result["samples"][:2], latent["samples"][:1].repeat(2, 1, 1, 1))
        assert not torch.equal(result["samples"][3:], latent["samples"][1:])

    def test_the_spread_of_the_posterior_does_not_stay(self, noisy):
        latent = {"samples": samples(1, 4, 8, 8), "vae_lab_std": torch.ones(1, 4, 8, 8)}
        assert "vae_lab_std" not in noisy(latent)[0]
        assert "vae_lab_std" in latent


@pytest.mark.parametrize("mode", MODES)
class TestMasks:
    def test_outside_the_mask_nothing_is_grey(self, noisy, mode):
        """Bit for bit as it was: nothing is blended, scaled or rounded there."""
        latent, mask = samples(2, 4, 8, 8), torch.zeros(1, 64, 64)
        mask[:, 16:48, 24:40] = 1
        result = noisy(latent, mode=mode, strengths=MODES[mode], mask=mask)[0]["samples"]
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[2:6, 3:5] = True
        assert torch.equal(result[..., ~inside], latent[..., ~inside])
        assert (result[..., inside] != latent[..., inside]).all()

    @pytest.mark.parametrize("form", [(1, 1, 64, 64), (1, 8, 8), (2, 1, 8, 8), (64, 64)])
    def test_the_noise_mask_is_honoured(self, noisy, mode, form):
        latent, mask = samples(2, 4, 8, 8), torch.zeros(form)
        mask[..., : form[-2] // 2, :] = 1
        given = {"samples": latent, "noise_mask": mask}
        widgets = {"mode": mode, "strengths": MODES[mode]}
        result = noisy(given, **widgets)[0]["samples"]
        assert torch.equal(result[..., 4:, :], latent[..., 4:, :])
        everywhere = noisy(latent, **widgets)[0]["samples"]
        assert torch.equal(result[..., :4, :], everywhere[..., :4, :])
        assert torch.equal(noisy(given, use_noise_mask=False, **widgets)[0]["samples"], everywhere)

    def test_both_masks_must_allow_it(self, noisy, mode):
        latent = samples(1, 4, 8, 8)
        left, top = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
        left[..., :4], top[:, :4] = 1, 1
        given = {"samples": latent, "noise_mask": left}
        changed = noisy(given, mode=mode, strengths=MODES[mode], mask=top)[0]["samples"] != latent
        assert changed[..., :4, :4].all()
        assert changed.sum() == 4 * 16

    def test_ess_noise_took_4d_masks_only(self, noisy, mode):
        """Video: a mask's items are its frames, as for core's samplers."""
        latent, mask = samples(1, 4, 3, 8, 8), torch.zeros(3, 8, 8)
        mask[1] = 1
        result = noisy(latent, mode=mode, strengths=MODES[mode], mask=mask)[0]["samples"]
        same = (result == latent).flatten(3).all(3)[0].all(0)
        assert same.tolist() == [True, False, True]


class TestLatents:
    def test_kj_noise_dropped_what_stood_beside_the_samples(self, noisy):
        latent = {"samples": samples(1, 4, 8, 8), "noise_mask": torch.ones(1, 8, 8), "x": 1}
        latent |= {"batch_index": [2], "vae_lab_scaling": {"scale": 0.13025, "shift": 0.0}}
        assert set(noisy(latent)[0]) == set(latent)

    def test_kj_noise_had_a_check_of_shapes_that_never_fired(self, noisy):
        """A mask of any size fits; what can not be one is refused."""
        for size in [(1, 5, 5), (1, 64, 48), (3, 8, 8)]:
            assert noisy(samples(1, 4, 8, 8), mask=torch.ones(size))[0]["samples"].isfinite().all()
        for wrong in (torch.ones(8), torch.ones(0, 8, 8), torch.full((1, 8, 8), math.nan)):
            with pytest.raises(ValueError, match="Latent Noise: expected a mask"):
                noisy(samples(1, 4, 8, 8), mask=wrong)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_in_and_out(self, noisy, mode, dtype):
        latent = samples(1, 4, 8, 8).to(dtype)
        widgets = {"mode": mode, "strengths": MODES[mode]}
        result, alone, _ = noisy(latent, **widgets)
        exact = noisy(latent.float(), **widgets)[0]["samples"]
        assert result["samples"].dtype == alone["samples"].dtype == dtype
        assert torch.equal(result["samples"], exact.to(dtype))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shape", [(3, 4, 8, 8), (2, 4, 3, 8, 4)])
    def test_inputs_are_untouched_and_no_gradient_is_left(self, noisy, mode, kind, shape):
        latent = {"samples": samples(*shape), "noise_mask": torch.ones(1, 8, 8)}
        before = {name: value.clone() for name, value in latent.items()}
        result, alone, _ = noisy(
            latent, mode=mode, kind=kind, strengths=MODES[mode], mask=torch.ones(1, 8, 8)
        )
        for name, value in before.items():
            assert torch.equal(latent[name], value)
        assert not result["samples"].requires_grad and not alone["samples"].requires_grad
        assert result["samples"].data_ptr() != latent["samples"].data_ptr()

    @pytest.mark.parametrize("mode", MODES)
    def test_values_that_are_no_numbers_stay_in_their_item(self, noisy, mode):
        latent = samples(3, 4, 8, 8)
        latent[1, 0, 0, 0], latent[1, 0, 0, 1] = math.nan, math.inf
        result = noisy(latent, mode=mode, strengths=MODES[mode])[0]["samples"]
        assert result[1].isnan().any()
        assert result[[0, 2]].isfinite().all()

    def test_a_constant_latent_has_no_spread_to_go_by(self, noisy):
        empty = torch.zeros(1, 4, 8, 8)
        with pytest.raises(ValueError, match="standard deviation is 0.*add, in the latent's units"):
            noisy(empty)
        assert noisy(empty, mode=UNITS)[0]["samples"].std().item() == pytest.approx(0.5, abs=0.1)
        assert noisy(empty, strengths="0")[0]["samples"].count_nonzero() == 0

    def test_a_single_value(self, noisy):
        for mode in (UNITS, PRESERVE, TIMESTEP):
            widgets = {"mode": mode, "strengths": MODES[mode]}
            widgets["scaling"] = "none (model latents already)"
            assert noisy(samples(1, 1, 1, 1), **widgets)[0]["samples"].isfinite().all()


class TestRefusals:
    @pytest.mark.parametrize(
        "shape", [(0, 4, 8, 8), (1, 4, 0, 8), (1, 4, 8), (4, 8, 8), (1, 1, 1, 1, 8, 8)]
    )
    def test_latents_of_no_use(self, noisy, shape):
        with pytest.raises(ValueError, match="Latent Noise: expected samples"):
            noisy(torch.zeros(shape))

    def test_nested_and_whole_numbers(self, noisy):
        from comfy.nested_tensor import NestedTensor

        with pytest.raises(ValueError, match="Latent Noise: .*nested"):
            noisy(NestedTensor([torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8)]))
        with pytest.raises(ValueError, match="Latent Noise: .*int64"):
            noisy(torch.zeros(1, 4, 8, 8, dtype=torch.int64))

    BAD = [
        ({"strengths": "nan"}, "from 0 to 1000, got nan"),
        ({"strengths": "0.5, 1e999"}, "got inf"),
        ({"strengths": "-1"}, "from 0 to 1000, got -1"),
        ({"strengths": ""}, "got none"),
        ({"strengths": "<img src=x>"}, "numbers such as 0, 0.5, 1"),
        ({"strengths": "half " * 1000}, "numbers such as"),
        ({"strengths": "0 " * 5000}, "at most 1024 numbers, got 5000"),
        ({"mode": PRESERVE, "strengths": "1.5"}, "from 0 to 1, got 1.5"),
        ({"mode": TIMESTEP, "strengths": "0.5"}, "whole numbers.*got 0.5"),
        ({"mode": TIMESTEP, "strengths": "1000"}, "from -1 to 999"),
        ({"mode": "x"}, "a mode of the list"),
        ({"kind": "perlin"}, "got 'perlin'"),
        ({"octave_gain": math.nan}, "octave_gain from 0 to 4"),
        ({"channel_weights": "1, 1"}, "4 numbers, one for each channel, got 2"),
        ({"channel_weights": "1, 1, 1, x"}, "channel_weights as numbers"),
        ({"channel_weights": "2 1 1 1", "mode": PRESERVE}, "channel_weights from -1 to 1"),
        ({"seed": -1}, "seed from 0"),
        ({"seed": 2**64}, "seed from 0"),
        ({"seed": math.nan}, "seed from 0"),
        ({"mode": PRESERVE, "scaling": "FLUX.1"}, "16 channels for FLUX.1, got 4"),
        ({"mode": PRESERVE, "scaling": "from model"}, "expects a MODEL"),
        ({"mode": PRESERVE, "scaling": "?"}, "a scaling of the list"),
    ]

    @pytest.mark.parametrize(("widgets", "words"), BAD)
    def test_hostile_widgets(self, noisy, widgets, words):
        with pytest.raises(ValueError, match=f"^Latent Noise: .*{words}") as caught:
            noisy(samples(1, 4, 8, 8), **widgets)
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize("indices", [[0], [0, -1], [0, 10**12]])
    def test_batch_indices_that_do_not_fit(self, noisy, indices):
        latent = {"samples": samples(2, 4, 8, 8), "batch_index": indices}
        with pytest.raises(ValueError, match="Latent Noise: .*batch_index"):
            noisy(latent)

    def test_more_than_anyone_can_mean_is_refused_before_it_is_made(self, noisy):
        large = torch.zeros(1, 1, 1, 1).expand(1, 4, 4096, 4096)
        with pytest.raises(ValueError, match="Latent Noise: .*noisy latents of at most"):
            noisy(large, strengths="0 " * 1000)

    def test_a_cancelled_run_ends_before_the_next_draw(self, noisy):
        import comfy.model_management as management

        management.interrupt_current_processing(True)
        with pytest.raises(management.InterruptProcessingException):
            noisy({"samples": samples(1, 4, 8, 8), "batch_index": [9]})


def test_what_was_done_is_told(noisy):
    latent = samples(2, 4, 8, 8)
    told = noisy(latent, mode=TIMESTEP, strengths="250")[2]
    assert "0.18215" in told and "given back raw" in told and "0.8208 latent + 0.5711" in told, told
    assert "warning" in noisy(latent * 0.18, mode=PRESERVE)[2]
    assert "warning" not in told


def test_a_photos_latent_breaks_step_by_step(noisy, vae, node):
    """The real VAE: more noise, worse picture."""
    ramp = torch.linspace(0, 1, 64)
    picture = torch.stack([ramp.expand(64, 64), ramp.expand(64, 64).T, 0 * ramp.expand(64, 64)], -1)
    with torch.inference_mode():
        latent = vae.encode(picture[None])
        path = noisy(latent, mode=PRESERVE, strengths="0, 0.05, 0.3, 1")[0]
        decoded = node("VAEDecode")().decode(vae, path)[0]
        error = (decoded - vae.decode(latent)).square().flatten(1).mean(1)
    assert error[0] < 1e-8
    assert error[1] < error[2] < error[3]
