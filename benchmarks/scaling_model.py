"""From one card to 64: step time, input and cost, by arithmetic on named assumptions.

    python benchmarks/scaling_model.py --resolution 512 --batch-size 4

Nothing here is measured. `scaling.py` holds the formula of a step against what it measures.
"""

import argparse
from dataclasses import dataclass

# Operations of one picture going forward, counted on Stable Diffusion's VAE and LPIPS' VGG16, two
# for each multiply-add.
DECODER = {256: 622e9, 512: 2515e9}
ENCODER = {256: 273e9, 512: 1117e9}
VGG = {256: 40e9, 512: 160e9}
TRAINED = 49_490_199  # parameters of the decoder and post_quant_conv
GRADIENT_BYTES = 4 * TRAINED  # float32
CARDS = (1, 2, 4, 8, 16, 32, 64)
STEPS = 100_000


@dataclass(frozen=True)
class Assumptions:
    """What the figures stand on. None of it was measured here."""

    resolution: int = 512
    batch_size: int = 4  # on each card
    cached: bool = True  # latents come from a cache: no encoder
    peak: float = 312e12  # operations a second of a card in bf16: the data sheet of an A100
    utilisation: float = 0.35  # of the peak, in these convolutions
    cards_a_machine: int = 8
    within: float = 200e9  # bytes a second between cards of a machine, each way
    between: float = 12.5e9  # bytes a second out of a machine: 100 Gbit/s
    photos: float = 120.0  # crops a second for each card: two workers at 60
    hidden: float = 0.0  # share of the compute time behind which the exchange can hide


def flops(resolution: int, cached: bool) -> float:
    """Count a training step's operations for one picture.

    Decoder and LPIPS three times forward: the decoder's backward pass is two; LPIPS sees two
    pictures, and its weights need no gradient.
    """
    return 3 * (DECODER[resolution] + VGG[resolution]) + (0 if cached else ENCODER[resolution])


def exchange_seconds(processes: int, gradient_bytes: float, bandwidth: float) -> float:
    """Return how long a ring takes to add gradients up: 2 (n - 1) / n of them pass each link."""
    return 2 * (processes - 1) / processes * gradient_bytes / bandwidth


def step_seconds(compute: float, waiting: float, exchange: float, hidden: float = 0.0) -> float:
    """Return a step's time: the slower of computing and input, and what of the exchange shows.

    All in seconds; `hidden` is the share of the compute time behind which the exchange can hide,
    0 for the worst case.
    """
    return max(compute, waiting) + max(0.0, exchange - hidden * compute)


def crop_bytes(resolution: int) -> int:
    """Count a cached crop's bytes: 8-bit pixels, and mean and log-variance in 16 bits."""
    return 3 * resolution**2 + 2 * 4 * (resolution // 8) ** 2 * 2


@dataclass(frozen=True)
class Point:
    """What is foretold for a number of cards."""

    cards: int
    step: float  # seconds
    images: float  # a second, over all cards
    efficiency: float  # against as many times one card
    megabytes: float  # a second out of the cache, over all cards
    hours: float  # of the clock, for 100,000 steps
    card_hours: float


def foretell(cards: int, given: Assumptions) -> Point:
    """Work out one number of cards, at the same batch on each."""
    compute = given.batch_size * flops(given.resolution, given.cached)
    compute /= given.peak * given.utilisation
    bandwidth = given.within if cards <= given.cards_a_machine else given.between
    exchange = exchange_seconds(cards, GRADIENT_BYTES, bandwidth)
    alone = step_seconds(compute, given.batch_size / given.photos, 0.0)
    step = step_seconds(compute, given.batch_size / given.photos, exchange, given.hidden)
    images = cards * given.batch_size / step
    return Point(
        cards=cards,
        step=step,
        images=images,
        efficiency=alone / step,
        megabytes=images * crop_bytes(given.resolution) / 1e6,
        hours=STEPS * step / 3600,
        card_hours=cards * STEPS * step / 3600,
    )


def table(given: Assumptions) -> str:
    """Lay the forecast out in Markdown."""
    lines = [
        "| cards | step, ms | images/s | efficiency | cache, MB/s | hours | card hours |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cards in CARDS:
        p = foretell(cards, given)
        lines.append(
            f"| {p.cards} | {1000 * p.step:.1f} | {p.images:.0f} | {p.efficiency:.1%} | "
            f"{p.megabytes:.0f} | {p.hours:.1f} | {p.card_hours:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, choices=sorted(DECODER), default=512)
    for name, kind in (("batch-size", int), ("peak", float), ("utilisation", float)):
        parser.add_argument(
            f"--{name}", type=kind, default=getattr(Assumptions, name.replace("-", "_"))
        )
    for name in ("within", "between", "photos", "hidden"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Assumptions, name))
    print(table(Assumptions(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
