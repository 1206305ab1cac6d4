"""Pictures of what tiles do to colours: a photo through the bundled VAE whole, in tiles, and exact.

    PYTHON_OF_COMFYUI benchmarks/tile_pictures.py --comfyui COMFYUI --picture PHOTO --output FOLDER

Runs ComfyUI's own nodes and those of this pack, on the CPU, in ComfyUI's environment. Writes
tiles.jpg: what each way decodes of the same latent, and beneath it the difference to the whole
pass, enlarged. Prints what that comes to, and what is left after round trips. Shifts are means of
a channel in 8-bit levels, results not rounded; `square` is the largest shift of any channel in a
square of 64 pixels.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.results import add_outputs, hand_over
from vae_core.compare.diff import signed
from vae_core.drawn.drawing import from_pil, grid, to_pil
from vae_core.metrics import psnr

WHOLE, EXACT = "whole", "exact tiles"
TILED, FALLBACK = "VAE Decode (Tiled)", "core, out of memory"
LEVELS = 255
TILE, SQUARE = 512, 64  # pixels
SHOWN = 384  # pixels of a picture's side on the sheet

Row = dict[str, Any]


class Way(NamedTuple):
    """Pictures [B, H, W, 3] in 0..1 to a raw latent, and back."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def main() -> None:
    options = parse()
    photo = opened(options.picture, options.side)
    options.output.mkdir(parents=True, exist_ok=True)
    options.output = options.output.resolve()  # ComfyUI is entered as the working folder
    with torch.inference_mode():
        ways = ways_of(options.comfyui.resolve())
        latent = ways[WHOLE].encode(photo)
        decoded = {name: way.decode(latent) for name, way in ways.items()}
        sheet(photo, decoded, options.gain).save(options.output / "tiles.jpg", quality=85)
        rows = compared("decode", photo, decoded)
        del ways[FALLBACK]  # its encode is that of the nodes, its decode alike
        for trip, found in enumerate(trips(photo, ways, options.trips), 1):
            if trip in (1, options.trips):
                rows += compared(f"trip {trip}", photo, found)
    hand_over(rows, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder with main.py")
    parser.add_argument("--picture", type=Path, required=True, help="a photo")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--side", type=int, default=1024, help="pixels: the photo's centre square")
    parser.add_argument("--gain", type=float, default=10, help="by which differences are enlarged")
    parser.add_argument("--trips", type=int, default=10, help="round trips; 0: only decode")
    add_outputs(parser)
    return parser.parse_args()


def opened(path: Path, side: int) -> Tensor:
    """Read the centre square of a photo at this size, reduced or enlarged: [1, side, side, 3]."""
    with Image.open(path) as photo:
        fitted = ImageOps.fit(photo.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    return from_pil(fitted).unsqueeze(0)


def ways_of(comfyui: Path) -> dict[str, Way]:
    """List the ways through the bundled VAE, with the sizes that ComfyUI's nodes begin with."""
    from benchmarks.node_overhead import load, run  # which makes ready for ComfyUI

    known, vae = load(comfyui)
    encode, decode = known["VAEEncodeTiled"]().encode, known["VAEDecodeTiled"]().decode
    exact = {"vae": vae, "tiling": "exact"}
    return {
        WHOLE: Way(vae.encode, vae.decode),
        TILED: Way(
            lambda images: encode(vae, images, TILE, 64)[0]["samples"],
            lambda latent: decode(vae, {"samples": latent}, TILE, 64)[0],
        ),
        FALLBACK: Way(
            lambda images: vae.encode_tiled_(images.movedim(-1, 1)),
            lambda latent: vae.decode_tiled_(latent).movedim(1, -1),
        ),
        EXACT: Way(
            lambda images: run(known["VAELabEncode"], pixels=images, **exact)["samples"],
            lambda latent: run(known["VAELabDecode"], samples={"samples": latent}, **exact),
        ),
    }


def trips(photo: Tensor, ways: dict[str, Way], count: int) -> Iterator[dict[str, Tensor]]:
    """Encode and decode again and again, each way by itself; what came out after each trip."""
    found = dict.fromkeys(ways, photo)
    for _ in range(count):
        found = {name: way.decode(way.encode(found[name])) for name, way in ways.items()}
        yield found


def compared(stage: str, photo: Tensor, found: dict[str, Tensor]) -> list[Row]:
    """Compare what each way gives with the photo, and with what the whole pass gives."""
    truth = found[WHOLE]
    return [
        {
            "stage": stage,
            "way": name,
            "shift to photo": in_levels(images - photo),
            "dB to photo": psnr(images, photo).item(),
            "shift to whole": in_levels(images - truth),
            "square": largest_shift(images - truth),
            "largest": (images - truth).abs().max().item() * LEVELS,
            "dB to whole": None if name == WHOLE else psnr(images, truth).item(),
        }
        for name, images in found.items()
    ]


def in_levels(difference: Tensor) -> str:
    """Write the mean of each channel, red, green and blue."""
    means = (difference.double().mean((0, 1, 2)) * LEVELS).tolist()
    return " ".join(f"{round(value, 2) + 0.0:+.2f}" for value in means)  # + 0.0: never -0.00


def largest_shift(difference: Tensor) -> float:
    """Give the largest mean of a channel over a square, in levels."""
    means = F.avg_pool2d(difference.movedim(-1, 1), SQUARE)
    return means.abs().max().item() * LEVELS


def sheet(photo: Tensor, decoded: dict[str, Tensor], gain: float) -> Image.Image:
    """Lay what was decoded side by side, and the differences to the whole pass beneath."""
    truth = decoded[WHOLE]
    cells, words = [small(images[0]) for images in decoded.values()], list(decoded)
    for name, images in decoded.items():
        whole = name == WHOLE
        cells.append(small(photo[0] if whole else difference(images, truth, gain)))
        shift = in_levels(images - truth)
        words.append("the photo" if whole else f"grey + {gain:g} x error, mean {shift}")
    return grid(cells, len(decoded), words)


def difference(images: Tensor, truth: Tensor, gain: float) -> Tensor:
    """Show 0.5 + gain x difference: [H, W, 3] in 0..1."""
    x, y = (each.movedim(-1, 1) for each in (images, truth))
    return signed(x, y, 2 * gain)


def small(image: Tensor) -> Image.Image:
    """Reduce an image [H, W, 3] to the size that is shown."""
    return to_pil(image).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
