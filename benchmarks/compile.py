"""What --compile costs and gives: seconds to compile, step compiled against eager, and break-even.

    python benchmarks/compile.py --resolution 192 --batch-size 4 --json compile.json

Both decoders take their steps in turn, forward and backward, so that a busy machine slows both.
Break-even is the number of steps after which the seconds of compiling are won back.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn

from benchmarks.results import Row, print_table, write_json
from trainer.options.config import resolve_vae
from trainer.training.compiling import compile_decoder
from trainer.vae.autoencoder import decode, latent_channels, ratio, trainable_names
from trainer.vae.base import load_base


def main() -> None:
    options = parse()
    rows = [compare(options, precision) for precision in options.precision]
    print_table(rows)
    if options.json:
        write_json(options.json, rows, **vars(options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", default="bundled:kl-f8-small", help="as --vae of the trainer")
    parser.add_argument("--resolution", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


def compare(options: argparse.Namespace, precision: str) -> Row:
    device = torch.device(options.device)
    eager = load_base(resolve_vae(options.vae)).vae.to(device).train().requires_grad_(False)
    for name in trainable_names(eager, "decoder"):
        eager.get_parameter(name).requires_grad_()
    compiled = copy.deepcopy(eager)
    torch.compiler.reset()
    compile_decoder(compiled, device)
    cells = options.resolution // ratio(eager)
    shape = (options.batch_size, latent_channels(eager), cells, cells)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    first = {vae: seconds(vae, latent, precision) for vae in (eager, compiled)}
    rounds = [
        (seconds(eager, latent, precision), seconds(compiled, latent, precision))
        for _ in range(options.rounds)
    ]
    slow, fast = (statistics.median(times) for times in zip(*rounds, strict=True))
    compiling = first[compiled] - fast
    return {
        "precision": precision,
        "compiling, s": compiling,
        "eager, s": slow,
        "compiled, s": fast,
        "ratio": fast / slow,
        "break-even, steps": round(compiling / (slow - fast)) if slow > fast else None,
    }


def seconds(vae: nn.Module, latent: Tensor, precision: str) -> float:
    """Take the forward and backward pass of a decoder; return how long it took."""
    began = time.perf_counter()
    with torch.autocast(latent.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = decode(vae, latent)
    output.float().square().mean().backward()
    if latent.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
