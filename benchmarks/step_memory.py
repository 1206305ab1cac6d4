"""What a training step keeps and needs, by way of keeping activations, resolution and precision.

    python benchmarks/step_memory.py --resolution 256 512 --json step_memory.json

First table: bytes of activations that the SD decoder keeps for backward, a picture. Second table:
the whole step (decoder training from cached latents, LPIPS-vgg, AdamW, averaged weights) at its
peak. Both are counted, so they are the same on every machine; norms count by a GPU's rules for
autocast. With a GPU, the allocator's peak of real steps stands beside.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from benchmarks.results import print_table, write_json
from benchmarks.saved_bytes import gpu_rules, saved_bytes
from benchmarks.steps import SD, cached_step, random_perceptual, settings
from trainer.judge.perceptual import Perceptual
from trainer.options.config import TrainConfig
from trainer.training.memory import BASE, expected_memory
from trainer.vae.autoencoder import build, decode
from trainer.vae.fused import keep_activations

WAYS = ("eager", "checkpoint", "fused")
TYPES = {"no": None, "bf16": torch.bfloat16}
GIB = 2**30


def main() -> None:
    options = parse()
    kept = [
        {"resolution": side, "precision": precision} | kept_at(side, precision)
        for side in options.resolution
        for precision in TYPES
    ]
    print_table(kept)
    perceptual = random_perceptual("vgg", "cpu")
    whole = [
        {"batch": options.batch_size, "activations": way} | step_at(side, way, options, perceptual)
        for side in options.resolution
        for way in WAYS
    ]
    print_table(whole)
    if options.json:
        write_json(options.json, [*kept, *whole], **vars(options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batch-size", type=int, default=4, help="of the whole step")
    parser.add_argument("--precision", choices=TYPES, default="bf16", help="of the whole step")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


# Activations


def kept_at(side: int, precision: str) -> dict[str, float]:
    """Count what each way keeps, in GiB and as a share of eager."""
    counts = {way: kept_bytes(side, precision, way) for way in WAYS}
    shares = {f"{way} / eager": counts[way] / counts["eager"] for way in WAYS[1:]}
    return {f"{way}, GiB": counts[way] / GIB for way in WAYS} | shares


def kept_bytes(side: int, precision: str, way: str) -> int:
    vae = build(SD).train()
    keep_activations(vae, way)
    latent = torch.zeros(1, 4, side // 8, side // 8)
    return saved_bytes(lambda: lowered(lambda: decode(vae, latent), precision), vae)


def lowered(forward: Callable[[], Tensor], precision: str) -> Tensor:
    kind = TYPES[precision]
    autocast = nullcontext() if kind is None else torch.autocast("cpu", kind)
    with autocast, gpu_rules():
        return forward()


# The whole step


def step_at(
    side: int, way: str, options: argparse.Namespace, perceptual: Perceptual
) -> dict[str, float | None]:
    """Count a step's parts and peak in GiB; measure it too where there is a GPU."""
    config = settings(side, options.batch_size, options.precision, way)
    with gpu_rules():
        memory = expected_memory(config, SD, perceptual)
    lasting = sum(size for name, size in memory.lasting.items() if name != BASE)
    lasting -= encoder_bytes()
    counted = lasting + sum(memory.step.values())
    parts = {f"{name}, GiB": size / GIB for name, size in memory.step.items()}
    measured = measured_peak(config) if torch.cuda.is_available() else None
    return {
        "lasting, GiB": lasting / GIB,
        "decoder kept, GiB": parts["activations of the decoder, GiB"],
        "LPIPS, GiB": parts["the loss while it is computed, GiB"],
        "backward more, GiB": parts.get("more in the backward pass, GiB", 0.0),
        "peak by count, GiB": counted / GIB,
        "peak measured, GiB": measured,
    }


def encoder_bytes() -> int:
    """Count the weights that steps from cached latents leave in system memory."""
    with torch.device("meta"):
        vae = build(SD)
    weights = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def measured_peak(config: TrainConfig) -> float:
    """Run two real steps on the GPU; the most that the allocator handed out, in GiB."""
    step = cached_step(config, torch.device("cuda"))
    torch.cuda.reset_peak_memory_stats()
    step()
    step()
    return torch.cuda.max_memory_allocated() / GIB


if __name__ == "__main__":
    main()
