"""How near a training step comes to the machine's own rate: its convolutions, run alone.

    python benchmarks/floor.py --resolution 256 --precision bf16 --json floor.json

Every convolution of one step (the SD decoder's forward and backward, LPIPS-vgg's) is noted with
its shapes and run again by itself, on the same shapes and types, forward and backward as the step
needs them. The share is the time of these alone over the time of the whole step, in pairs.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import paired, print_table, ratio, step_parser, write_json
from benchmarks.steps import cached_step, settings

FORWARD = torch.ops.aten.convolution.default
BACKWARD = torch.ops.aten.convolution_backward.default


def main() -> None:
    options = parse()
    shape = (options.resolution, options.batch_size, options.precision, options.activation_memory)
    step = cached_step(settings(*shape), options.device)
    with FlopCounterMode(display=False) as counted:
        step()
    alone = convolutions_of(step, options.device)
    seconds = paired(options.rounds, {"step": step, "convolutions alone": alone})
    work = counted.get_total_flops() / 1e12
    rows = [
        {
            "run": name,
            "seconds": statistics.median(times),
            "Tflop": work,
            "Tflop a second": work / statistics.median(times),
            "share of the step": ratio(seconds, name, "step"),
        }
        for name, times in seconds.items()
    ]
    print_table(rows)
    if options.json:
        write_json(options.json, rows, **vars(options))


def parse() -> argparse.Namespace:
    parser = step_parser(__doc__)
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--activation-memory", default="fused")
    return parser.parse_args()


Call = tuple[Any, tuple]


class Noted(TorchDispatchMode):
    """Notes every convolution with its arguments, tensors as their shape, strides and type."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in (FORWARD, BACKWARD):
            self.calls.append((func, tuple(map(described, args))))
        return func(*args, **(kwargs or {}))


def described(value: Any) -> Any:
    """Keep a tensor's form and not its values."""
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def convolutions_of(step: Callable[[], Any], device: torch.device | str) -> Callable[[], None]:
    """Return a function that runs the convolutions of a step and nothing else."""
    with Noted() as noted:
        step()
    places = Places(device)

    def run() -> None:
        for func, args in noted.calls:
            func(*(places.filled(i, value) for i, value in enumerate(args)))

    return run


class Places:
    """Random tensors of asked-for forms, one for each form and argument, made once."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._made: dict[tuple, Tensor] = {}

    def filled(self, place: int, form: Any) -> Any:
        """Give a tensor of this form; other arguments pass."""
        if not isinstance(form, Tensor):
            return form
        key = (place, tuple(form.shape), form.stride(), form.dtype)
        if key not in self._made:
            tensor = torch.empty_strided(form.shape, form.stride(), dtype=form.dtype)
            self._made[key] = tensor.normal_().to(self._device)
        return self._made[key]


if __name__ == "__main__":
    main()
