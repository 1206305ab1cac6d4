"""Recipes of training compared at an equal budget: several seeds each, on photos held out.

    python benchmarks/recipes.py --vae org/vae --output runs/study --seeds 0 1 2 --minutes 5 \
        --set faces=photos/faces --set general=photos/general \
        --apart house_ --versus ft-mse --lpips-weights lpips_squeeze.safetensors \
        --face-detector-weights yunet.onnx -- --data photos/train --face-index faces.parquet

What stands after `--` is given to every run; what the recipes' file says beats it. Runs go one
after another through `accelerate launch`. Where they must share the machine, their steps are
measured beforehand on a quiet one, `--measure-steps 40 --minutes 5 --steps-file steps.json`, and
that file then stands for the minutes. A call that broke off is repeated as it was: what is finished
stays. A figure that is not there is a dash; "better than" counts the photos whose LPIPS fell.
"""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.face_windows import CELL, open_lpips, run, with_faces
from benchmarks.recipe_curves import draw_curves
from benchmarks.recipe_runs import (
    Recipe,
    RecipeRun,
    as_flags,
    carry_out,
    measure_steps,
    plan_run,
    read_recipes,
)
from benchmarks.recipe_scores import Measured, Scorer, compare
from benchmarks.results import add_outputs, hand_over, print_table
from trainer.errors import UserError
from trainer.options.config import resolve_vae
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sources import open_photos
from vae_core.files import write_text
from vae_core.lpips import NETS


def main() -> None:
    options = parse()
    recipes = read_recipes(options.recipes, options.only)
    if options.measure_steps:
        measure(options, recipes)
        return
    runs = [
        plan_run(options.output, name, seed, recipe, common(options), budget(options, name))
        for seed in options.seeds
        for name, recipe in recipes.items()
    ]
    if not options.no_training:
        for one in runs:
            carry_out(one)
    finished = {name: [r for r in runs if r.recipe == name and r.finished] for name in recipes}
    rows = table(options, finished)
    hand_over(rows, options)
    if options.curves:
        draw_curves(options.curves, finished, minutes(options))
    missing = sum(not one.finished for one in runs)
    if missing:
        sys.exit(f"recipes: {missing} of {len(runs)} runs are missing in this table")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--recipes", type=Path, default=Path(__file__).with_suffix(".toml"), metavar="TOML")
    add("--only", nargs="+", metavar="RECIPE", help="those of the file that are compared; else all")
    add("--vae", required=True, help="base of every run, as --vae of the trainer")
    add("--output", type=Path, required=True, help="folder of the runs and their figures")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--minutes", type=float, help="of each run, by its own clock")
    add("--steps-file", type=Path, help="steps of each recipe, instead of the clock")
    add("--measure-steps", type=int, metavar="K", help="time K steps of each, write --steps-file")
    add("--rounds", type=int, default=2, help="of that timing")
    add("--set", action="append", default=[], metavar="NAME=DATA", help="to measure on; again")
    add("--versus", metavar="RECIPE", help="compare with this one, too")
    add("--apart", metavar="PREFIX", help="also without, and with only, photos named so")
    add("--no-training", action="store_true", help="make the table of what is finished")
    add("--eval-resolution", type=int, default=512)
    add("--lpips-net", choices=sorted(NETS), default="squeeze")
    add("--lpips-weights", metavar="FILE")
    add("--face-detector-weights", metavar="FILE", help="YuNet")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--curves", type=Path, metavar="PNG", help="held-out figures over minutes")
    add("rest", nargs="*", metavar="-- FLAGS", help="for every run")
    add_outputs(parser)
    options = parser.parse_args()
    if not (options.minutes or options.steps_file):
        parser.error("expected --minutes or --steps-file: how long runs train")
    if options.measure_steps and not (options.minutes and options.steps_file):
        parser.error("expected --minutes and --steps-file with --measure-steps")
    return options


# Budgets


def common(options: argparse.Namespace) -> list[str]:
    """Give the flags of every run; the first two sets are those it measures itself on."""
    places: Recipe = {"vae": options.vae, "lpips_net": options.lpips_net}
    sets = named_sets(options)
    for name, data in zip(("val_data", "general_val_data"), sets.values(), strict=False):
        places[name] = data
    for name in ("lpips_weights", "face_detector_weights"):
        if getattr(options, name):
            places[name] = getattr(options, name)
    return [*as_flags(places), *options.rest]


def budget(options: argparse.Namespace, name: str) -> Recipe:
    """Say how long a recipe trains: so many steps, or so many minutes."""
    if not options.steps_file:
        return {"max_steps": 1_000_000, "max_train_minutes": options.minutes}
    steps = read_steps(options.steps_file)["max_steps"]
    if name not in steps:
        raise UserError(f"{options.steps_file} has no steps for {name}: measure it first")
    return {"max_steps": steps[name]}


def minutes(options: argparse.Namespace) -> float:
    """Return how long a run takes, as asked for or as its steps were counted for."""
    return read_steps(options.steps_file)["minutes"] if options.steps_file else options.minutes


def read_steps(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"expected steps at {path}, but they do not read ({error}): make that file by "
            "--measure-steps"
        ) from None


def measure(options: argparse.Namespace, recipes: dict[str, Recipe]) -> None:
    """Time the recipes and write how many steps of each fill the minutes; others' stay."""
    seconds = measure_steps(
        options.output, recipes, common(options), options.measure_steps, options.rounds
    )
    path = options.steps_file
    known = read_steps(path) if path.exists() else {"max_steps": {}, "seconds_a_step": {}}
    known["minutes"] = options.minutes
    known["seconds_a_step"] |= seconds
    known["max_steps"] = {
        name: max(1, round(60 * options.minutes / taken))
        for name, taken in known["seconds_a_step"].items()
    }
    write_text(path, json.dumps(known, indent=2) + "\n")
    print_table(
        [
            {"recipe": name, "seconds a step": seconds[name], "steps": known["max_steps"][name]}
            for name in recipes
        ]
    )


# Figures


def table(options: argparse.Namespace, finished: dict[str, list[RecipeRun]]) -> list[Recipe]:
    """Measure the base and every finished run on every set, and compare."""
    scorer = make_scorer(options)
    rows = []
    for name, data in named_sets(options).items():
        base = Measured("base", [scorer.photos("base", resolve_vae(options.vae), name, data)])
        found = [
            Measured(
                recipe,
                [scorer.photos(one.folder.name, str(one.export), name, data) for one in runs],
            )
            for recipe, runs in finished.items()
        ]
        rows += [{"set": name} | row for row in compare(base, found, options.versus, options.apart)]
    return rows


def make_scorer(options: argparse.Namespace) -> Scorer:
    """Say how VAEs are measured; photos are opened where something is still to be measured."""

    @functools.cache
    def open_set(data: str) -> PhotoSet:
        return with_faces(open_photos(data, CELL), options.face_detector_weights)

    settings = {
        "eval_resolution": options.eval_resolution,
        "lpips_net": options.lpips_net if options.lpips_weights else None,
        "faces": bool(options.face_detector_weights),
    }
    folder = options.output / "scores"
    return Scorer(folder, open_set, open_lpips(options), settings, options.device)


def named_sets(options: argparse.Namespace) -> dict[str, str]:
    """Read --set NAME=DATA, in order."""
    split = [text.partition("=") for text in options.set]
    if not split or not all(data for _, _, data in split):
        raise UserError("expected sets to measure on: give --set NAME=DATA, such as faces=photos")
    return {name: data for name, _, data in split}


if __name__ == "__main__":
    run(main)
