"""Interpolation against float64 by hand, torch.lerp and SciPy, and where vectors have no angle."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import geometric_slerp

from vae_core.walk import slerp
from vae_core.walk.interpolate import MODES, SCOPES, between, fit_mask, masked, resized, sequence
from vae_core.walk.timeline import Step, timeline

SHAPES = [(2, 4, 6, 5), (2, 3, 2, 4, 5), (1, 1, 3, 3), (1, 4, 1, 1)]
SHARES = (0.0, 0.125, 0.37, 0.5, 0.9, 1.0)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def groups(x: torch.Tensor, scope: str):
    """What counts as one vector, one after the other, as float64 arrays, written as loops."""
    for item in x.double().numpy():
        if scope == "whole item":
            yield item.reshape(-1)
        elif scope == "each channel":
            yield from (channel.reshape(-1) for channel in item)
        else:
            for place in np.ndindex(*item.shape[1:]):
                yield item[(slice(None), *place)]


def lengths(x: torch.Tensor, scope: str = "whole item") -> torch.Tensor:
    return torch.tensor([np.linalg.norm(vector) for vector in groups(x, scope)])


@pytest.mark.parametrize("shape", SHAPES)
def test_lerp_is_torch_lerp(shape: tuple[int, ...]) -> None:
    a, b = normal(*shape), normal(*shape, seed=1)
    for t in SHARES:
        expected = torch.lerp(a.double(), b.double(), t).float()
        torch.testing.assert_close(between(a, b, "lerp")(t), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (2, 3, 2, 4, 5)])
def test_slerp_is_scipys_along_the_sphere(shape: tuple[int, ...], scope: str) -> None:
    a, b = normal(*shape), normal(*shape, seed=1) * 3 + 0.5
    for t in SHARES:
        ours = between(a, b, "slerp", scope)(t)
        for x, y, found in zip(
            groups(a, scope), groups(b, scope), groups(ours, scope), strict=True
        ):
            from_, to = np.linalg.norm(x), np.linalg.norm(y)
            turned = geometric_slerp(x / from_, y / to, t)
            np.testing.assert_allclose(found, turned * ((1 - t) * from_ + t * to), atol=2e-6)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (2, 3, 2, 4, 5)])
def test_kept_norm_is_the_chord_at_the_length_in_between(shape, scope: str) -> None:
    a, b = normal(*shape), normal(*shape, seed=1) * 3 + 0.5
    for t in SHARES:
        ours = between(a, b, "lerp, norm kept", scope)(t)
        for x, y, found in zip(
            groups(a, scope), groups(b, scope), groups(ours, scope), strict=True
        ):
            from_, to = np.linalg.norm(x), np.linalg.norm(y)
            chord = (1 - t) * x / from_ + t * y / to
            chord *= ((1 - t) * from_ + t * to) / np.linalg.norm(chord)
            np.testing.assert_allclose(found, chord, atol=2e-6)


def test_halfway_of_two_axes_by_hand() -> None:
    a, b = torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    a[0, 0], b[0, 1] = 2, 4
    middle = between(a, b, "slerp")(1 / 3).flatten()
    angle, length = math.pi / 6, 2 + 2 / 3
    assert middle.tolist() == pytest.approx([length * math.cos(angle), length * math.sin(angle)])


def test_lerp_shortens_what_the_others_keep() -> None:
    """Two independent gaussians are at right angles: halfway, lerp has lost 1 - 1/√2 of σ."""
    a, b = normal(1, 4, 64, 64), normal(1, 4, 64, 64, seed=1)
    assert between(a, b, "lerp")(0.5).std().item() == pytest.approx(0.5**0.5, abs=0.02)
    for mode in MODES[1:]:
        assert between(a, b, mode)(0.5).std().item() == pytest.approx(1, abs=0.02)


class TestVectorsWithoutAnAngle:
    """Popular slerps give NaN here: they divide by a sine of 0 or by a length of 0."""

    KEYS = {
        "equal": (1.0, 1.0),
        "parallel": (1.0, 2.5),
        "opposite": (1.0, -1.0),
        "opposite and longer": (1.0, -3.0),
        "zero to something": (0.0, 1.0),
        "something to zero": (1.0, 0.0),
        "zero to zero": (0.0, 0.0),
    }

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("kind", KEYS)
    def test_frames_are_finite_and_lengths_lie_between(
        self, kind: str, mode: str, scope: str, dtype: torch.dtype
    ) -> None:
        for shape in SHAPES:
            one = normal(*shape, dtype=dtype)
            a, b = (one * factor for factor in self.KEYS[kind])
            low, high = torch.stack([lengths(a, scope), lengths(b, scope)]).aminmax(dim=0)
            if mode == "lerp" or (kind.startswith("opposite") and self.lone(shape, scope)):
                low = torch.zeros_like(low)
            rounding = high.max() * 4 * torch.finfo(dtype).eps
            path = between(a, b, mode, scope)
            for t in SHARES:
                found = lengths(path(t), scope)
                assert path(t).isfinite().all()
                assert (low - rounding <= found).all() and (found <= high + rounding).all()

    @staticmethod
    def lone(shape: tuple[int, ...], scope: str) -> bool:
        """Tell whether a vector is a single number, which has no direction aside."""
        sizes = {"whole item": shape[1:], "each channel": shape[2:], "each position": shape[1:2]}
        return math.prod(sizes[scope]) == 1

    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("mode", MODES)
    def test_equal_keys_stand_still(self, mode: str, scope: str) -> None:
        a = normal(2, 4, 5, 5)
        for t in SHARES:
            torch.testing.assert_close(between(a, a, mode, scope)(t), a, rtol=2e-7, atol=0)

    @pytest.mark.parametrize("mode", MODES)
    def test_parallel_keys_grow_evenly(self, mode: str) -> None:
        a = normal(2, 4, 5, 5)
        for t in SHARES:
            torch.testing.assert_close(between(a, 2 * a, mode)(t), (1 + t) * a)

    @pytest.mark.parametrize("mode", MODES)
    def test_from_nothing_a_key_fades_in(self, mode: str) -> None:
        a = normal(2, 4, 5, 5)
        for t in SHARES:
            torch.testing.assert_close(between(torch.zeros_like(a), a, mode)(t), t * a)
            torch.testing.assert_close(between(a, torch.zeros_like(a), mode)(t), (1 - t) * a)

    @pytest.mark.parametrize("mode", MODES[1:])
    @pytest.mark.parametrize("shape", [(1, 4, 5, 5), (1, 3, 3, 3), (1, 1, 3, 3)])
    def test_opposite_keys_turn_through_a_right_angle(self, shape, mode: str) -> None:
        a = normal(*shape)
        path = between(a, -a, mode)
        middle = path(0.5)
        assert (middle * a).sum().item() == pytest.approx(0, abs=1e-4)
        assert middle.norm().item() == pytest.approx(a.norm().item(), rel=1e-5)
        assert torch.equal(middle, between(a.clone(), -a, mode)(0.5))
        torch.testing.assert_close(path(1.0), -a)

    def test_a_single_number_passes_through_zero(self) -> None:
        one = torch.ones(1, 1, 1, 1)
        found = [between(one, -one, "slerp")(t).item() for t in (0, 0.25, 0.5, 1)]
        assert found == pytest.approx([1, 0.5**0.5, 0, -1], abs=1e-7)

    def test_nearly_parallel_and_nearly_opposite_keys_keep_their_angle(self) -> None:
        """An arc cosine of the dot product has no digit left at 1e-9 radians."""
        x = torch.tensor([1.0, 0.0], dtype=torch.float64)
        for angle in (1e-9, 1e-5, math.pi - 1e-5):
            y = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
            turn = slerp.arc(x, y)
            assert turn.angle.item() == pytest.approx(angle, rel=1e-10)
            half = slerp.turned(turn, 0.5).tolist()
            assert half == pytest.approx([math.cos(angle / 2), math.sin(angle / 2)], rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_a_right_angle_is_one_for_every_axis_and_any_vector(n: int) -> None:
    vectors = torch.cat([torch.eye(n), normal(20, n)]).double()
    vectors /= slerp.norm(vectors)
    aside = slerp.right_angle(vectors)
    torch.testing.assert_close(slerp.norm(aside), torch.ones(len(vectors), 1).double())
    assert (vectors * aside).sum(-1).abs().max() < 1e-15


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
class TestSequence:
    def test_keys_are_met_bit_for_bit(self, mode: str, dtype: torch.dtype) -> None:
        keys = [normal(2, 4, 6, 5, seed=s, dtype=dtype) for s in range(3)]
        for path in ("once", "loop", "ping-pong"):
            frames = 6 if path == "loop" else 5
            steps = timeline(3, frames, path, "sine in-out")
            found = list(sequence(keys, steps, mode))
            assert len(found) == len(steps)
            for step, frame in zip(steps, found, strict=True):
                assert frame.dtype == dtype
                assert torch.equal(frame, keys[step.start]) == (step.share == 0)

    def test_each_frame_lies_between_its_own_keys(self, mode: str, dtype: torch.dtype) -> None:
        keys = [normal(2, 4, 6, 5, seed=s, dtype=dtype) for s in range(3)]
        steps = timeline(3, 9, "loop")
        for step, frame in zip(steps, sequence(keys, steps, mode), strict=True):
            expected = between(keys[step.start], keys[step.end], mode)(step.share)
            torch.testing.assert_close(frame, expected)

    def test_a_batch_is_its_items_one_by_one(self, mode: str, dtype: torch.dtype) -> None:
        keys = [normal(4, 4, 6, 5, seed=s, dtype=dtype) for s in range(3)]  # batch = channels
        steps = timeline(3, 6)
        together = torch.stack(list(sequence(keys, steps, mode)), 1)
        for i in range(4):
            alone = torch.cat(list(sequence([k[i : i + 1] for k in keys], steps, mode)))
            torch.testing.assert_close(together[i], alone, rtol=1e-6, atol=1e-6)

    def test_one_key_stands_for_every_item(self, mode: str, dtype: torch.dtype) -> None:
        one, many = normal(1, 4, 6, 5, dtype=dtype), normal(3, 4, 6, 5, seed=1, dtype=dtype)
        for keys in ([one, many], [many, one]):
            spread = [key.expand(3, -1, -1, -1) for key in keys]
            pair = (
                sequence(keys, [Step(0, 1, 0.3)], mode),
                sequence(spread, [Step(0, 1, 0.3)], mode),
            )
            torch.testing.assert_close(*(next(frames) for frames in pair))

    def test_keys_stay_as_they_were(self, mode: str, dtype: torch.dtype) -> None:
        keys = [normal(2, 4, 6, 5, seed=s, dtype=dtype) for s in range(3)]
        before = [key.clone() for key in keys]
        list(sequence(keys, timeline(3, 7, "loop"), mode, mask=torch.full((1, 1, 6, 5), 0.5)))
        assert all(torch.equal(key, copy) for key, copy in zip(keys, before, strict=True))


def test_a_frame_in_the_first_keys_dtype_and_exact_across_dtypes() -> None:
    keys = [normal(1, 4, 4, 4), normal(1, 4, 4, 4, dtype=torch.float16)]
    frames = list(sequence(keys, timeline(2, 3), "slerp"))
    assert {frame.dtype for frame in frames} == {torch.float32}
    assert torch.equal(frames[-1], keys[1].float())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("mode", MODES)
def test_a_nan_stays_to_be_seen(mode: str, scope: str) -> None:
    a, b = normal(2, 4, 4, 4), normal(2, 4, 4, 4, seed=1)
    a[0, 0, 0, 0] = math.nan
    frame = between(a, b, mode, scope)(0.5)
    assert frame[0, 0, 0, 0].isnan() and frame[1].isfinite().all()


def test_unknown_choices_are_refused() -> None:
    a = normal(1, 4, 4, 4)
    with pytest.raises(ValueError, match="a mode out of lerp, .*got 'cubic'"):
        between(a, a, "cubic")
    with pytest.raises(ValueError, match="a scope out of whole item, .*got 'row'"):
        between(a, a, "slerp", "row")


class TestMask:
    def test_exact_where_it_is_0_and_1_and_in_proportion_between(self) -> None:
        first, latent = normal(2, 4, 1, 3), normal(2, 4, 1, 3, seed=1)
        found = masked(first, latent, torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 1, 3))
        assert torch.equal(found[..., 0], first[..., 0])
        assert torch.equal(found[..., 2], latent[..., 2])
        torch.testing.assert_close(found[..., 1], 0.75 * first[..., 1] + 0.25 * latent[..., 1])

    def test_a_nan_under_the_mask_does_not_come_through(self) -> None:
        first = normal(1, 4, 2, 2)
        found = masked(first, torch.full_like(first, math.nan), torch.zeros(1, 1, 2, 2))
        assert torch.equal(found, first)

    def test_outside_the_first_key_stays_for_every_step(self) -> None:
        keys = [normal(2, 4, 4, 4, seed=s) for s in range(3)]
        mask = fit_mask(torch.eye(4)[None], keys[0])
        for frame in sequence(keys, timeline(3, 7), "slerp", mask=mask):
            assert torch.equal(frame * (1 - mask), keys[0] * (1 - mask))

    def test_cells_that_a_pixel_mask_covers_are_exactly_1(self) -> None:
        cells = (normal(3, 6, 5) > 0).float()
        pixels = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)
        assert torch.equal(fit_mask(pixels, normal(1, 4, 6, 5))[:, 0], cells)

    def test_a_cell_counts_how_much_of_it_is_covered(self) -> None:
        pixels = torch.zeros(1, 8, 16)
        pixels[0, :2, 8:] = 1
        assert fit_mask(pixels, normal(1, 4, 1, 2)).flatten().tolist() == [0, 0.25]

    @pytest.mark.parametrize("size", [(1, 1), (3, 9), (7, 11), (64, 64)])
    def test_full_and_empty_masks_stay_so_at_any_size(self, size: tuple[int, int]) -> None:
        for value in (0.0, 1.0):
            assert (fit_mask(torch.full((1, *size), value), normal(1, 4, 6, 5)) == value).all()

    def test_for_a_video_every_frame_of_it_has_the_mask(self) -> None:
        assert fit_mask(torch.ones(2, 8, 8), normal(2, 3, 5, 4, 4)).shape == (2, 1, 1, 4, 4)

    def test_a_mask_without_batch_and_values_out_of_range(self) -> None:
        fitted = fit_mask(torch.tensor([[-3.0, 4.0]]), normal(1, 4, 1, 2))
        assert fitted.tolist() == [[[[0, 1]]]]

    @pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 4), (0, 4, 4), (1, 0, 4)])
    def test_what_is_no_mask_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"a mask \[M, H, W\], got"):
            fit_mask(torch.zeros(shape), normal(1, 4, 4, 4))


class TestResized:
    @pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 4, 3, 8, 6), (1, 4, 5, 9), (1, 4, 1, 1)])
    @pytest.mark.parametrize("size", [(8, 8), (4, 6), (11, 3), (1, 1)])
    def test_sizes_and_dtypes(self, shape: tuple[int, ...], size: tuple[int, int]) -> None:
        found = resized(normal(*shape, dtype=torch.float16), *size)
        assert (found.shape, found.dtype) == ((*shape[:-2], *size), torch.float16)

    def test_the_middle_is_kept_and_nothing_is_stretched(self) -> None:
        wide = normal(1, 4, 4, 10)
        assert torch.equal(resized(wide, 4, 4), wide[..., 3:7])
        assert torch.equal(resized(wide.mT, 4, 4), wide.mT[..., 3:7, :])

    def test_a_slope_stays_a_slope(self) -> None:
        slope = torch.arange(16.0).expand(1, 1, 16, 16)
        found = resized(slope, 8, 8)[0, 0, 4, 1:-1]
        torch.testing.assert_close(found.diff(), torch.full((5,), 2.0))

    def test_made_smaller_no_cell_is_passed_over(self) -> None:
        """Plain bilinear sampling of a fine pattern gives one of its phases, not its mean."""
        stripes = (torch.arange(32) % 4 == 0).float().expand(1, 1, 32, 32)
        found = resized(stripes, 8, 8)[0, 0, 4, 1:-1]
        torch.testing.assert_close(found, torch.full((6,), 0.25))
