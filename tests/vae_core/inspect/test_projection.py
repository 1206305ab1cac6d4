"""Principal components against scikit-learn, up to the sign that is free."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from vae_core.inspect import projection
from vae_core.inspect.projection import project_items, project_positions


def items(count: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    steps = torch.linspace(0, 1, count).view(-1, *[1] * len(shape))
    ends = torch.randn(2, 1, *shape, generator=generator)
    noise = torch.randn(count, *shape, generator=generator)
    return (1 - steps) * ends[0] + steps * ends[1] + 0.1 * noise + 5


def same_up_to_sign(got: torch.Tensor, theirs: np.ndarray, tolerance: float) -> None:
    signs = np.sign((got.numpy() * theirs).sum(0))
    np.testing.assert_allclose(got.numpy() * signs, theirs, atol=tolerance)


@pytest.mark.parametrize("shape", [(4, 5, 6), (16, 2, 3, 4), (1, 2, 2)])
def test_items_agree_with_scikit_learn(shape) -> None:
    z = items(9, *shape)
    theirs = PCA(2, svd_solver="full")
    places = theirs.fit_transform(z.double().flatten(1).numpy())
    got = project_items(z)
    same_up_to_sign(got.places, places, 1e-8)
    np.testing.assert_allclose(got.shares, theirs.explained_variance_ratio_, rtol=1e-8)


def test_items_that_need_more_than_one_chunk(monkeypatch) -> None:
    z = items(6, 4, 5, 6)
    whole = project_items(z)
    monkeypatch.setattr(projection, "CHUNK", 100)
    torch.testing.assert_close(project_items(z).places, whole.places)


def test_a_small_difference_on_a_large_mean_survives() -> None:
    z = items(5, 4, 4, 4).double() * 1e-3 + 1e4
    places = PCA(2, svd_solver="full").fit_transform(z.flatten(1).numpy())
    same_up_to_sign(project_items(z).places, places, 1e-9)


def test_positions_agree_with_scikit_learn() -> None:
    item = items(4, 6, 7)
    theirs = PCA(3, svd_solver="full")
    places = theirs.fit_transform(item.double().flatten(1).T.numpy())
    got = project_positions(item)
    same_up_to_sign(got.places, places, 1e-8)
    np.testing.assert_allclose(got.shares, theirs.explained_variance_ratio_, rtol=1e-8)


def test_two_items_lie_at_their_distance_and_nowhere_else() -> None:
    z = items(2, 4, 5, 5)
    got = project_items(z)
    distance = (z[0] - z[1]).double().norm().item()
    assert (got.places[0, 0] - got.places[1, 0]).abs().item() == pytest.approx(distance)
    assert got.places[:, 1].abs().max() < 1e-6
    assert got.shares.tolist() == pytest.approx([1, 0], abs=1e-9)


def test_signs_are_always_the_same() -> None:
    z = items(7, 4, 4, 4)
    for got in (project_items(z), project_positions(z[0])):
        farthest = got.places.gather(0, got.places.abs().argmax(0, keepdim=True))
        assert (farthest > 0).all()


def test_equal_items_have_no_shares() -> None:
    got = project_items(torch.ones(3, 4, 2, 2))
    assert got.places.eq(0).all()
    assert got.shares.isnan().all()


def test_fewer_channels_than_components() -> None:
    got = project_positions(items(1, 5, 5))
    assert got.places.shape == (25, 3)
    assert got.places[:, 1:].eq(0).all()
    assert got.shares[0].item() == pytest.approx(1)
    assert got.shares[1:].eq(0).all()


def test_what_is_not_finite_stays_apart() -> None:
    z = items(6, 4, 3, 3)
    bad = z.clone()
    bad[2, 0, 0, 0] = math.inf
    got = project_items(bad)
    assert got.places[2].isnan().all()
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(got.places[kept], project_items(z[kept]).places)
    spots = project_positions(bad[2])
    assert spots.places[0].isnan().all() and spots.places[1:].isfinite().all()
    assert project_items(torch.full((3, 1, 2, 2), math.nan)).places.isnan().all()
    assert project_positions(torch.full((4, 2, 2), math.nan)).places.isnan().all()


def test_one_item_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 items"):
        project_items(torch.zeros(1, 4, 2, 2))
