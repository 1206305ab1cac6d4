"""How a benchmark hands over what it measured: one table to read, one JSON file to keep."""

import json
import os
import platform
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Row = Mapping[str, Any]


def step_parser(about: str, resolution: int = 128, batch_size: int = 1) -> ArgumentParser:
    """Begin the options of a benchmark that times steps; `about` is its docstring."""
    parser = ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=resolution)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser


def add_outputs(parser: ArgumentParser) -> None:
    """Add the options that say where `hand_over` writes to."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write the figures to")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="file to write the table to")


def hand_over(rows: Sequence[Row], options: Namespace, **settings: Any) -> None:
    """Print the table, and write it where `add_outputs` was told to."""
    print_table(rows)
    if options.json:
        write_json(options.json, rows, **vars(options), **settings)
    if options.markdown:
        options.markdown.write_text(markdown(rows), "utf-8")


def markdown(rows: Sequence[Row]) -> str:
    """Write rows of the same keys as a table of Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[_shown(value) for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def print_table(rows: Sequence[Row]) -> None:
    """Print rows of the same keys, numbers to the right."""
    names = list(rows[0])
    cells = [[_shown(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (names, *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 100 else f"{value}"


def write_json(path: Path, rows: Sequence[Row], **settings: Any) -> None:
    """Write what was measured, on what, and with which settings."""
    found = {"machine": machine(), "settings": settings, "rows": [dict(row) for row in rows]}
    path.write_text(json.dumps(found, indent=2, default=str) + "\n")


def machine() -> dict[str, Any]:
    """Name the processor, its cores and threads, the device and torch's version."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }


Seconds = dict[str, list[float]]


def paired(rounds: int, ways: Mapping[str, Callable[[], Any]]) -> Seconds:
    """Time each way once a round, in turn from the front and from the back: name -> seconds.

    What disturbs a round disturbs its neighbours too, so ratios within rounds hold where seconds
    do not. Each way runs once before.
    """
    for work in ways.values():
        _timed(work)
    seconds: Seconds = {name: [] for name in ways}
    for turn in range(rounds):
        names = list(ways) if turn % 2 else list(ways)[::-1]
        for name in names:
            seconds[name].append(_timed(ways[name]))
    return seconds


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ratio(seconds: Seconds, one: str, other: str) -> float:
    """Give the median over the rounds of `one` to `other`."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
