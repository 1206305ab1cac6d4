"""How long a training step takes, by way of keeping activations, beside the usual recipe.

    python benchmarks/step_time.py --resolution 256 --precision bf16 --rounds 7 --json time.json

One whole step of the SD decoder (random weights): decode, MSE + 0.1 LPIPS-vgg, backward, AdamW,
averaged weights. "eager", "checkpoint" and "fused" start from cached latents. "usual recipe" is
what most scripts do: encode in every step, and compute whole blocks twice. Ratios are medians over
rounds in which each way ran once.
"""

import argparse
import statistics
import sys
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.results import Seconds, paired, print_table, ratio, step_parser, write_json
from benchmarks.steps import Step, posterior_of, settings, trained_decoder, whole_step
from trainer.vae.fused import keep_activations, unfuse

USUAL = "usual recipe"
WAYS = ("eager", "checkpoint", "fused")


def main() -> None:
    options = parse()
    steps = all_steps(options)
    rows = table(paired(options.rounds, steps))
    print_table(rows)
    if options.json:
        write_json(options.json, rows, **vars(options))


def parse() -> argparse.Namespace:
    parser = step_parser(__doc__)
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    return parser.parse_args()


def all_steps(options: argparse.Namespace) -> dict[str, Step]:
    """Make the steps; they share one model, whose blocks are switched before each."""
    vae = trained_decoder(options.device)
    shape = (options.resolution, options.batch_size, options.precision)
    cached = posterior_of(settings(*shape), vae, options.device)
    steps = {way: switched(vae, way, whole_step(settings(*shape), vae, cached)) for way in WAYS}
    steps[USUAL] = switched(vae, "checkpoint", whole_step(settings(*shape), vae, None))
    return steps


def switched(vae: nn.Module, way: str, step: Step) -> Step:
    """Set how activations are kept, then step."""

    def run() -> torch.Tensor:
        unfuse(vae)
        vae.disable_gradient_checkpointing()
        keep_activations(vae, way)
        return step()

    return run


def table(seconds: Seconds) -> list[dict[str, object]]:
    """Give each way's median and its ratios to eager and to the usual recipe."""
    return [
        {
            "step": way,
            "seconds": statistics.median(seconds[way]),
            "to eager": ratio(seconds, way, "eager"),
            f"to the {USUAL}": ratio(seconds, way, USUAL),
        }
        for way in seconds
    ]


if __name__ == "__main__":
    main()
