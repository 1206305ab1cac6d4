"""What a latent cache saves: steps that encode beside steps from cached latents, in pairs.

    python benchmarks/cache.py --vae bundled:kl-f8-small --resolution 128 --json cache.json

Takes whole optimizer steps of the trainer, the reading of their photos included, in turn from both,
and prints medians and their ratio, what filling the cache took, and when it has paid for itself.
LPIPS has random weights, which take as long.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate import Accelerator
from tqdm import tqdm

from benchmarks.results import write_json
from benchmarks.steps import random_weights
from trainer.judge.perceptual import Perceptual, load_perceptual
from trainer.options.config import TrainConfig, resolve_vae
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from trainer.training.cache_plan import layout
from trainer.training.caching import fill_cache
from trainer.training.interrupts import Interrupts
from trainer.training.loop import batches_of, forward
from trainer.training.run import Photos, Run, make_run
from trainer.training.run_folder import RunFolder
from trainer.training.setup import make_accelerator
from trainer.vae.base import load_base
from vae_core.checkpoint import write_safetensors
from vae_core.lpips_weights import NETS


class Took(NamedTuple):
    """Seconds of one step: waiting for its batch, and computing."""

    batch: float
    step: float


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    print_table(result)
    if options.json:
        write_json(options.json, [result], **vars(options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", default="bundled:kl-f8-small", help="as --vae of the trainer")
    parser.add_argument("--data", default="demo:train", help="as --data of the trainer")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--cache-crops", type=int, default=8)
    parser.add_argument("--mixed-precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--activation-memory", default="eager", help="as in the trainer")
    parser.add_argument("--lpips-net", choices=NETS, default="squeeze")
    parser.add_argument("--workers", type=int, default=0, help="0: reading counts in full")
    parser.add_argument("--rounds", type=int, default=11, help="steps of each kind")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    photos = open_photos(options.data, options.resolution)
    cached, plain = (make_config(options, folder, c) for c in (str(folder / "cache"), None))
    accelerator = make_accelerator(plain)
    perceptual = random_perceptual(options.lpips_net, folder, accelerator)
    run = prepare(cached, accelerator, photos, perceptual)
    began = time.perf_counter()
    run.cache = fill_cache(run, print)
    seconds = time.perf_counter() - began
    steps = {
        "encoding": stepper(prepare(plain, accelerator, photos, perceptual)),
        "cached": stepper(run),
    }
    return figures(options, run, seconds, take_turns(steps, options.rounds))


def make_config(options: argparse.Namespace, folder: Path, cache: str | None) -> TrainConfig:
    return TrainConfig(
        vae=options.vae,
        data=options.data,
        output=str(folder / "run"),
        resolution=options.resolution,
        batch_size=options.batch_size,
        mixed_precision=options.mixed_precision,
        activation_memory=options.activation_memory,
        workers=options.workers,
        cache_latents=cache,
        cache_crops=options.cache_crops if cache else None,
        log_with="none",
    )


def random_perceptual(net: str, folder: Path, accelerator: Accelerator) -> Perceptual:
    file = folder / "lpips.safetensors"
    # heads are never negative in real ones, and a distance needs a root that is real
    write_safetensors(file, {name: w.abs() for name, w in random_weights(net).items()}, {})
    return load_perceptual(net, str(file), False, torch.nn.Identity(), accelerator.device)


def prepare(
    config: TrainConfig, accelerator: Accelerator, photos: PhotoSet, perceptual: Perceptual
) -> Run:
    base, folder = load_base(resolve_vae(config.vae)), RunFolder(Path(config.output))
    sets = Photos(photos, photos, None)
    return make_run(config, accelerator, base, sets, perceptual, folder, Interrupts())


def stepper(run: Run) -> Callable[[], Took]:
    """Make whole optimizer steps of a run."""
    batches = batches_of(run)

    def step() -> Took:
        began = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        run.accelerator.backward(forward(run, batch)["loss"])
        run.optimizer.step()
        run.optimizer.zero_grad()
        if run.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return Took(got - began, time.perf_counter() - got)

    return step


def take_turns(steps: dict[str, Callable[[], Took]], rounds: int) -> dict[str, list[Took]]:
    """Time both in pairs, each first in every other pair; the first pair only warms up."""
    took: dict[str, list[Took]] = {name: [] for name in steps}
    for number in tqdm(range(rounds + 1), desc="pairs", leave=False):
        for name in sorted(steps, reverse=bool(number % 2)):
            took[name].append(steps[name]())
    return {name: some[1:] for name, some in took.items()}


def figures(
    options: argparse.Namespace, run: Run, filling: float, took: dict[str, list[Took]]
) -> dict[str, Any]:
    whole = {name: [sum(one) for one in some] for name, some in took.items()}
    ratios = [c / e for c, e in zip(whole["cached"], whole["encoding"], strict=True)]
    sizes, photos = layout(run.config, run.base), len(run.photos.train)
    medians = {name: statistics.median(some) for name, some in whole.items()}
    saved = (medians["encoding"] - medians["cached"]) / options.batch_size  # a crop
    return {
        "steps": {name: part_medians(some, options.batch_size) for name, some in took.items()},
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "photos": photos,
        "record_bytes": sizes.record_bytes,
        "cache_bytes": sum(path.stat().st_size for path in run.cache.folder.glob("*.safetensors")),
        "filling_seconds": filling,
        "filling_crops_per_second": photos * sizes.crops / filling,
        "epochs_until_paid": filling / (saved * photos) if saved > 0 else None,
    }


def part_medians(took: list[Took], crops: int) -> dict[str, float]:
    seconds = {part: statistics.median(getattr(one, part) for one in took) for part in Took._fields}
    whole = statistics.median(sum(one) for one in took)
    return {**seconds, "whole": whole, "images_per_second": crops / whole}


def print_table(result: dict[str, Any]) -> None:
    encoding, cached = result["steps"]["encoding"], result["steps"]["cached"]
    print(f"{'seconds, median':20} {'encoding':>10} {'cached':>10} {'ratio':>7}")
    for part in ("batch", "step", "whole"):
        apart = cached[part] / encoding[part]
        print(f"{part:20} {encoding[part]:10.4f} {cached[part]:10.4f} {apart:7.3f}")
    rates = [side["images_per_second"] for side in (encoding, cached)]
    print(f"{'images a second':20} {rates[0]:10.2f} {rates[1]:10.2f} {rates[1] / rates[0]:7.3f}")
    ratio, epochs = result["ratio"], result["epochs_until_paid"]
    print(f"\npaired rounds: {ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f})")
    print(
        f"filling: {result['filling_seconds']:.1f} s for {result['photos']} photos, "
        f"{result['filling_crops_per_second']:.1f} crops a second, "
        f"{result['record_bytes']:,} bytes a record"
    )
    print(f"paid for after {epochs:.1f} epochs" if epochs else "not paid for: no step was faster")


if __name__ == "__main__":
    main()
