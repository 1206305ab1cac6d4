"""The photo zoo: one of each odd kind, made here, against what it should look like."""

import random
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from trainer.names import printable, spreadsheet_cell
from trainer.photos.decoding import decode_photo, probe_photo
from trainer.photos.skips import SkippedPhoto

# pytest undoes the filter that the product sets; test_no_noise_on_the_terminal sees to that one.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

BACKGROUND = (10, 200, 30)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREYS = PIXELS[:, :, 0]


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    image = decode_photo(data, BACKGROUND)
    assert image.mode == "RGB"
    return np.array(image)


def reason(data: bytes) -> str:
    with pytest.raises(SkippedPhoto) as one:
        decode_photo(data)
    with pytest.raises(SkippedPhoto) as other:
        probe_photo(data)
    assert one.value.reason == other.value.reason
    return one.value.reason


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(before_pixels: bytes, width: int = 4, height: int = 4) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(20)))
    return b"\x89PNG\r\n\x1a\n" + header + before_pixels + pixels + png_chunk(b"IEND", b"")


# Orientation

UPRIGHT = {  # Exif 2.32, figure of tag 0x0112, in numpy's words: stored -> upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


def orientation_exif(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("value", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation(kind: str, value: int) -> None:
    options = {"TIFF": {"tiffinfo": {0x0112: value}}, "WEBP": {"lossless": True}}.get(kind, {})
    exif = {} if kind == "TIFF" else {"exif": orientation_exif(value)}
    data = encoded(PIXELS, kind, **options, **exif)
    stored = np.array(
        Image.open(BytesIO(encoded(PIXELS, kind, **({} if kind == "TIFF" else options))))
    )
    expected = UPRIGHT[value](stored)
    assert np.array_equal(decoded(data), expected)
    assert probe_photo(data) == (expected.shape[1], expected.shape[0])


def zero_denominator_exif() -> bytes:
    exif = orientation_exif(99)
    body = bytearray(exif.tobytes())
    entry = struct.pack("<HHII", 0x011A, 5, 1, 26) + bytes(4) + struct.pack("<II", 300, 0)
    return bytes(body[:6]) + b"II*\0\x08\0\0\0\x01\0" + entry


@pytest.mark.parametrize(
    "exif",
    [
        b"junk that is no Exif at all",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",  # points far outside
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",  # 65,535 entries, none there
        orientation_exif(99).tobytes(),
        orientation_exif(0).tobytes(),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x03\0\0\0six\0",  # a text
        zero_denominator_exif(),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_broken_exif_keeps_the_pixels(kind: str, exif: bytes) -> None:
    assert np.array_equal(decoded(encoded(PIXELS, kind, exif=exif)), decoded(encoded(PIXELS, kind)))


def test_broken_xmp_keeps_the_pixels() -> None:
    packet = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='x\xff\0'<<"
    segment = b"\xff\xe1" + struct.pack(">H", len(packet) + 2) + packet
    plain = encoded(PIXELS, "JPEG")
    assert np.array_equal(decoded(plain[:2] + segment + plain[2:]), decoded(plain))


# Colour profiles


def icc_profile(space: bytes, **tags: bytes) -> bytes:
    """Build a version 2 profile of a monitor: ICC.1:2001-04, 6.1 and 6.2."""
    tags["wtpt"] = xyz(0.9642, 1.0, 0.8249)
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", start + len(body), len(content))
        body += content
    header = struct.pack(">I4sI", start + len(body), b"", 0x02400000) + b"mntr" + space + b"XYZ "
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += xyz(0.9642, 1.0, 0.8249)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


LINEAR = b"curv" + bytes(8)  # no point: the identity


def srgb_columns(off: float = 0.0) -> dict[str, bytes]:
    """Return the primaries of IEC 61966-2-1 adapted to D50, each off by as much."""
    return {
        "rXYZ": xyz(0.4361 - off, 0.2225, 0.0139 + off),
        "gXYZ": xyz(0.3851 - off, 0.7169, 0.0971 + off),
        "bXYZ": xyz(0.1431 - off, 0.0606, 0.7141 + off),
    }


SRGB_COLUMNS = srgb_columns()
CURVES = {"rTRC": LINEAR, "gTRC": LINEAR, "bTRC": LINEAR}


def srgb_encoded(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: linear [0, 1] -> eight bits."""
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return curve * 255


def test_rgb_profile_is_applied() -> None:
    profile = icc_profile(b"RGB ", **SRGB_COLUMNS, **CURVES)
    found = decoded(encoded(PIXELS, "PNG", icc_profile=profile))
    assert np.abs(found - srgb_encoded(PIXELS / 255)).max() < 1.5


def test_grey_profile_is_applied_to_8_and_16_bits() -> None:
    profile = icc_profile(b"GRAY", kTRC=b"curv" + struct.pack(">IIH", 0, 1, round(1.8 * 256)))
    expected = srgb_encoded((GREYS / 255) ** 1.8)[:, :, None]
    for greys in (GREYS, GREYS.astype(np.uint16) * 257):
        found = decoded(encoded(greys, "PNG", icc_profile=profile))
        assert np.abs(found - expected).max() < 3  # LittleCMS interpolates in the darkest tones


def test_profile_is_applied_before_alpha() -> None:
    profile = icc_profile(b"RGB ", **SRGB_COLUMNS, **CURVES)
    rgba = np.dstack([PIXELS, np.where(GREYS > 128, 255, 0).astype(np.uint8)])
    found = decoded(encoded(rgba, "PNG", icc_profile=profile))
    expected = np.where((GREYS > 128)[:, :, None], srgb_encoded(PIXELS / 255), BACKGROUND)
    assert np.abs(found - expected).max() < 1.5


def test_profiles_that_mean_srgb_change_no_bit() -> None:
    levels = np.linspace(0, 1, 1024)
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    points = (linear * 65535).round().astype(">u2").tobytes()
    table = b"curv" + struct.pack(">II", 0, 1024) + points
    # As makers round them: a change of a level here and there, from no other colour space.
    own = icc_profile(b"RGB ", **srgb_columns(1e-4), rTRC=table, gTRC=table, bTRC=table)
    pillows = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (own, pillows):
        assert np.array_equal(decoded(encoded(PIXELS, "PNG", icc_profile=profile)), PIXELS)


@pytest.mark.parametrize(
    "profile",
    [
        b"junk",
        bytes(200),
        icc_profile(b"RGB ", **SRGB_COLUMNS, **CURVES)[:150],
        icc_profile(b"CMYK", **SRGB_COLUMNS, **CURVES),  # of another colour space
        icc_profile(b"RGB ", **SRGB_COLUMNS),  # without curves
    ],
)
def test_junk_profile_keeps_the_pixels(profile: bytes) -> None:
    assert np.array_equal(decoded(encoded(PIXELS, "PNG", icc_profile=profile)), PIXELS)


# Modes


def on_background(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[:, :, None] / 255
    return rgb * share + np.array(BACKGROUND) * (1 - share)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_rgba_is_laid_on_the_background(kind: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 30).astype(np.uint8), (20, 1))
    data = encoded(
        np.dstack([PIXELS, alpha]),
        kind,
        **({"lossless": True, "exact": True} if kind == "WEBP" else {}),
    )
    assert np.abs(decoded(data) - on_background(PIXELS, alpha)).max() <= 1
    assert np.array_equal(decoded(data)[:, 0], np.tile(BACKGROUND, (20, 1)))


def test_grey_with_alpha() -> None:
    alpha = np.tile(np.linspace(0, 255, 30).astype(np.uint8), (20, 1))
    data = encoded(Image.fromarray(np.dstack([GREYS, alpha]), "LA"), "PNG")
    expected = on_background(np.repeat(GREYS[:, :, None], 3, 2), alpha)
    assert np.abs(decoded(data) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_transparency(kind: str) -> None:
    indices = np.arange(600, dtype=np.uint8).reshape(20, 30) % 4
    image = Image.fromarray(indices, "P")
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    image.putpalette(colours.tobytes())
    data = encoded(image, kind, transparency=2)
    expected = np.where((indices == 2)[:, :, None], BACKGROUND, colours[indices])
    assert np.array_equal(decoded(data), expected)


def test_palette_with_partial_transparency() -> None:
    image = Image.fromarray(np.zeros((4, 4), np.uint8), "P")
    image.putpalette([200, 100, 0])
    data = encoded(image, "PNG", transparency=bytes([128]))
    expected = on_background(np.array([[[200, 100, 0]]]), np.array([[128]]))
    assert np.abs(decoded(data) - expected).max() <= 1


def test_one_colour_as_transparent() -> None:
    grey = decoded(encoded(GREYS, "PNG", transparency=int(GREYS[0, 0])))
    assert tuple(grey[0, 0]) == BACKGROUND
    rgb = decoded(encoded(PIXELS, "PNG", transparency=tuple(map(int, PIXELS[0, 0]))))
    assert tuple(rgb[0, 0]) == BACKGROUND
    assert np.array_equal(rgb[1:], PIXELS[1:])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(kind: str) -> None:
    deep = np.linspace(0, 65535, 600).round().astype(np.uint16).reshape(20, 30)
    expected = np.rint(deep / 257)[:, :, None].repeat(3, 2)
    assert np.array_equal(decoded(encoded(deep, kind)), expected)


def test_16_bits_big_endian_32_bits_and_a_transparent_value() -> None:
    deep = np.linspace(0, 65535, 600).round().astype(np.uint16).reshape(20, 30)
    expected = np.rint(deep / 257)[:, :, None].repeat(3, 2)
    big = Image.frombytes("I;16B", (30, 20), deep.astype(">u2").tobytes())
    assert np.array_equal(decoded(encoded(big, "TIFF")), expected)
    assert np.array_equal(decoded(encoded(deep.astype(np.int32), "TIFF")), expected)
    seen_through = decoded(encoded(deep, "PNG", transparency=int(deep[3, 3])))
    assert tuple(seen_through[3, 3]) == BACKGROUND
    assert np.array_equal(seen_through[4:], expected[4:])
    assert reason(encoded(deep.astype(np.int32) - 5, "TIFF")) == "unknown value range"


def test_floats() -> None:
    unit = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    expected = np.rint(unit * 255)[:, :, None].repeat(3, 2)
    assert np.array_equal(decoded(encoded(unit, "TIFF")), expected)
    assert np.array_equal(decoded(encoded(unit * 255, "TIFF")), expected)
    for odd, why in [(np.nan, "not finite"), (np.inf, "not finite"), (-1, "unknown value range")]:
        unit[3, 3] = odd
        assert reason(encoded(unit, "TIFF")) == why
    assert reason(encoded(np.full((20, 30), 4.0, np.float32), "TIFF")) == "unknown value range"


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind: str) -> None:
    inks = {(0, 0, 0, 0): (255,) * 3, (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0,) * 3}
    for ink, colour in inks.items():
        data = encoded(Image.new("CMYK", (16, 16), ink), kind)
        assert np.abs(decoded(data).astype(int) - colour).max() <= 2


def test_one_bit_and_opaque_palette() -> None:
    bits = GREYS > 128
    assert np.array_equal(decoded(encoded(bits, "PNG"))[:, :, 1], bits * 255)
    palette = Image.fromarray(PIXELS).quantize(16)
    assert np.array_equal(decoded(encoded(palette, "PNG")), np.array(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_first_frame_of_many(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in [(255, 0, 0), (0, 0, 255)]]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(decoded(data).astype(int) - (255, 0, 0)).max() <= 2


def test_mode_without_a_conversion() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(PIXELS), srgb, lab, outputMode="LAB")
    with pytest.raises(SkippedPhoto, match="colour mode not supported"):
        decode_photo(encoded(image, "TIFF"))


# What is refused

JPEG = encoded(PIXELS.repeat(8, 0).repeat(8, 1), "JPEG")
PNG = encoded(PIXELS, "PNG")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff", "not an image"),
        (JPEG[: len(JPEG) // 2], "damaged"),
        (PNG[: len(PNG) // 2], "damaged"),
        (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "damaged"),
        (b"<!DOCTYPE html><html>404</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"P6 2 2 255\n" + bytes(12), "not an image"),  # known to Pillow, not on our list
        (png_with(b"", 30_000, 30_000), "too many pixels"),
        (png_with(b"", 13_000, 13_000), "too many pixels"),  # Pillow would take this one
        (png_with(b"", 1, 10**8), "too narrow"),
        (png_with(b"", 2**31 - 1, 2**31 - 1), "too many pixels"),
        (png_with(b"", 0, 0), "not an image"),
        (png_with(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))), "damaged"),
    ],
)
def test_refused(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_what_is_known_to_pass_silently() -> None:
    without_end = PNG[:-12]
    assert np.array_equal(decoded(without_end), PIXELS)


def test_mutations_end_in_pixels_or_a_reason() -> None:
    draw = random.Random(0)
    kinds = ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"]
    originals = [
        encoded(PIXELS, kind, exif=orientation_exif(6)) for kind in kinds if kind != "TIFF"
    ]
    for original in originals + [encoded(PIXELS, "TIFF")]:
        for _ in range(60):
            data = bytearray(original)
            for _ in range(draw.choice([1, 3, 20])):
                data[draw.randrange(min(len(data), draw.choice([64, 10**9])))] = draw.randrange(256)
            for read in (decode_photo, probe_photo):
                try:
                    read(bytes(data[: draw.choice([len(data), draw.randrange(1, len(data))])]))
                except SkippedPhoto as skip:
                    assert skip.detail == printable(skip.detail)


def test_no_noise_on_the_terminal(tmp_path: Path) -> None:
    big, junk = tmp_path / "big.png", tmp_path / "junk.jpg"
    big.write_bytes(png_with(b"", 9_500, 10_000))  # Pillow warns from 89 MP on
    junk.write_bytes(encoded(PIXELS, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
    script = (
        "import sys; from pathlib import Path; from trainer.photos.decoding import *\n"
        "for name in sys.argv[1:]:\n"
        "    try: decode_photo(Path(name).read_bytes())\n"
        "    except SkippedPhoto as skip: print(skip.reason)"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", script, str(big), str(junk)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == ("damaged\n", "")


# Names


def test_printable_shows_what_does_not_show() -> None:
    odd = "a\x1b]0;t\x07\n\u202eb\u200b\u2028\udcff\x85\U000e0001é😀日"
    shown = r"a\x1b]0;t\x07\x0a\u202eb\u200b\u2028\xff\x85" + "\\U000e0001é😀日"
    assert printable(odd) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("start", list("=+-@\t\r\0"))
def test_formulas_become_text(start: str) -> None:
    assert spreadsheet_cell(f"{start}1") == f"'{start}1"
    assert spreadsheet_cell(f"1{start}") == f"1{start}"
