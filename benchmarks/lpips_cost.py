"""What LPIPS costs in a step: its layout in time, and how much it holds at its peak.

    python benchmarks/lpips_cost.py --lpips-net vgg --resolution 256 --json lpips_cost.json

Value and gradient of one batch: with channels first or last, and with the gradient left to
backward for the whole batch or computed at once, a few pictures at a time. Times are medians over
rounds in which each way ran once; bytes are counted.
"""

import argparse
import statistics
import sys
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from benchmarks.results import paired, print_table, ratio, step_parser, write_json
from benchmarks.steps import Step, draw, random_weights
from trainer.judge.at_once import Distance, gradient_at_once
from trainer.training.live_bytes import LiveBytes
from vae_core import lpips as lpips_module
from vae_core.lpips import NETS, lpips, prepare

FIRST, LAST = torch.contiguous_format, torch.channels_last
BASE = "channels first, whole batch"


def main() -> None:
    options = parse()
    ways = {
        BASE: measured(options, FIRST, at_once=False),
        "channels last, whole batch": measured(options, LAST, at_once=False),
        "channels last, at once": measured(options, LAST, at_once=True),
    }
    seconds = paired(options.rounds, ways)
    rows = [
        {
            "way": name,
            "seconds": statistics.median(times),
            "to the first": ratio(seconds, name, BASE),
            "peak, MiB": peak(ways[name]) / 2**20,
        }
        for name, times in seconds.items()
    ]
    print_table(rows)
    if options.json:
        write_json(options.json, rows, **vars(options))


def parse() -> argparse.Namespace:
    parser = step_parser(__doc__, resolution=256, batch_size=4)
    parser.add_argument("--lpips-net", choices=NETS, default="vgg")
    return parser.parse_args()


def measured(options: argparse.Namespace, layout: torch.memory_format, at_once: bool) -> Step:
    """Make a function that gives the gradient of a batch's mean distance."""
    state = prepare(random_weights(options.lpips_net), options.device)
    state = {name: as_laid_out(weight, layout) for name, weight in state.items()}
    shape = (options.batch_size, 3, options.resolution, options.resolution)
    x, y = draw(*shape).to(options.device), draw(*shape).flip(0).to(options.device)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return lpips(state, options.lpips_net, x, y)

    return gradient(gradient_at_once(distance) if at_once else distance, x, y, layout)


def gradient(distance: Distance, x: Tensor, y: Tensor, layout: torch.memory_format) -> Step:
    def run() -> Tensor:
        kept = lpips_module.fastest_layout
        lpips_module.fastest_layout = lambda h: as_laid_out(h, layout)
        try:
            seen = x.clone().requires_grad_()
            return torch.autograd.grad(distance(seen, y).mean(), seen)[0]
        finally:
            lpips_module.fastest_layout = kept

    return run


def as_laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    return x.contiguous(memory_format=layout) if x.ndim == 4 else x


def peak(work: Step) -> int:
    with LiveBytes() as live:
        work()
    return live.peak


if __name__ == "__main__":
    main()
