"""Latent Interpolate in a real ComfyUI: against core's own node, and the faults of others."""

import math

import pytest
import torch
from comfy.nested_tensor import NestedTensor

MODES = ["lerp", "slerp", "lerp, norm kept"]
SCOPES = ["whole item", "each channel", "each position"]
FLUX = {"scale": 0.3611, "shift": 0.1159}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def keys(*shape: int, count: int = 2, **more) -> dict:
    """Inputs latent_a, latent_b, ... that differ, each with `more` beside its samples."""
    return {
        f"latent_{letter}": {"samples": normal(*shape, seed=seed), **more}
        for seed, letter in enumerate("abcdefgh"[:count])
    }


def copied(value):
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(7), other.nan_to_num(7)) and one.dtype == other.dtype
    return one == other


@pytest.fixture
def interpolate(node, run):
    """Runs the node; gives the LATENT."""
    return lambda **inputs: run(node("VAELabLatentInterpolate"), **inputs)[0]


@pytest.fixture
def frames(interpolate):
    """Runs the node on keys [B, ...]; gives its frames as [B, N, ...]."""

    def run_on(**inputs):
        batch = max(len(inputs[name]["samples"]) for name in inputs if name.startswith("latent_"))
        return interpolate(**inputs)["samples"].unflatten(0, (batch, -1))

    return run_on


@pytest.fixture
def core(run):
    """Core's LatentInterpolate at a ratio, in samples."""
    import comfy_extras.nodes_post_processing  # noqa: F401 (newer versions: each imports the other)
    from comfy_extras.nodes_latent import LatentInterpolate

    return lambda a, b, ratio: run(
        LatentInterpolate, samples1={"samples": a}, samples2={"samples": b}, ratio=ratio
    )[0]["samples"]


KEPT = {"mode": "lerp, norm kept", "scope": "each position"}


class TestFaultsOfOthers:
    def test_core_latent_interpolate_one_item_is_what_core_gives(self, frames, core):
        found = frames(**keys(1, 4, 9, 7), **KEPT, frames=5)[0]
        for i in range(5):
            theirs = core(normal(1, 4, 9, 7), normal(1, 4, 9, 7, seed=1), 1 - i / 4)
            torch.testing.assert_close(found[i : i + 1], theirs, atol=2e-6, rtol=0)

    def test_core_latent_interpolate_raises_for_a_batch_of_2(self, frames, core):
        with pytest.raises(RuntimeError, match="must match the size"):
            core(normal(2, 4, 9, 7), normal(2, 4, 9, 7, seed=1), 0.5)
        assert frames(**keys(2, 4, 9, 7), **KEPT).shape == (2, 8, 4, 9, 7)

    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("mode", MODES)
    def test_core_latent_interpolate_mixes_items_where_batch_equals_channels(
        self, frames, core, mode, scope
    ):
        inputs = keys(4, 4, 9, 7)
        a, b = (latent["samples"] for latent in inputs.values())
        alone = torch.cat([core(a[i : i + 1], b[i : i + 1], 0.5) for i in range(4)])
        assert (core(a, b, 0.5) - alone).abs().max() > 1
        together = frames(**inputs, mode=mode, scope=scope)
        for i in range(4):
            one = {name: {"samples": x["samples"][i : i + 1]} for name, x in inputs.items()}
            torch.testing.assert_close(
                together[i : i + 1], frames(**one, mode=mode, scope=scope), atol=1e-6, rtol=1e-6
            )

    @pytest.mark.parametrize("mode", MODES)
    def test_core_latent_interpolate_ratio_is_inverted_here_the_first_frame_is_a(
        self, frames, core, mode
    ):
        inputs = keys(1, 4, 5, 5)
        a, b = (latent["samples"] for latent in inputs.values())
        torch.testing.assert_close(core(a, b, 1.0), a)
        found = frames(**inputs, mode=mode)[0]
        assert torch.equal(found[:1], a) and torch.equal(found[-1:], b)

    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("mode", MODES)
    def test_core_latent_blend_has_no_5d(self, frames, mode, scope):
        found = frames(**keys(2, 16, 3, 4, 5, count=3), mode=mode, scope=scope, frames=5)
        assert found.shape == (2, 5, 16, 3, 4, 5)
        assert torch.equal(found[:, 2], normal(2, 16, 3, 4, 5, seed=1))

    @pytest.mark.parametrize("factors", [(1, 1), (1, 3), (1, -1), (2, -1), (0, 1), (1, 0), (0, 0)])
    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("mode", MODES)
    def test_slerp_is_nan_for_equal_parallel_opposite_and_zero(self, frames, mode, scope, factors):
        a, b = ({"samples": normal(2, 4, 6, 5) * factor} for factor in factors)
        found = frames(latent_a=a, latent_b=b, mode=mode, scope=scope, frames=9)
        assert found.isfinite().all()
        norms = found.flatten(2).norm(dim=2)
        low, high = norms[:, [0, -1]].aminmax(dim=1)
        assert (norms <= high[:, None] * 1.00001).all()
        if mode != "lerp":
            assert (norms >= low[:, None] * 0.99999).all()

    def test_slerp_latent_prints_ignoring_where_shapes_differ(self, interpolate, capsys):
        a, b = {"samples": normal(1, 4, 8, 8)}, {"samples": normal(1, 4, 8, 12)}
        sentence = r"^Latent Interpolate: .*latent_a with shape \[1, 4, 8, 8\].*latent_b with"
        with pytest.raises(ValueError, match=sentence):
            interpolate(latent_a=a, latent_b=b)
        found = interpolate(latent_a=a, latent_b=b, sizes="resize to the first")
        assert torch.equal(found["samples"][-1], b["samples"][0, ..., 2:10])
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize("mode", MODES)
    def test_mtb_lerp_latent_overwrote_its_input(self, interpolate, mode):
        inputs = keys(
            2, 4, 6, 5, count=3, noise_mask=torch.ones(2, 1, 6, 5), batch_index=[3, 4], other=[1]
        )
        inputs["mask"] = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0))
        before = copied(inputs)
        result = interpolate(**inputs, mode=mode, path="ping-pong")
        with torch.inference_mode():
            result["samples"].zero_()
        result["batch_index"].append(9)
        assert same(inputs, before)

    def test_blends_drop_noise_mask_and_batch_index(self, interpolate):
        masks = torch.stack([torch.zeros(1, 6, 5), torch.ones(1, 6, 5)])
        inputs = keys(2, 4, 6, 5, noise_mask=masks, batch_index=[3, 8], other="stays")
        found = interpolate(**inputs, frames=3)
        assert found["noise_mask"][:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
        assert found["batch_index"] == [3, 3, 3, 8, 8, 8] and found["other"] == "stays"

    def test_unseeded_ones_differ_from_run_to_run(self, interpolate):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        opposite = {"latent_a": {"samples": normal(1, 4, 6, 5)}}
        opposite["latent_b"] = {"samples": -normal(1, 4, 6, 5)}
        first = interpolate(**opposite, mode="slerp")["samples"]
        torch.manual_seed(2)
        assert torch.equal(first, interpolate(**opposite, mode="slerp")["samples"])
        torch.manual_seed(1)
        interpolate(**opposite, mode="slerp")
        assert torch.equal(torch.get_rng_state(), state)

    def test_channels_of_4_and_16_crash_without_a_word(self, interpolate):
        a, b = {"samples": normal(1, 4, 6, 5)}, {"samples": normal(1, 16, 6, 5)}
        sentence = "latent_a with 4 and latent_b with 16: .*SD1, SD2 and SDXL .*FLUX"
        with pytest.raises(ValueError, match=sentence):
            interpolate(latent_a=a, latent_b=b)


class TestKeys:
    def test_up_to_eight_in_order_and_gaps_do_not_matter(self, frames):
        found = frames(**keys(1, 4, 3, 3, count=8), frames=15)[0]
        for seed in range(8):
            assert torch.equal(found[2 * seed], normal(1, 4, 3, 3, seed=seed)[0])
        three = keys(1, 4, 3, 3, count=3)
        gap = {"latent_h": three["latent_c"], "latent_a": three["latent_a"]}
        gap["latent_d"] = three["latent_b"]
        assert torch.equal(frames(**three), frames(**gap))

    def test_the_items_of_one_batch_as_keys(self, interpolate):
        batch = {"samples": normal(3, 4, 5, 5), "batch_index": [7, 8, 9]}
        found = interpolate(latent_a=batch, keys="each item of a batch", frames=5)
        assert torch.equal(found["samples"][::2], batch["samples"])
        assert found["batch_index"] == [7] * 5
        loop = interpolate(latent_a=batch, keys="each item of a batch", frames=6, path="loop")
        assert torch.equal(loop["samples"][::2], batch["samples"])

    def test_one_key_is_none_too_many(self, interpolate):
        one = {"samples": normal(3, 4, 5, 5)}
        with pytest.raises(ValueError, match="Latent Interpolate: .*got one: connect latent_b"):
            interpolate(latent_a=one)
        one["samples"] = one["samples"][:1]
        with pytest.raises(ValueError, match="got one"):
            interpolate(latent_a=one, keys="each item of a batch")

    def test_a_batch_of_1_stands_for_every_item_and_others_are_refused(self, frames, interpolate):
        one, three = {"samples": normal(1, 4, 5, 5)}, {"samples": normal(3, 4, 5, 5, seed=1)}
        found = frames(latent_a=one, latent_b=three)
        assert torch.equal(found[:, 0], one["samples"].expand(3, -1, -1, -1))
        assert torch.equal(found[:, -1], three["samples"])
        one["noise_mask"] = torch.ones(1, 1, 5, 5)
        assert interpolate(latent_a=one, latent_b=three)["noise_mask"].shape[0] in (1, 24)
        two = {"samples": normal(2, 4, 5, 5)}
        with pytest.raises(ValueError, match="latent_b with 2 items and latent_a with 3"):
            interpolate(latent_a=three, latent_b=two)

    def test_marks_that_differ_are_both_named_and_equal_ones_kept(self, interpolate):
        scaled, raw = keys(1, 16, 5, 5, count=1)["latent_a"], {"samples": normal(1, 16, 5, 5)}
        scaled["vae_lab_scaling"] = FLUX
        other = raw | {"vae_lab_scaling": {"scale": 1.5305, "shift": 0.0609}}
        with pytest.raises(ValueError, match=r"latent_a scaled .*FLUX.*latent_b raw: .*Rescale"):
            interpolate(latent_a=scaled, latent_b=raw)
        with pytest.raises(ValueError, match=r"latent_a scaled .*FLUX.*latent_b scaled .*SD3"):
            interpolate(latent_a=scaled, latent_b=other)
        assert interpolate(latent_a=scaled, latent_b=scaled)["vae_lab_scaling"] == FLUX
        unit = raw | {"vae_lab_scaling": {"scale": 1.0, "shift": 0.0}}
        interpolate(latent_a=raw, latent_b=unit)

    def test_pictures_and_videos_are_not_mixed(self, interpolate):
        picture, video = {"samples": normal(1, 4, 5, 5)}, {"samples": normal(1, 4, 2, 5, 5)}
        longer = {"samples": normal(1, 4, 3, 5, 5)}
        for one, other in ((picture, video), (video, longer)):
            with pytest.raises(ValueError, match="all pictures, or all videos of one length"):
                interpolate(latent_a=one, latent_b=other)

    def test_videos_of_another_size_are_resized_on_request(self, frames):
        a, b = {"samples": normal(1, 4, 2, 5, 5)}, {"samples": normal(1, 4, 2, 10, 10)}
        found = frames(latent_a=a, latent_b=b, sizes="resize to the first")
        assert found.shape == (1, 8, 4, 2, 5, 5)

    def test_the_spread_of_an_encoded_picture_is_not_passed_on(self, interpolate):
        assert "vae_lab_std" not in interpolate(**keys(1, 4, 5, 5, vae_lab_std=torch.ones(1)))


class TestMask:
    def test_outside_the_first_key_stays(self, frames):
        inputs = keys(2, 4, 4, 4)
        mask = torch.zeros(1, 32, 32)
        mask[:, :, 16:] = 1
        plain, found = frames(**inputs), frames(**inputs, mask=mask)
        first = inputs["latent_a"]["samples"][:, None].expand_as(plain)
        assert torch.equal(found[..., :2], first[..., :2])
        assert torch.equal(found[..., 2:], plain[..., 2:])

    def test_one_mask_for_each_item(self, frames, interpolate):
        inputs = keys(2, 4, 4, 4)
        found = frames(**inputs, mask=torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]))
        assert torch.equal(found[0, -1], inputs["latent_a"]["samples"][0])
        assert torch.equal(found[1], frames(**inputs)[1])
        with pytest.raises(ValueError, match="latent_a with 2 items and mask with 3"):
            interpolate(**inputs, mask=torch.ones(3, 4, 4))

    def test_for_videos(self, frames):
        inputs = keys(1, 4, 3, 4, 4)
        found = frames(**inputs, mask=torch.zeros(1, 64, 64))
        assert torch.equal(found[0, -1], inputs["latent_a"]["samples"][0])

    def test_what_is_no_mask_is_refused(self, interpolate):
        with pytest.raises(ValueError, match=r"a mask \[M, H, W\], got"):
            interpolate(**keys(1, 4, 4, 4), mask=torch.ones(0, 4, 4))


class TestRobustness:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -1, 0, 1, 4097, 2**63])
    def test_absurd_numbers_of_frames(self, interpolate, value):
        with pytest.raises(ValueError, match="^Latent Interpolate: expected frames from 2 to 4096"):
            interpolate(**keys(1, 4, 4, 4), frames=value)

    def test_more_than_anyone_can_mean_is_refused_before_it_is_made(self, interpolate):
        large = {"samples": torch.zeros(1).expand(1, 16, 512, 512)}
        with pytest.raises(ValueError, match="at most 2,147,483,648 values, got .1, 4096, 16"):
            interpolate(latent_a=large, latent_b=large, frames=4096)

    @pytest.mark.parametrize("name", ["mode", "scope", "path", "easing", "easing_span"])
    def test_choices_that_are_none(self, interpolate, name):
        with pytest.raises(ValueError, match="^Latent Interpolate: .* out of .*, got '../x'"):
            interpolate(**keys(1, 4, 4, 4), **{name: "../x"})

    @pytest.mark.parametrize("shape", [(0, 4, 8, 8), (1, 4, 0, 8), (4, 8, 8), (1, 4, 8)])
    def test_empty_and_other_ranks(self, interpolate, shape):
        for inputs in (
            {
                "latent_a": {"samples": torch.zeros(shape)},
                "latent_b": {"samples": normal(1, 4, 8, 8)},
            },
            {
                "latent_b": {"samples": torch.zeros(shape)},
                "latent_a": {"samples": normal(1, 4, 8, 8)},
            },
        ):
            with pytest.raises(ValueError, match="^Latent Interpolate: expected latent_[ab]"):
                interpolate(**inputs)

    def test_integers_and_nested_ones(self, interpolate):
        good = {"samples": normal(1, 4, 4, 4)}
        whole = {"samples": torch.ones(1, 4, 4, 4, dtype=torch.int64)}
        nested = {"samples": NestedTensor([normal(1, 4, 4, 4), normal(1, 8, 5)])}
        for bad in (whole, nested):
            with pytest.raises(ValueError, match="^Latent Interpolate: expected latent_b"):
                interpolate(latent_a=good, latent_b=bad)

    @pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 1, 1, 1), (1, 4, 1, 1, 1), (2, 3, 5, 4)])
    @pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("mode", MODES)
    def test_odd_values_and_sizes_pass_and_the_other_item_is_untouched(
        self, frames, mode, scope, value, shape
    ):
        inputs = keys(*shape)
        inputs["latent_a"]["samples"][0, 0] = value
        before = copied(inputs)
        found = frames(**inputs, mode=mode, scope=scope)
        assert same(inputs, before) and found.shape == (shape[0], 8, *shape[1:])
        assert torch.equal(found[:, -1], inputs["latent_b"]["samples"])
        assert found[1:].isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("mode", MODES)
    def test_frames_are_in_the_first_keys_dtype(self, frames, mode, dtype):
        inputs = {n: {"samples": x["samples"].to(dtype)} for n, x in keys(2, 4, 6, 5).items()}
        found = frames(**inputs, mode=mode)
        assert found.dtype == dtype
        assert torch.equal(found[:, -1], inputs["latent_b"]["samples"])
        precise = frames(
            **{n: {"samples": x["samples"].double()} for n, x in inputs.items()}, mode=mode
        )
        torch.testing.assert_close(found, precise.to(dtype))

    def test_no_gradient_is_kept(self, node):
        inputs = keys(1, 4, 4, 4)
        inputs["latent_a"]["samples"].requires_grad_()
        execute = node("VAELabLatentInterpolate").execute
        widgets = dict(mode="slerp", scope="whole item", frames=3, path="once", easing="linear")
        more = dict(easing_span="each step", keys="one per input", sizes="refuse")
        found = execute(**inputs, **widgets, **more).result[0]["samples"]
        assert not found.requires_grad and found.grad_fn is None

    def test_cancelling_stops_before_the_next_frame(self, interpolate, monkeypatch):
        import comfy.model_management as management
        import comfy.utils

        seen = []

        def hook(value, total, preview, node_id=None):
            seen.append((value, total))
            management.interrupt_current_processing(True)

        monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
        with pytest.raises(management.InterruptProcessingException):
            interpolate(**keys(1, 4, 4, 4), frames=20)
        assert seen == [(1, 20)]


def test_the_ends_decode_as_their_keys_do(node, run, vae, frames):
    """Two pictures through the bundled VAE: what comes out at the ends is the plain round trip."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 4, 4, 3, generator=generator).repeat_interleave(16, 1)
    images = images.repeat_interleave(16, 2)
    with torch.inference_mode():
        a, b = (node("VAEEncode")().encode(vae, images[i : i + 1])[0] for i in range(2))
        found = frames(latent_a=a, latent_b=b, mode="slerp", frames=3)[0]
        decode = node("VAEDecode")().decode
        for frame, latent in ((found[:1], a), (found[-1:], b)):
            assert torch.equal(decode(vae, {"samples": frame})[0], decode(vae, latent)[0])
        middle = decode(vae, {"samples": found[1:2]})[0]
    assert middle.isfinite().all() and 0.02 < middle.std() < 0.5
