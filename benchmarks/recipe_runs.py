"""Runs of recipes: what each recipe is, and real training processes, one after another.

A recipe is a table of options of trainer/finetune_decoder.py in a TOML file, `[recipes.NAME]`;
`like = "OTHER"` begins from another one, `$NAME` in a text is the environment's. A run lies in
OUTPUT/NAME_seedN, its command and log beside it; one that is finished is not repeated, one that
broke off goes on.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

from trainer.errors import UserError
from trainer.training.metrics_log import MetricsLog
from vae_core.files import write_text

ENTRY = Path(__file__).resolve().parents[1] / "trainer" / "finetune_decoder.py"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", str(ENTRY)]
# What a comparison can do without; a recipe or what stands after `--` may ask for it again.
BARE = {"sample-photos": 0, "eval-every": 0, "checkpoint-every": 100, "log-with": "none"}
WARM_UP = 3  # first steps of a run that are not timed

Recipe = dict[str, Any]  # options by name


class RecipeRun(NamedTuple):
    """One run: where it lies, and the flags that it is started with."""

    recipe: str
    seed: int
    folder: Path
    flags: list[str]

    @property
    def finished(self) -> bool:
        """Whether it came to its end: the report is written after the export."""
        return (self.folder / "report.json").is_file()

    def beside(self, ending: str) -> Path:
        """Return a file beside the folder, which holds the run alone."""
        return self.folder.with_name(self.folder.name + ending)

    @property
    def export(self) -> Path:
        return self.folder / "export" / "vae.safetensors"


def read_recipes(path: Path, names: Sequence[str] | None) -> dict[str, Recipe]:
    """Read the recipes of a file, or those of some names, each complete."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"expected recipes in TOML at {path}, but it does not read: {error}"
        ) from None
    known = tables.get("recipes", {})
    chosen = list(known) if names is None else names
    return {name: tables.get("all", {}) | _complete(name, known) for name in chosen}


def _complete(name: str, known: Mapping[str, Recipe], depth: int = 0) -> Recipe:
    if name not in known or depth > len(known):
        raise UserError(f"expected a recipe among {', '.join(known)}, got {name!r}")
    own = dict(known[name])
    other = own.pop("like", None)
    return (_complete(other, known, depth + 1) if other else {}) | own


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Write options as flags of the trainer."""
    flags = []
    for name, value in options.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{dashed}")
        else:
            flags.append(f"--{dashed}={os.path.expandvars(str(value))}")
    return flags


def plan_run(
    output: Path, name: str, seed: int, recipe: Recipe, common: Sequence[str], budget: Recipe
) -> RecipeRun:
    """Put a run's flags together; the recipe beats what is common, the budget beats both."""
    folder = output / f"{name}_seed{seed}"
    flags = [*as_flags(BARE), *common, *as_flags(recipe), *as_flags(budget)]
    return RecipeRun(name, seed, folder, [*flags, f"--seed={seed}", f"--output={folder}"])


def carry_out(run: RecipeRun) -> bool:
    """Train, or go on training, unless it is finished; tell whether it is now.

    Raises UserError where the folder holds a run of other flags.
    """
    command = run.beside(".command.json")
    if command.exists() and json.loads(command.read_text()) != run.flags:
        raise UserError(
            f"{run.folder} was begun with other options, which are in {command.name}: give another "
            "--output, or remove that run with its command"
        )
    if run.finished:
        return True
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    write_text(command, json.dumps(run.flags, indent=1))
    resume = ["--resume"] if (run.folder / "config.toml").exists() else []
    began = time.monotonic()
    with run.beside(".log").open("ab") as log:
        ended = subprocess.run([*LAUNCH, *run.flags, *resume], stdout=log, stderr=log)
    minutes = (time.monotonic() - began) / 60
    said = "done" if run.finished else f"FAILED with {ended.returncode}: {last_line(log.name)}"
    print(f"{run.folder.name}: {said}, {minutes:.1f} min in all", flush=True)
    return run.finished


def last_line(log: str) -> str:
    """Return the last line of a log that says why the trainer ended, with the log's name."""
    lines = Path(log).read_text("utf-8", "replace").splitlines()
    own = [line for line in lines if line.startswith("finetune_decoder:")]
    return f"{(own or lines or [''])[-1]} ({log})"


# Budgets in steps


def measure_steps(
    output: Path, recipes: Mapping[str, Recipe], common: Sequence[str], steps: int, rounds: int
) -> dict[str, float]:
    """Time steps of each recipe in turns, forwards and back: recipe -> seconds a step.

    Start, first steps, evaluation and export are not counted. A discriminator works from the first
    step on, so that a recipe that lets it start later gets somewhat fewer steps than it could have.
    """
    found: dict[str, list[float]] = {name: [] for name in recipes}
    budget = {"max_steps": WARM_UP + steps, "warmup_steps": 0, "log_every": 1}
    budget |= {"val_photos": 1, "eval_every": 0}
    for turn in range(rounds):
        for name in list(recipes)[:: -1 if turn % 2 else 1]:
            recipe = recipes[name] | ({"gan_start": 0} if "gan_start" in recipes[name] else {})
            run = plan_run(output / "timed", f"{name}_{turn}", 0, recipe, common, budget)
            if not carry_out(run):
                raise UserError(f"the recipe {name} could not be timed: see {run.beside('.log')}")
            found[name].append(seconds_a_step(run.folder))
            print(f"{name}: {found[name][-1]:.3f} s a step", flush=True)
    return {name: statistics.median(values) for name, values in found.items()}


def seconds_a_step(folder: Path) -> float:
    """Return the mean time of a run's steps after the first ones, all of them logged."""
    records = [record for record in MetricsLog(folder / "metrics.jsonl").read() if "loss" in record]
    ends = [record["seconds"] for record in records][WARM_UP - 1 :]
    return (ends[-1] - ends[0]) / (len(ends) - 1)
