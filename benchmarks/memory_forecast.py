"""Memory foretold against memory taken: what a run's first steps add to a process, by case.

    python benchmarks/memory_forecast.py --json memory.json

Each case is a process of its own: on the CPU it reads how far the resident memory grew from before
the model was put up to the peak of three steps (Linux alone tells), on a GPU the allocator's peak.
The steps are a run's own, with its weights, averages, optimizer and LPIPS (random weights).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import repeat
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.results import print_table, write_json
from benchmarks.steps import SD
from trainer.judge.perceptual import load_perceptual
from trainer.options.config import TrainConfig, resolve_vae
from trainer.photos.batches import Batch
from trainer.training.interrupts import Interrupts
from trainer.training.loop import take_step
from trainer.training.memory import expected_memory
from trainer.training.run import Photos, Run, make_run
from trainer.training.run_folder import RunFolder
from trainer.training.setup import make_accelerator
from trainer.vae.base import load_base
from trainer.weights import save_weights
from vae_core.lpips_weights import weight_shapes

STEPS = 3  # the first one puts up the optimizer's state
MIB = 2**20
SMALL, WHOLE = "bundled:kl-f8-small", "sd"
CASES: dict[str, dict[str, Any]] = {
    "small, 256 px, batch 2, fp32": {"vae": SMALL, "batch_size": 2},
    "small, 256 px, batch 4, fp32": {"vae": SMALL, "batch_size": 4},
    "small, 256 px, batch 4, bf16": {"vae": SMALL, "batch_size": 4, "mixed_precision": "bf16"},
    "small, 256 px, batch 4, eager": {"vae": SMALL, "activation_memory": "eager"},
    "small, 256 px, batch 4, checkpoint": {"vae": SMALL, "activation_memory": "checkpoint"},
    "small, 256 px, batch 2, no LPIPS": {"vae": SMALL, "batch_size": 2, "lpips_weight": 0.0},
    "SD, 128 px, batch 1, fp32": {"vae": WHOLE, "batch_size": 1, "resolution": 128},
    "SD, 256 px, batch 1, fp32": {"vae": WHOLE, "batch_size": 1},
    "SD, 256 px, batch 1, bf16": {"vae": WHOLE, "batch_size": 1, "mixed_precision": "bf16"},
}


def main() -> None:
    options = parse()
    if options.case:
        print(json.dumps(measure(options.case, Path(options.folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {name: run_case(name, folder) for name in CASES if options.only in name}
    print_table([row(name, case) for name, case in found.items()])
    if options.json:
        write_json(options.json, [{"case": name} | found[name] for name in found])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_case(name: str, folder: str) -> dict[str, Any]:
    """Measure one case in a fresh process."""
    command = [sys.executable, __file__, "--case", name, "--folder", folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, folder: Path) -> dict[str, Any]:
    config = config_of(name, folder)
    accelerator = make_accelerator(config)
    torch.ones(1, device=accelerator.device)  # the driver's own memory comes with the first tensor
    resident = Resident(accelerator.device)
    base = load_base(resolve_vae(config.vae))
    perceptual = load_perceptual(
        config.lpips_net, config.lpips_weights, False, base.vae, accelerator.device
    )
    run = make_run(
        config, accelerator, base, Photos(None, None, None), perceptual, RunFolder(folder),
        Interrupts(),
    )  # fmt: skip
    take_steps(run)
    taken = resident.growth()
    memory = expected_memory(config, base.architecture, perceptual, device=accelerator.device)
    parts = memory.lasting | memory.step | {"besides": memory.besides}
    return {"expected": sum(parts.values()), "taken": taken, "parts": parts}


def config_of(name: str, folder: Path) -> TrainConfig:
    values = {"data": "none", "output": str(folder), "lpips_net": "squeeze"} | CASES[name]
    if values["vae"] == WHOLE:
        values |= {"vae": str(folder / "config.json"), "lpips_net": "vgg"}
        (folder / "config.json").write_text(json.dumps(SD), encoding="utf-8")
    weights = folder / f"{values['lpips_net']}.safetensors"
    shapes = weight_shapes(values["lpips_net"])
    save_weights(values["lpips_net"], {n: torch.rand(s) / 10 for n, s in shapes.items()}, weights)
    return TrainConfig(**values, lpips_weights=str(weights), log_with="none")


def take_steps(run: Run) -> None:
    """Take the run's own steps on pixels that are drawn."""
    config, generator = run.config, torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.resolution, config.resolution, 3)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    noise = torch.randn((config.batch_size, *run.latent_shape()), generator=generator)
    for _ in range(STEPS):
        take_step(run, repeat(Batch(pixels, noise, [], [])))
        run.ema.update(run.trained())


class Resident:
    """How much memory a process takes at most from now on, in bytes, above what it has now."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is there
        self._before = status("VmRSS")

    def growth(self) -> int:
        if self._cuda:
            return torch.cuda.max_memory_allocated() - self._before
        return status("VmHWM") - self._before


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def row(name: str, case: dict[str, Any]) -> dict[str, Any]:
    expected, taken = case["expected"] / MIB, case["taken"] / MIB
    shown = {"expected, MiB": round(expected), "taken, MiB": round(taken)}
    return {"case": name} | shown | {"ratio": expected / taken}


if __name__ == "__main__":
    main()
