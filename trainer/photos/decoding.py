"""Decode one photo from its bytes: upright, sRGB, opaque, eight bits, or a counted reason why not.

Nothing here opens a path or an address: bytes come in, pixels or a SkippedPhoto come out, and
whatever a hostile or broken file does to Pillow ends as a SkippedPhoto too (running out of
memory aside).

What is not seen: a PNG without its end mark and a JPEG with a flipped bit often load without a
word. That is Pillow's and libjpeg's leniency, and only a decoder of our own could tell.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image

from trainer.names import printable
from trainer.photos.colours import flat_rgb
from trainer.photos.skips import SkippedPhoto

__all__ = ["SkippedPhoto", "decode_photo", "printable", "probe_photo", "readable_formats"]

WHITE = (255, 255, 255)
LARGEST_BYTES = 512 * 2**20
LARGEST_PIXELS = 160_000_000  # 151 MP backs pass; Pillow itself refuses from 179 MP on
LARGEST_RATIO = 64  # long side to short side; the widest stitched panoramas stay under 30
JPEGS = ("JPEG", "MPO")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # MPO comes with JPEG

# Exif 2.32, tag 0x0112: how the stored pixels must be turned to stand upright.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow warns about ends in a count of ours. A filter set once: warnings.catch_warnings
# swaps a list that all threads share, and photos are scanned in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode_photo(data: bytes, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Decode a photo's bytes to an RGB image [H, W]: upright, sRGB, alpha laid on `background`.

    Animated files give their first frame. Raises SkippedPhoto, and nothing else, for what cannot
    be used.
    """
    with failures_as_skips():
        image = open_header(data)
        image.load()
        return upright(flat_rgb(image, background), orientation(image))


def probe_photo(data: bytes) -> tuple[int, int]:
    """Return the upright (width, height) of a photo's bytes, having decoded it once as a check.

    A JPEG is decoded at an eighth of its size, which reads every byte at a fraction of the cost.
    Raises SkippedPhoto, and nothing else, for what cannot be used.
    """
    with failures_as_skips():
        image = open_header(data)
        if image.format not in JPEGS:
            return decode_photo(data).size
        width, height = image.size
        image.draft(image.mode, (1, 1))
        image.load()
        return (height, width) if orientation(image) >= 5 else (width, height)


def measure_photo(data: bytes) -> tuple[int, int]:
    """Return the stored (width, height) of a photo's bytes by its header alone.

    Raises SkippedPhoto, and nothing else, where the header already rules it out.
    """
    with failures_as_skips():
        return open_header(data).size


def readable_formats() -> list[str]:
    """List the formats that this Pillow can read, out of those that are tried."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


@contextmanager
def failures_as_skips() -> Iterator[None]:
    """Turn whatever a decoder raises into a SkippedPhoto.

    Pillow's plugins let out OSError, SyntaxError, struct.error, zlib.error, KeyError and more:
    no shorter list than Exception is safe on files from outside.
    """
    try:
        yield
    except (SkippedPhoto, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise SkippedPhoto("too many pixels", str(error)) from None
    except Exception as error:
        raise SkippedPhoto("damaged", f"{type(error).__name__}: {error}") from None


def open_header(data: bytes) -> Image.Image:
    """Read a photo's header and refuse it before its pixels cost anything."""
    if not data:
        raise SkippedPhoto("empty", "the file holds no byte")
    if len(data) > LARGEST_BYTES:
        raise SkippedPhoto("file too large", f"{len(data)} bytes, at most {LARGEST_BYTES}")
    try:
        image = Image.open(BytesIO(data), formats=readable_formats())
    except Image.UnidentifiedImageError:
        raise SkippedPhoto("not an image", f"begins with {data[:16]!r}") from None
    _check_size(*image.size)
    return image


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise SkippedPhoto("damaged", f"{width} x {height} pixels")
    if width * height > LARGEST_PIXELS:
        raise SkippedPhoto("too many pixels", f"{width} x {height}, at most {LARGEST_PIXELS}")
    if max(width, height) > LARGEST_RATIO * min(width, height):
        raise SkippedPhoto("too narrow", f"{width} x {height}, at most {LARGEST_RATIO} to 1")


def orientation(image: Image.Image) -> int:
    """Read the Exif orientation, 1 (as stored) where it is absent, unknown or unreadable.

    To be asked for after loading, JPEG aside: PNG may carry it behind its pixels, and a TIFF is
    turned by Pillow while it loads and then says 1.
    """
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken Exif must not cost the pixels
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def upright(image: Image.Image, value: int) -> Image.Image:
    """Turn an image as its Exif orientation says."""
    turn = _TURNS.get(value)
    return image if turn is None else image.transpose(turn)
