"""Where the time of a training step goes: encoder, decoder, LPIPS and optimizer, as shares.

    python benchmarks/step_cost.py --vae bundled:kl-f8-small --resolution 256 --lpips-net squeeze

Prints each part's share of the step, median and range over the steps of one run: shares hold from
machine to machine far better than seconds do. LPIPS has random weights, which take as long.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn

from benchmarks.steps import random_weights
from trainer.options.config import resolve_vae
from trainer.vae.autoencoder import decode, encode, trainable_names
from trainer.vae.base import load_base
from vae_core.lpips import lpips, prepare
from vae_core.lpips_weights import NETS

Seconds = dict[str, float]


def main() -> None:
    options = parse()
    device = torch.device(options.device)
    vae = load_base(resolve_vae(options.vae)).vae.to(device)
    state = prepare(random_weights(options.lpips_net), device)
    step = make_step(vae, lambda x, y: lpips(state, options.lpips_net, x, y).mean())
    pixels = draw((options.batch_size, 3, options.resolution, options.resolution)).to(device)
    step(pixels)  # the first one allocates
    print_shares([step(pixels) for _ in range(options.steps)])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", default="bundled:kl-f8-small", help="as --vae of the trainer")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--lpips-net", choices=NETS, default="squeeze")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def draw(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make_step(
    vae: nn.Module, distance: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Seconds]:
    """Make one training step (MSE + 0.1 LPIPS, decoder only) that returns seconds by part."""
    vae.requires_grad_(False)
    trained = [vae.get_parameter(n).requires_grad_() for n in trainable_names(vae, "decoder")]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def step(pixels: Tensor) -> Seconds:
        seconds: Seconds = {}
        with clocked(seconds, "encoder", pixels.device), torch.no_grad():
            latent = encode(vae, pixels).mean
        with clocked(seconds, "decoder, forward", pixels.device):
            output = decode(vae, latent)
        seen = output.detach().requires_grad_()  # to tell LPIPS' backward from the decoder's
        with clocked(seconds, "LPIPS, forward", pixels.device):
            loss = (seen - pixels).square().mean() + 0.1 * distance(seen, pixels)
        with clocked(seconds, "LPIPS, backward", pixels.device):
            loss.backward()
        with clocked(seconds, "decoder, backward", pixels.device):
            output.backward(seen.grad)
        with clocked(seconds, "optimizer", pixels.device):
            optimizer.step()
            optimizer.zero_grad()
        return seconds

    return step


@contextmanager
def clocked(seconds: Seconds, part: str, device: torch.device) -> Iterator[None]:
    """Note how long the body takes, work still queued on a GPU included."""
    began = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[part] = time.perf_counter() - began


def print_shares(steps: list[Seconds]) -> None:
    print(f"{'part':20} {'share':>7} {'least':>7} {'most':>7}")
    for part in steps[0]:
        shares = sorted(step[part] / sum(step.values()) for step in steps)
        print(f"{part:20} {statistics.median(shares):7.1%} {shares[0]:7.1%} {shares[-1]:7.1%}")


if __name__ == "__main__":
    main()
