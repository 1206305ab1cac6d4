"""Bring any colour mode to flat sRGB: ICC profiles, alpha, 16 bits, floats, CMYK, palettes."""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops, ImageCms

from trainer.photos.skips import SkippedPhoto

_CONVERTIBLE = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_SEEN_AS_EQUAL = 2  # eight-bit levels: what rounding twice through a profile may cost


def flat_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert a loaded image of any mode to RGB, sRGB, with alpha laid on `background`.

    Raises SkippedPhoto for values without a known range, and for modes without a conversion.
    """
    profile = image.info.get("icc_profile")
    image, alpha = _deep_to_grey(image) if _is_deep(image) else _split_alpha(image)
    rgb = _to_srgb(image, profile)
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, background), alpha)


# Alpha


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Part an eight-bit image into colour (RGB, L or CMYK) and alpha (L, or None if opaque)."""
    if image.mode not in _CONVERTIBLE:
        raise SkippedPhoto("colour mode not supported", image.mode)
    if image.mode == "CMYK":
        return image, None
    colour_mode = "L" if image.mode in _GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image.convert(colour_mode), None
    # A detour through RGBA: it undoes premultiplied colours and knows palettes' and PNG's tRNS.
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    return rgba.convert("RGB").convert(colour_mode), rgba.getchannel("A")


# More than eight bits


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _deep_to_grey(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Scale a one-channel image of 16 or 32 bits to eight bits, where Pillow would clip at 255."""
    with np.errstate(invalid="ignore"):  # a signalling NaN: found below
        values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise SkippedPhoto("not finite", "NaN or infinite pixels")
    grey = np.clip(np.rint(values * _scale_to_bytes(image.mode, values)), 0, 255)
    alpha = None
    key = image.info.get("transparency")
    if isinstance(key, int):  # PNG: one grey value stands for "see through"
        alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    return Image.fromarray(grey.astype(np.uint8)), alpha


def _scale_to_bytes(mode: str, values: np.ndarray) -> float:
    """Return the factor from a deep image's values to 0 .. 255.

    Integers are 16-bit (65535 / 257 = 255). Floats are in [0, 1], or in [0, 255] as Pillow
    itself has them; between the two, and beyond, the file does not say what white is.
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0 and mode != "F" and high <= 65535:
        return 1 / 257
    if low >= 0 and mode == "F" and high <= 1.001:
        return 255.0
    if low >= 0 and mode == "F" and 16 < high <= 255:
        return 1.0
    raise SkippedPhoto("unknown value range", f"mode {mode}, values from {low:g} to {high:g}")


# Colour profiles


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Convert L, RGB or CMYK to sRGB by its ICC profile; a junk or foreign profile is ignored."""
    transform = None
    if isinstance(profile, bytes) and profile:
        transform = _transform_to_srgb(profile, image.mode)
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image, transform)


@lru_cache(maxsize=16)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from a profile to sRGB; None if it is junk or changes nothing.

    What a profile does decides, not its name: cameras write a dozen spellings of sRGB, and an
    image must not be rounded twice for nothing.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            # No cache: one transform serves several threads.
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE,
        )
        return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform
    except Exception:  # junk, or of another colour space: it must not cost the pixels
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    probe = Image.fromarray(grid).convert(mode)
    change = ImageChops.difference(ImageCms.applyTransform(probe, transform), probe.convert("RGB"))
    return max(high for _, high in change.getextrema()) <= _SEEN_AS_EQUAL
