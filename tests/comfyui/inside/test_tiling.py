"""Exact tiles in the nodes: the same pictures as whole, and what is done when memory runs out."""

import math

import pytest
import torch

CLOSE = {"atol": 2e-4 / 2, "rtol": 0}  # 2e-4 in [-1, 1], pictures are in 0..1
SMALL = 8  # MiB


def picture(height, width, count=1, seed=0):
    """Smooth pictures [count, height, width, 3] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 5, 5, generator=generator)
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    return large.clamp(0, 1).movedim(1, -1).contiguous()


@pytest.fixture
def encode(node, run, vae):
    return lambda images, **widgets: run(
        node("VAELabEncode"), **{"pixels": images, "vae": vae, **widgets}
    )


@pytest.fixture
def decode(node, run, vae):
    return lambda latent, **widgets: run(
        node("VAELabDecode"), **{"samples": latent, "vae": vae, **widgets}
    )


@pytest.fixture
def reconstruct(node, run, vae):
    return lambda images, **widgets: run(
        node("VAELabReconstruct"), **{"pixels": images, "vae": vae, **widgets}
    )


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1), ((136, 200), 2), ((8, 264), 1)])
def test_exact_and_off_decode_to_the_same_picture(encode, decode, size, count):
    latent, *_ = encode(picture(*size, count))
    whole, said = decode(latent, tiling="off")
    tiles, said_of_tiles = decode(latent, tiling="exact")
    assert tiles.shape == whole.shape and tiles.dtype == whole.dtype
    torch.testing.assert_close(tiles, whole, **CLOSE)
    assert "decoded in exact tiles (as chosen)" in said_of_tiles and "tiles" not in said


@pytest.mark.parametrize(("size", "count"), [((64, 64), 1), ((136, 203), 2)])
def test_exact_and_off_encode_to_the_same_posterior(encode, size, count):
    images = picture(*size, count)
    drawn = {"posterior": "sample", "seed": 3}
    for widgets in ({}, drawn):
        whole, std, kl, _, said = encode(images, tiling="off", **widgets)
        tiles, std_of_tiles, kl_of_tiles, _, said_of_tiles = encode(
            images, tiling="exact", **widgets
        )
        torch.testing.assert_close(tiles["samples"], whole["samples"], atol=2e-4, rtol=1e-5)
        torch.testing.assert_close(std_of_tiles["samples"], std["samples"], atol=1e-5, rtol=1e-4)
        assert kl_of_tiles == pytest.approx(kl, rel=1e-5)
        assert "encoded in exact tiles" in said_of_tiles and "tiles" not in said
