"""Pairs: which pictures go together, which pixels they share, and what is refused."""

import pytest
import torch

from vae_core import images
from vae_core.compare.pairs import Box, bounding_box, common_crop, match, pair


def photos(count: int = 1, height: int = 24, width: int = 32, channels: int = 3) -> torch.Tensor:
    seed = torch.Generator().manual_seed(count * height + width)
    return torch.rand(count, height, width, channels, generator=seed)


@pytest.mark.parametrize("ratio", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("size", [(100, 141), (96, 65), (511, 77)])
def test_the_shared_crop_is_the_one_of_the_encoder(size: tuple[int, int], ratio: int) -> None:
    """images.centre_crop is tested against ComfyUI's own: the same pixels."""
    whole = photos(1, *size)
    cropped = images.centre_crop(whole, ratio)
    pairs = match(whole, cropped)
    assert torch.equal(pairs.originals, cropped) and torch.equal(pairs.reconstructions, cropped)
    swapped = match(cropped, whole)
    assert torch.equal(swapped.originals, swapped.reconstructions)
    if cropped.shape != whole.shape:
        assert pairs.crops is not None and swapped.crops == pairs.crops[::-1]
        assert f"centre crop {cropped.shape[2]} x {cropped.shape[1]}" in pairs.notes[0]


def test_equal_sizes_are_left_alone() -> None:
    pairs = match(photos(), photos())
    assert pairs.crops is None and pairs.notes == () and pairs.size == (24, 32)


@pytest.mark.parametrize(
    "other", [(32, 24), (48, 64), (12, 16), (24, 16), (25, 31), (20, 32), (24, 40)]
)
def test_other_shapes_and_scales_are_refused(other: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got 32 x 24 and {other[1]} x {other[0]}"):
        common_crop((24, 32), other)


def test_one_picture_goes_with_each_of_the_other_batch() -> None:
    one, three = photos(1), photos(3)
    pairs = match(one, three)
    assert pairs.count == 3
    for i in range(3):
        assert torch.equal(pair(pairs, i).y, pair(match(one, one), 0).y)
        assert torch.equal(pair(pairs, i).x, pair(match(three[i : i + 1], one), 0).y)
    assert match(three, one).count == 3


def test_batches_and_masks_go_item_by_item() -> None:
    three, masks = photos(3), torch.zeros(3, 24, 32)
    masks[torch.arange(3), torch.arange(3), 0] = 1
    for i in range(3):
        taken = pair(match(three, three.flip(0), masks), i)
        assert torch.equal(taken.y, pair(match(three[i : i + 1], three[:1]), 0).y)
        assert torch.equal(taken.x, pair(match(three[2 - i : 3 - i], three[:1]), 0).y)
        assert taken.mask is not None and taken.mask.nonzero().tolist() == [[i, 0]]


def test_unequal_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        match(photos(2), photos(3))


def test_a_pair_is_what_an_8_bit_file_holds() -> None:
    original = photos() * 1.2 - 0.1
    taken = pair(match(original, original), 0)
    expected = (original.double().clamp(0, 1) * 255).round() / 255
    torch.testing.assert_close(taken.y[0].movedim(0, -1).double(), expected[0], atol=1e-7, rtol=0)
    assert torch.equal(taken.x, taken.y) and taken.lost == 0 and taken.mask is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype) -> None:
    original = (photos() * 255).round() / 255
    taken = pair(match(original.to(dtype), original), 0)
    assert taken.y.dtype == torch.float32
    if dtype != torch.bfloat16:  # which has fewer than 256 levels
        assert torch.equal(taken.x, taken.y)


def test_lost_values_are_counted_and_become_nan() -> None:
    broken = photos()
    broken[0, 3, 4, 0], broken[0, 5, 6, 1], broken[0, 7, 8, 2] = torch.nan, torch.inf, -torch.inf
    taken = pair(match(photos(), broken), 0)
    assert taken.lost == 3
    assert taken.x.isnan().sum() == 3 and not taken.y.isnan().any()


def test_a_fourth_channel_is_left_out_and_said() -> None:
    pairs = match(photos(channels=4), photos())
    assert pairs.originals.shape[-1] == 3
    assert pairs.notes == ("original has 4 channels: the first three are compared",)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(24, 32, 3),
        torch.zeros(1, 24, 32, 1),
        torch.zeros(1, 3, 24, 32),
        torch.zeros(1, 0, 32, 3),
        None,
    ],
)
def test_what_is_no_picture_is_refused(wrong: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="Expected reconstruction"):
        match(photos(), wrong)


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="floats in .*uint8"):
        match(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), photos())


def test_a_mask_is_cut_like_the_original() -> None:
    mask = torch.zeros(1, 26, 35)
    mask[0, 5, 9] = 1
    taken = pair(match(photos(1, 26, 35), photos(1, 24, 32), mask), 0)
    assert taken.mask is not None and taken.mask.nonzero().tolist() == [[4, 8]]
    already = torch.zeros(24, 32)
    already[4, 8] = 0.6
    assert torch.equal(pair(match(photos(1, 26, 35), photos(), already), 0).mask, taken.mask)


def test_an_empty_mask_of_any_size_selects_nothing() -> None:
    """ComfyUI's Load Image gives 64 x 64 zeros for a photo without alpha."""
    taken = pair(match(photos(), photos(), torch.zeros(1, 64, 64)), 0)
    assert taken.mask is not None and taken.mask.shape == (24, 32) and not taken.mask.any()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.ones(1, 64, 64), "mask of the original's size, 32 x 24, got 64 x 64"),
        (torch.ones(2, 24, 32), "one mask or 3, one for each pair, got 2"),
        (torch.ones(1, 1, 24, 32), "a mask .*got shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        match(photos(3), photos(3), mask)


def test_bounding_box() -> None:
    mask = torch.zeros(10, 12, dtype=torch.bool)
    assert bounding_box(mask) is None
    mask[2, 5] = mask[7, 3] = True
    assert bounding_box(mask) == Box(3, 2, 3, 6)


def test_inputs_stay_as_they_are() -> None:
    original, broken, mask = photos(), photos(), torch.ones(1, 24, 32)
    broken[0, 0, 0] = torch.nan
    before = [t.clone() for t in (original, broken, mask)]
    pair(match(original, broken, mask), 0).x.zero_()
    for now, then in zip((original, broken, mask), before, strict=True):
        torch.testing.assert_close(now, then, equal_nan=True, rtol=0, atol=0)
