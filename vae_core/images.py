"""Layouts and ranges of pictures: what ComfyUI holds, what a VAE takes, what a file keeps.

B batch, C image channels (3 unless a VAE was made for another number), H, W pixels.
Images are [B, H, W, C] in [0, 1]; pixels are [B, C, H, W] in [-1, 1]. The maps between them are
done in float32, so that a VAE in half precision sees every one of the 256 levels.
"""

import torch
from torch import Tensor

LEVELS = 255  # steps between black and white in an 8-bit file


def to_vae(images: Tensor) -> Tensor:
    """Convert images to VAE input: [B, H, W, C] in [0, 1] -> [B, C, H, W] in [-1, 1], float32."""
    _check_rank(images, "images [B, H, W, C]")
    return (images.float() * 2 - 1).movedim(-1, 1).contiguous()


def from_vae(pixels: Tensor) -> Tensor:
    """Convert VAE output to images: [B, C, H, W] around [-1, 1] -> [B, H, W, C] in [0, 1], clamped.

    The result is float32 and not rounded: rounding is for metrics and files (to_unit, to_uint8).
    """
    _check_rank(pixels, "pixels [B, C, H, W]")
    return _unit_range(pixels).movedim(1, -1).contiguous()


def from_bytes(images: Tensor) -> Tensor:
    """Convert 8-bit images to VAE input: uint8 [B, H, W, C] -> [B, C, H, W] in [-1, 1], float32."""
    if images.dtype != torch.uint8:
        raise ValueError(f"Expected 8-bit images (torch.uint8), got {images.dtype}.")
    return to_vae(images.float() / LEVELS)


def to_grey(images: Tensor) -> Tensor:
    """Convert 8-bit images to grey: uint8 [B, H, W, 3] -> [B, H, W, 1].

    The luma of ITU-R BT.601 in Pillow's whole numbers, so that both give the same levels.
    """
    red, green, blue = images.int().unbind(-1)
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return luma.to(torch.uint8)[..., None]


def to_unit(pixels: Tensor) -> Tensor:
    """Quantise pixels for metrics: any shape, around [-1, 1] -> the same shape, k/255 in [0, 1].

    This is what a saved 8-bit file would hold, so figures speak of what people look at.
    NaN stays NaN.
    """
    return (_unit_range(pixels) * LEVELS).round() / LEVELS


def to_uint8(pixels: Tensor) -> Tensor:
    """Convert VAE output to 8-bit images: [B, C, H, W] around [-1, 1] -> uint8 [B, H, W, C].

    NaN becomes black, on every platform alike.
    """
    _check_rank(pixels, "pixels [B, C, H, W]")
    levels = (_unit_range(pixels).nan_to_num(nan=0.0) * LEVELS).round()
    return levels.to(torch.uint8).movedim(1, -1).contiguous()


def centre_crop_box(height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
    """Find the centred crop to multiples: (top, left, height, width) in pixels.

    The odd pixel stays at the bottom and right, as in ComfyUI's own VAE.encode
    (comfy/sd.py, vae_encode_crop_pixels). A side under the multiple cannot be cropped.
    """
    if min(height, width) < multiple:
        raise ValueError(
            f"Expected an image of at least {multiple} x {multiple} pixels, "
            f"got {width} x {height}: use a larger one."
        )
    top, left = height % multiple // 2, width % multiple // 2
    return top, left, *centre_crop_size(height, width, multiple)


def centre_crop_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Round a size down to multiples: (height, width) in pixels."""
    return height - height % multiple, width - width % multiple


def centre_crop(images: Tensor, multiple: int) -> Tensor:
    """Crop images around their centre to multiples: [B, H, W, C] -> [B, H', W', C], a view."""
    _check_rank(images, "images [B, H, W, C]")
    top, left, height, width = centre_crop_box(images.shape[1], images.shape[2], multiple)
    return images[:, top : top + height, left : left + width]


def _unit_range(pixels: Tensor) -> Tensor:
    return ((pixels.float() + 1) / 2).clamp(0, 1)


def _check_rank(tensor: Tensor, expected: str) -> None:
    if tensor.ndim != 4:
        raise ValueError(f"Expected {expected}, got a tensor of shape {list(tensor.shape)}.")
