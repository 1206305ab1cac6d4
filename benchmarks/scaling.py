"""What 1, 2 and 4 processes reach, and what of a step goes to the exchange of gradients.

    python benchmarks/scaling.py --resolution 128 --batch-size 2

Each process has one thread, one batch of the same size, and gloo between them. The numbers of
processes take turns within one run; those that are not needed sleep. With fewer cores than
processes, these share them: the last column counts that out. `apart` is the step of as many
processes that exchange nothing. `from one` and `from apart` are what `scaling_model.py` foretells
from one process's step, or from that of as many apart, and from an exchange timed alone: the first
holds where each process has a core to itself, the second also where cores are wanted elsewhere.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from benchmarks.results import write_json
from benchmarks.scaling_model import exchange_seconds, step_seconds
from trainer.options.config import resolve_vae
from trainer.training.losses import TrainStep
from trainer.training.setup import EXCHANGE
from trainer.vae.autoencoder import encode, trainable_names
from trainer.vae.base import load_base

Row = dict[str, Any]
Seconds = dict[str, list[float]]  # by what was timed


class Party(NamedTuple):
    """Some first processes of all, with a model of their own."""

    group: dist.ProcessGroup
    model: nn.Module  # wrapped, unless it is alone
    optimizer: torch.optim.Optimizer
    batch: tuple[Tensor, Tensor]
    gradients: Tensor  # as many numbers, to time an exchange alone


def main() -> None:
    options = parse()
    with TemporaryDirectory() as folder:
        mp.spawn(work, (options, folder), nprocs=max(options.processes))
        found = json.loads(Path(folder, "found.json").read_text())
    rows = [row(int(count), found, options) for count in found["seconds"]]
    print_table(rows, found["gradient_bytes"], options)
    if options.json:
        write_json(options.json, rows, gradient_bytes=found["gradient_bytes"], **vars(options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", default="bundled:kl-f8-small", help="as --vae of the trainer")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=2, help="of each process")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="of each kind in a round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def work(rank: int, options: argparse.Namespace, folder: str) -> None:
    """Be one of the processes: take part where needed, else wait."""
    torch.set_num_threads(1)
    world = max(options.processes)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    parties = {count: make_party(count, rank, options) for count in options.processes}
    seconds: dict[int, Seconds] = {count: {} for count in parties}
    for turn in range(options.rounds + 1):
        for count, party in parties.items():
            dist.barrier()
            if party:
                times = take_turn(party, options.steps)
                for name, values in times.items() if turn else ():  # the first allocates
                    seconds[count].setdefault(name, []).extend(values)
    if rank == 0:
        size = parties[1 if 1 in parties else world].gradients.numel() * 4
        Path(folder, "found.json").write_text(
            json.dumps({"seconds": seconds, "gradient_bytes": size})
        )
    dist.barrier()
    dist.destroy_process_group()


def make_party(count: int, rank: int, options: argparse.Namespace) -> Party | None:
    """Join the first `count` processes; None for those beyond."""
    group = dist.new_group(list(range(count)))  # all must call it
    if rank >= count:
        return None
    vae = copy.deepcopy(load_base(resolve_vae(options.vae)).vae).requires_grad_(False).train()
    trained = [vae.get_parameter(n).requires_grad_() for n in trainable_names(vae, "decoder")]
    model: nn.Module = TrainStep(vae, None, "mse", 1.0, 0.0, 0.0, train_encoder=False)
    if count > 1:
        kwargs = EXCHANGE.to_kwargs()
        model = nn.parallel.DistributedDataParallel(model, process_group=group, **kwargs)
    generator = torch.Generator().manual_seed(rank)
    shape = (options.batch_size, 3, options.resolution, options.resolution)
    pixels = torch.rand(shape, generator=generator) * 2 - 1
    with torch.no_grad():
        noise = torch.randn(encode(vae, pixels).mean.shape, generator=generator)
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    gradients = torch.zeros(sum(p.numel() for p in trained))
    return Party(group, model, optimizer, (pixels, noise), gradients)


def take_turn(party: Party, steps: int) -> Seconds:
    """Time steps that exchange gradients, steps that do not, and an exchange alone, in turn."""
    times: Seconds = {"step": [], "no exchange": [], "exchange": []}
    alone = isinstance(party.model, TrainStep)
    for _ in range(steps):
        times["step"].append(timed(party, lambda: step(party, exchange=True)))
        times["no exchange"].append(timed(party, lambda: step(party, exchange=alone)))
        times["exchange"].append(
            timed(party, lambda: dist.all_reduce(party.gradients, group=party.group))
        )
    return times


def timed(party: Party, what: Any) -> float:
    """Time something that all of a party begin together, until the last is through."""
    dist.barrier(party.group)
    began = time.perf_counter()
    what()
    dist.barrier(party.group)
    return time.perf_counter() - began


def step(party: Party, exchange: bool) -> None:
    with nullcontext() if exchange else party.model.no_sync():
        party.model(*party.batch)["loss"].backward()
    party.optimizer.step()
    party.optimizer.zero_grad()


def row(count: int, found: dict[str, Any], options: argparse.Namespace) -> Row:
    """Put a number of processes beside one, measured and foretold."""
    medians = {
        name: statistics.median(values) for name, values in found["seconds"][str(count)].items()
    }
    one = statistics.median(found["seconds"][str(min(options.processes))]["step"])
    least, most = (f(found["seconds"][str(count)]["step"]) for f in (min, max))
    sharing = max(1.0, count / (os.cpu_count() or 1))  # processes to a core
    return {
        "processes": count,
        "step_seconds": medians["step"],
        "least": least,
        "most": most,
        "images_a_second": count * options.batch_size / medians["step"],
        "efficiency": one / medians["step"],
        "efficiency_of_cores": one * sharing / medians["step"],
        "apart_seconds": medians["no exchange"],
        "exchange_share": max(0.0, 1 - medians["no exchange"] / medians["step"]),
        "bandwidth": bandwidth(count, medians["exchange"], found["gradient_bytes"]),
        "from_one_seconds": forecast(count, one * sharing, medians["exchange"]),
        "from_apart_seconds": forecast(count, medians["no exchange"], medians["exchange"]),
    }


def bandwidth(count: int, exchange: float, gradient_bytes: int) -> float | None:
    """Return the bytes a second of a ring that takes so long; None for one process."""
    return exchange_seconds(count, gradient_bytes, 1.0) / exchange if count > 1 else None


def forecast(count: int, compute: float, exchange: float) -> float:
    """Foretell a step from its computing and an exchange timed alone, none of it hidden."""
    return step_seconds(compute, 0.0, exchange if count > 1 else 0.0)


def print_table(rows: list[Row], gradient_bytes: int, options: argparse.Namespace) -> None:
    cores = os.cpu_count()
    print(
        f"{options.batch_size} crops of {options.resolution} pixels a process, one thread each, "
        f"{cores} cores, {gradient_bytes / 1e6:.1f} MB of gradients"
    )
    print(
        f"{'processes':>9} {'step, s':>8} {'range':>13} {'apart':>8} {'from one':>8} "
        f"{'from apart':>10} {'images/s':>8} {'efficiency':>10} {'exchange':>8} "
        f"{'ring, GB/s':>10} {'of cores':>8}"
    )
    for one in rows:
        spread = f"{one['least']:.2f} - {one['most']:.2f}"
        link = f"{one['bandwidth'] / 1e9:.2f}" if one["bandwidth"] else ""
        print(
            f"{one['processes']:9} {one['step_seconds']:8.3f} {spread:>13} "
            f"{one['apart_seconds']:8.3f} {one['from_one_seconds']:8.3f} "
            f"{one['from_apart_seconds']:10.3f} {one['images_a_second']:8.2f} "
            f"{one['efficiency']:10.0%} {one['exchange_share']:8.1%} {link:>10} "
            f"{one['efficiency_of_cores']:8.0%}"
        )
    if cores and rows[-1]["processes"] > cores:
        print(f"More processes than the {cores} cores share them; `of cores` counts that out.")


if __name__ == "__main__":
    main()
