"""Noise against formulas in float64: its variance, the ways it is put in, what stays as it is."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from vae_core import noise
from vae_core.scaling import NONE, scaling_of

KINDS = ("gaussian", "uniform", "pyramid")
SHAPE = (3, 4, 16, 12)


def latents(shape: Sequence[int] = SHAPE, seed: int = 5) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 4 + 1


def amplitude(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


class TestDraws:
    @pytest.mark.parametrize("kind", KINDS)
    def test_mean_0_and_variance_1(self, kind: str) -> None:
        """Over many items, as the coarse octaves hold few draws each."""
        values = noise.unit_noise(kind, (1500, 4, 8, 8), 1).double()
        assert values.mean().abs() < 0.02
        assert values.var(correction=0).item() == pytest.approx(1, abs=0.03)

    @pytest.mark.parametrize("gain", [0.5, 2.0])
    def test_every_cell_of_a_pyramid_has_variance_1(self, gain: float) -> None:
        """At borders too, where enlarging damps less."""
        values = noise.unit_noise("pyramid", (2000, 4, 9, 14), 2, octave_gain=gain).double()
        per_cell = values.square().mean((0, 1))
        spread = math.sqrt(2 / 8000)
        assert (per_cell - 1).abs().max() < 5 * spread

    def test_a_pyramid_is_smooth_and_gaussian_noise_is_not(self) -> None:
        neighbours = {}
        for kind in KINDS:
            values = noise.unit_noise(kind, (200, 1, 32, 32), 3).double()
            neighbours[kind] = (values[..., 1:] * values[..., :-1]).mean().item()
        assert neighbours["gaussian"] == pytest.approx(0, abs=0.01)
        assert neighbours["uniform"] == pytest.approx(0, abs=0.01)
        assert neighbours["pyramid"] > 0.5

    def test_more_gain_means_larger_blotches(self) -> None:
        def roughness(gain: float) -> float:
            values = noise.unit_noise("pyramid", (20, 2, 64, 64), 4, octave_gain=gain)
            return values.diff(dim=-1).square().mean().item()

        assert roughness(0) > roughness(0.5) > roughness(1) > roughness(2)

    def test_uniform_noise_has_its_bounds_and_its_fourth_moment(self) -> None:
        values = noise.unit_noise("uniform", (8, 4, 64, 64), 6).double()
        assert values.abs().max() <= math.sqrt(3) + 1e-6
        assert values.pow(4).mean().item() == pytest.approx(9 / 5, abs=0.02)

    def test_a_pyramid_of_no_gain_is_gaussian_noise(self) -> None:
        flat = noise.unit_noise("pyramid", (1, 4, 16, 16), 7, octave_gain=0)
        torch.testing.assert_close(flat, noise.unit_noise("gaussian", (1, 4, 16, 16), 7))

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_seed_decides(self, kind: str) -> None:
        first, again = (noise.unit_noise(kind, SHAPE, 2**64 - 1) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, noise.unit_noise(kind, SHAPE, 0))

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_process_keeps_its_random_state(self, kind: str) -> None:
        state = torch.random.get_rng_state()
        noise.unit_noise(kind, SHAPE, 8, [4, 1, 1])
        assert torch.equal(state, torch.random.get_rng_state())

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_index_keeps_its_noise_in_any_company(self, kind: str) -> None:
        together = noise.unit_noise(kind, (4, 4, 7, 5), 9, [0, 3, 5, 3])
        alone = noise.unit_noise(kind, (1, 4, 7, 5), 9, [3])
        assert torch.equal(together[1:2], alone)
        assert torch.equal(together[3:4], alone)
        assert not torch.equal(together[2:3], alone)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 9), (1, 16, 3, 4, 5)])
    def test_any_size_and_rank(self, kind: str, shape: tuple[int, ...]) -> None:
        values = noise.unit_noise(kind, shape, 10)
        assert values.shape == shape
        assert values.dtype == torch.float32
        assert values.isfinite().all()

    def test_the_loop_over_draws_can_be_watched(self) -> None:
        seen = []

        def watch(items):
            for item in items:
                seen.append(item)
                yield item

        noise.unit_noise("gaussian", (2, 1, 4, 4), 0, [1, 4], each=watch)
        assert seen == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("indices", [[0], [0, 1, 2, 3], [0, -1, 2]])
    def test_indices_that_do_not_fit_are_refused(self, indices: list[int]) -> None:
        with pytest.raises(ValueError, match="Expected 3 noise indices"):
            noise.unit_noise("gaussian", SHAPE, 0, indices)

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(ValueError, match="gaussian, uniform, pyramid, got 'perlin'"):
            noise.unit_noise("perlin", SHAPE, 0)


class TestAdding:
    def test_by_hand(self) -> None:
        z, n = latents(), noise.unit_noise("gaussian", SHAPE, 1)
        expected = z.double() + 0.3 * n.double()
        torch.testing.assert_close(
            noise.added(z, n, amplitude(0.3)).double(), expected, rtol=1e-6, atol=1e-6
        )

    def test_spread_is_that_of_numpy(self) -> None:
        z = latents()
        expected = z.double().numpy().std(axis=(1, 2, 3))
        np.testing.assert_allclose(noise.spread(z).flatten(), expected, rtol=1e-6)
        assert noise.spread(z).shape == (3, 1, 1, 1)


class TestMixing:
    @pytest.mark.parametrize("family", ["sd1", "sdxl", "playground25"])
    def test_raw_latents_are_mixed_in_model_space(self, family: str) -> None:
        z, n, t = latents(), noise.unit_noise("gaussian", SHAPE, 1), 0.36
        scale, shift = (np.asarray(value).reshape(-1, 1, 1) for value in scaling_of(family))
        model = (z.double().numpy() - shift) * scale
        expected = (math.sqrt(1 - t) * model + math.sqrt(t) * n.double().numpy()) / scale + shift
        ours = noise.mixed(z, n, amplitude(math.sqrt(t)), scaling_of(family))
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
    def test_variance_1_stays_1(self, t: float) -> None:
        z = noise.unit_noise("gaussian", (16, 4, 64, 64), 1)
        n = noise.unit_noise("gaussian", (16, 4, 64, 64), 2)
        result = noise.mixed(z, n, amplitude(math.sqrt(t)), NONE)
        assert result.double().var().item() == pytest.approx(1, abs=0.01)

    def test_all_noise_is_noise_alone(self) -> None:
        n = noise.unit_noise("gaussian", SHAPE, 1)
        assert torch.equal(noise.mixed(latents(), n, amplitude(1.0), NONE), n)

    def test_a_weight_of_half_keeps_the_variance_too(self) -> None:
        """Noise at half its amplitude; the signal makes up for it."""
        z, n = latents(), noise.unit_noise("gaussian", SHAPE, 1)
        factor = noise.amplitudes(torch.tensor([0.8]), SHAPE, torch.tensor([1.0, 0.5, 0.5, 0.0]))
        half = noise.mixed(z, n, factor, NONE)[:, 1]
        expected = math.sqrt(1 - 0.16) * z[:, 1].double() + 0.4 * n[:, 1].double()
        torch.testing.assert_close(half.double(), expected, rtol=1e-6, atol=1e-6)


class TestAmplitudes:
    def test_item_by_item_all_levels_of_each(self) -> None:
        factor = noise.amplitudes(torch.tensor([0.0, 0.5]), SHAPE)
        assert factor.flatten().tolist() == [0, 0.5, 0, 0.5, 0, 0.5]
        assert factor.shape == (6, 1, 1, 1)

    def test_weights_and_mask_multiply(self) -> None:
        mask = torch.zeros(2, 1, 1, 1, 3)
        mask[1, ..., 2] = 0.5
        weights = torch.tensor([1.0, 2.0])
        factor = noise.amplitudes(torch.tensor([1.0, 3.0]), (2, 2, 1, 1, 3), weights, mask)
        assert factor.shape == (4, 2, 1, 1, 3)
        assert factor[:2].count_nonzero() == 0
        assert factor[2, :, 0, 0].tolist() == [[0, 0, 0.5], [0, 0, 1]]
        assert factor[3, :, 0, 0].tolist() == [[0, 0, 1.5], [0, 0, 3]]


@pytest.mark.parametrize("way", ["added", "mixed"])
class TestBoth:
    @staticmethod
    def apply(way: str, z: torch.Tensor, n: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return (
            noise.added(z, n, factor)
            if way == "added"
            else noise.mixed(z, n, factor, scaling_of("flux"))
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_amplitude_0_changes_no_bit(self, way: str, dtype: torch.dtype) -> None:
        z = latents().to(dtype)
        z[0, 0, 0, 0] = math.nan
        result = self.apply(way, z, noise.unit_noise("gaussian", SHAPE, 1), amplitude(0.0))
        assert torch.equal(result.view(torch.uint8), z.view(torch.uint8))

    def test_outside_the_mask_no_bit_changes(self, way: str) -> None:
        z, n = latents(), noise.unit_noise("gaussian", SHAPE, 1)
        mask = torch.zeros(3, 1, 16, 12)
        mask[1, :, 4:9, 2:6] = 1
        result = self.apply(way, z, n, noise.amplitudes(torch.tensor([0.7]), SHAPE, None, mask))
        inside = mask.expand(SHAPE) > 0
        assert torch.equal(result[~inside], z[~inside])
        assert (result[inside] != z[inside]).all()

    def test_a_channel_of_weight_0_is_untouched(self, way: str) -> None:
        z, n = latents(), noise.unit_noise("gaussian", SHAPE, 1)
        weights = torch.tensor([1.0, 1.0, 0.0, 0.5])
        result = self.apply(way, z, n, noise.amplitudes(torch.tensor([0.7]), SHAPE, weights))
        assert torch.equal(result[:, 2], z[:, 2])
        assert not torch.equal(result[:, 3], z[:, 3])

    def test_half_precision_is_computed_in_float32(self, way: str) -> None:
        z, n = latents().half(), noise.unit_noise("gaussian", SHAPE, 1)
        result = self.apply(way, z, n, amplitude(0.4))
        assert result.dtype == torch.float16
        assert torch.equal(result, self.apply(way, z.float(), n, amplitude(0.4)).half())

    def test_a_batch_is_its_items_one_by_one(self, way: str) -> None:
        z, n = latents(), noise.unit_noise("gaussian", SHAPE, 1)
        whole = self.apply(way, z, n, amplitude(0.4))
        single = [self.apply(way, z[i : i + 1], n[i : i + 1], amplitude(0.4)) for i in range(3)]
        assert torch.equal(whole, torch.cat(single))

    def test_inputs_stay_as_they_are(self, way: str) -> None:
        z, n = latents(), noise.unit_noise("gaussian", SHAPE, 1)
        before = z.clone(), n.clone()
        self.apply(way, z, n, amplitude(0.4))
        assert torch.equal(z, before[0])
        assert torch.equal(n, before[1])
