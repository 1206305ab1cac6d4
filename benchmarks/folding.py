"""What folding an upsampling into its convolution saves, and what the layout of the picture costs.

    python benchmarks/folding.py --rounds 5 --json folding.json

Forward and backward of one upsampling and the 3x3 convolution after it, plain and folded, with
channels first and last, float32: shapes of kl-f8-small at 128 px and batch 8, and of Stable
Diffusion's decoder at 256 px. Milliseconds are medians; ratios are medians over rounds in which
each ran once.
"""

import statistics
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.results import add_outputs, hand_over, paired, ratio
from benchmarks.steps import draw
from trainer.vae.folding import upsampled

SHAPES = ((8, 64, 64), (8, 96, 32), (8, 128, 16), (1, 256, 128), (1, 512, 64))
LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}


def main() -> None:
    options = parse()
    hand_over([row(*shape, options) for shape in SHAPES], options)


def parse() -> Namespace:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_outputs(parser)
    return parser.parse_args()


def row(batch: int, channels: int, side: int, options: Namespace) -> dict[str, object]:
    """Time one shape: a small picture [B, C, side, side], doubled."""
    ways = {
        f"{name}, {place}": pass_of(work, (batch, channels, side, side), layout, options.device)
        for place, layout in LAYOUTS.items()
        for name, work in (("plain", plain), ("folded", upsampled))
    }
    seconds = paired(options.rounds, ways)
    shown = {f"{way}, ms": 1e3 * statistics.median(times) for way, times in seconds.items()}
    return {
        "batch": batch,
        "channels": channels,
        "small picture": side,
        **{name: round(value) for name, value in shown.items()},
        "folded / plain, first": ratio(seconds, "folded, first", "plain, first"),
        "folded / plain, last": ratio(seconds, "folded, last", "plain, last"),
        "last / first, plain": ratio(seconds, "plain, last", "plain, first"),
    }


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Double and convolve, as diffusers does."""
    return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)


def pass_of(
    work: Callable[[Tensor, Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    layout: torch.memory_format,
    device: str,
) -> Callable[[], object]:
    """Make one pass forward and backward, with gradients of all three inputs."""
    channels = shape[1]
    x = draw(*shape).to(device).contiguous(memory_format=layout).requires_grad_()
    weight = (draw(channels, channels, 3, 3) / channels).to(device).requires_grad_()
    bias = draw(channels).to(device).requires_grad_()
    pull = draw(shape[0], channels, 2 * shape[2], 2 * shape[3]).to(device)
    pull = pull.contiguous(memory_format=layout)
    return lambda: torch.autograd.grad(work(x, weight, bias), (x, weight, bias), pull)


if __name__ == "__main__":
    main()
