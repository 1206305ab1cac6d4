"""Squares out of a JPEG that is decoded at a fraction: near those of a full decoding, or equal."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms, ImageFilter

from trainer.photos import open_photo
from trainer.photos.decoding import decode_photo
from trainer.photos.open_photo import OpenPhoto
from trainer.photos.skips import SkippedPhoto

SIZE = (403, 299)  # odd: reduced rows and columns then reach beyond the photo's edge
BOX = (37, 21, 250)  # left, top, side; within an upright photo whichever way it lay
R = 32
ORIENTATIONS = range(1, 9)


def picture(mode: str = "RGB") -> Image.Image:
    """A soft photo: what differs is then where it was cut, not how it was reduced."""
    photo = Image.fromarray(skimage.data.astronaut()).resize(SIZE)
    return photo.filter(ImageFilter.GaussianBlur(4)).convert(mode)


def jpeg(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, quality=95, **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(picture(), exif=exif)


def swapped_profile() -> bytes:
    """A profile that changes colours: sRGB's red and blue in each other's place."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


KINDS = {
    **{f"orientation {value}": turned(value) for value in ORIENTATIONS},
    "grey": jpeg(picture("L")),
    "CMYK": jpeg(picture("CMYK")),
    "progressive": jpeg(picture(), progressive=True),
    "4:4:4": jpeg(picture(), subsampling=0),
    "profile": jpeg(picture(), icc_profile=swapped_profile()),
    "MPO": jpeg(picture(), "MPO", save_all=True, append_images=[picture("L")]),
}


def square(data: bytes, left: int, top: int, side: int, resolution: int) -> np.ndarray:
    image = OpenPhoto(data).square(left, top, side, resolution)
    assert image.mode == "RGB" and image.size == (resolution, resolution)
    return np.array(image).astype(float)


def whole(data: bytes, left: int, top: int, side: int, resolution: int) -> np.ndarray:
    """The same square out of the whole photo, decoded in full and turned upright first."""
    box = (left, top, left + side, top + side)
    size = (resolution, resolution)
    reduced = decode_photo(data).resize(size, Image.Resampling.LANCZOS, box=box)
    return np.array(reduced).astype(float)


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-9, np.square(x - y).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_square_is_that_of_the_whole_photo(kind: str) -> None:
    data = KINDS[kind]
    assert OpenPhoto(data).size == decode_photo(data).size
    reduced, full = square(data, *BOX, R), whole(data, *BOX, R)
    # cut one pixel of the photo, an eighth of an output pixel, aside, it would be 42 dB or less
    assert psnr(reduced, full) > 46
    assert not np.array_equal(reduced, full), "was decoded in full"
    size = min(OpenPhoto(data).size)
    assert psnr(square(data, 0, 0, size, R), whole(data, 0, 0, size, R)) > 44
    own = square(data, *BOX[:2], R, R)
    assert np.array_equal(own, whole(data, *BOX[:2], R, R)), "at its own size it is a copy"


def test_one_pixel_aside_would_be_seen() -> None:
    data = KINDS["orientation 1"]
    left, top, side = BOX
    assert psnr(square(data, left, top, side, R), whole(data, left + 1, top, side, R)) < 42


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_under_four_times_its_size_a_square_is_decoded_in_full(orientation: int) -> None:
    data = KINDS[f"orientation {orientation}"]
    found = square(data, 37, 21, 4 * 60 - 1, 60)
    assert np.abs(found - whole(data, 37, 21, 4 * 60 - 1, 60)).max() <= 1  # turned after reducing


def test_squares_of_one_photo_do_not_touch_each_other() -> None:
    photo = OpenPhoto(KINDS["orientation 6"])
    first = photo.square(*BOX, 8)
    photo.square(0, 0, 60, 60)
    assert photo.square(*BOX, 8).tobytes() == first.tobytes()


def test_other_formats_are_decoded_whole_with_their_alpha() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    found = OpenPhoto(file.getvalue(), (9, 8, 7)).square(3, 5, 20, 20)
    upright = np.array(decode_photo(file.getvalue(), (9, 8, 7)))
    assert np.array_equal(found, upright[5:25, 3:23])


@pytest.mark.parametrize("length", [0, 100, 4000])
def test_a_damaged_photo_is_skipped(length: int) -> None:
    with pytest.raises(SkippedPhoto):
        OpenPhoto(KINDS["progressive"][:length]).square(*BOX, R)


def test_real_photos_lose_little(assets: Path) -> None:
    """The figures that the rule was chosen by: two pixels kept for one, 51 dB, 45 at worst."""
    draws = np.random.default_rng(0)
    apart = []
    for path in sorted((assets / "data" / "open").rglob("*.jpg"))[:20]:
        data = path.read_bytes()
        width, height = OpenPhoto(data).size
        for resolution in (64, 128, 256):
            side = (
                int(draws.integers(4 * resolution, min(width, height) + 1))
                if (min(width, height) > 4 * resolution)
                else min(width, height)
            )
            left, top = (int(draws.integers(0, n - side + 1)) for n in (width, height))
            box = (left, top, side, resolution)
            apart.append(psnr(square(data, *box), whole(data, *box)))
    assert min(apart) > 44 and np.median(apart) > 49


def test_squares_that_take_the_same_reduction_share_one_decoding(monkeypatch) -> None:
    opened, real = [], open_photo.open_header
    photo = OpenPhoto(jpeg(picture()))
    monkeypatch.setattr(open_photo, "open_header", lambda data: opened.append(1) or real(data))
    for left in (0, 7, 20):
        photo.square(left, 0, 120, 30)
    photo.square(0, 0, 120, 100)
    assert len(opened) == 2
