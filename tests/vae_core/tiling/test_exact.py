"""Exact tiles against diffusers' own untiled decode and encode, over layouts, sizes and strips."""

import copy

import pytest
import torch

from vae_core.tiling import decode, encode, plan_decode, plan_encode, read_network

# Both sides add up the same products in another order: over channels and taps in a convolution,
# over rows in the statistics. What differs is a few float32 roundings of values around 1 to 10.
# Values here come to about 2e-6 to 1.2e-5; another machine's kernels sum in other orders again.
CLOSE = 5e-5
LAYOUTS = ("sd", "flux", "uneven", "no attention", "attention", "one level")  # conftest.py


@pytest.fixture
def both(built):
    """A function that decodes or encodes twice: ours by a plan, and diffusers' own untiled."""

    def run(kind, given, rows=None, budget=None, vae=None):
        vae = vae or built(kind)
        network = read_network(vae)
        if given.shape[1] == network.latent_channels:
            plan = plan_decode(network, given.shape, given.dtype, budget, rows)
            return decode(network, given, plan), vae.decode(given).sample
        plan = plan_encode(network, given.shape, given.dtype, budget, rows)
        return encode(network, given, plan), vae.encode(given).latent_dist.parameters

    return run


def assert_close(pair, within=CLOSE):
    torch.testing.assert_close(*pair, atol=within, rtol=0)


@pytest.mark.parametrize("rows", [None, 1, 5])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_decoding_equals_the_untiled_one(both, built, drawn, kind, rows):
    assert_close(both(kind, drawn(2, built(kind).config.latent_channels, 9, 7), rows))


@pytest.mark.parametrize("rows", [None, 1, 5])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_moments_equal_the_untiled_ones(both, built, drawn, kind, rows):
    assert_close(both(kind, drawn(2, built(kind).config.in_channels, 26, 21), rows))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 7, 11, 12, 13, 24, 25, 26])
def test_strips_of_any_height_give_the_same(both, drawn, rows):
    assert_close(both("uneven", drawn(1, 4, 6, 3), rows))
    assert_close(both("uneven", drawn(1, 3, 25, 13), rows))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (17, 4)])
def test_sizes_down_to_one_cell(both, drawn, size):
    """A group of a few values may vary so little that dividing by its spread enlarges roundings."""
    assert_close(both("sd", drawn(1, 4, *size), rows=3), within=2e-4)
    height, width = (4 * side for side in size)
    for more in (0, 1, 3):  # sides that are no multiple of the ratio
        assert_close(both("sd", drawn(1, 3, height + more, width + 3 - more), rows=3), within=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 4, 12, 8), (1, 3, 48, 32)])
def test_half_precision_is_as_near_to_float32_as_the_untiled_pass(both, built, drawn, dtype, shape):
    """Both round each layer's result; not alike, as sums differ, but by equally much."""
    vae = copy.deepcopy(built("sd")).to(dtype)
    given = drawn(*shape).to(dtype)
    truth = both("sd", given.float(), vae=copy.deepcopy(vae).float())[1]
    ours, untiled = (
        (found.float() - truth).square().mean().sqrt() for found in both("sd", given, 4, vae=vae)
    )
    assert untiled > 0
    assert ours < 1.2 * untiled
