"""Recipes compared: how they are read and started, what is put beside what, a small run."""

import json
import subprocess
import sys

import pytest

from benchmarks.bootstrap import Estimate
from benchmarks.recipe_curves import curve
from benchmarks.recipe_runs import carry_out, plan_run, read_recipes, seconds_a_step
from benchmarks.recipe_scores import Measured, compare
from benchmarks.results import markdown
from trainer.errors import UserError
from trainer.options.command_line import read_flags

RECIPES = """
[all]
batch_size = 2
learning_rate = 1e-3
[recipes.plain]
lpips_weight = 0.0
[recipes.mirrored]
like = "plain"
flip = true
rec_loss = "l1"
[recipes.still]
like = "mirrored"
flip = false
learning_rate = 1e-4
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipes.toml"
    path.write_text(RECIPES)
    return path


def test_a_recipe_begins_from_another_and_beats_what_all_share(file):
    recipes = read_recipes(file, None)
    assert list(recipes) == ["plain", "mirrored", "still"]
    assert recipes["still"] == {
        "batch_size": 2, "learning_rate": 1e-4, "lpips_weight": 0.0, "flip": False, "rec_loss": "l1"
    }  # fmt: skip
    with pytest.raises(UserError, match="plain, mirrored, still"):
        read_recipes(file, ["other"])
    file.write_text('[recipes.a]\nlike = "b"\n[recipes.b]\nlike = "a"\n')
    with pytest.raises(UserError):
        read_recipes(file, None)


def test_the_projects_own_recipes_are_options_of_the_trainer(project):
    recipes = read_recipes(project / "benchmarks" / "recipes.toml", None)
    for name, recipe in recipes.items():
        run = plan_run(project, name, 3, recipe, ["--data=photos"], {"max_steps": 7})
        flags = read_flags(run.flags)
        assert (flags["seed"], flags["max_steps"], flags["data"]) == (3, 7, "photos")
        assert all(flags[key] == value for key, value in recipe.items())


def test_a_recipe_beats_the_common_flags_and_reads_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PHOTOS", "elsewhere")
    recipe = {"data": "$PHOTOS", "flip": False}
    run = plan_run(tmp_path, "a", 0, recipe, ["--data=x", "--eval-every=5"], {"max_steps": 1})
    flags = read_flags(run.flags)
    assert (flags["data"], flags["flip"], flags["eval_every"]) == ("elsewhere", False, 5)


def test_a_folder_of_other_options_is_not_taken_for_this_recipe(tmp_path):
    run = plan_run(tmp_path, "a.1", 0, {}, [], {"max_steps": 1})
    (tmp_path / "a.1_seed0").mkdir()
    (tmp_path / "a.1_seed0" / "report.json").write_text("{}")
    (tmp_path / "a.1_seed0.command.json").write_text(json.dumps(run.flags))
    assert carry_out(run)  # finished: nothing is started
    with pytest.raises(UserError, match="other options"):
        carry_out(plan_run(tmp_path, "a.1", 0, {}, [], {"max_steps": 2}))


def test_a_step_is_timed_without_the_first_ones(tmp_path):
    seconds = [9.0, 18.0, 27.0, 28.0, 29.0]
    lines = [{"step": i + 1, "loss": 1.0, "seconds": s} for i, s in enumerate(seconds)]
    lines.append({"step": 5, "eval": {}})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert seconds_a_step(tmp_path) == 1.0


# Figures


def photos(*values: tuple[str, float, float | None]) -> dict:
    """Photos by name, with PSNR and LPIPS of the whole and, where LPIPS is given, of faces."""
    found = {}
    for name, psnr, lpips in values:
        figures = {"psnr": psnr, "ssim": None, "lpips": lpips}
        found[name] = {"name": name, "regions": {"all": figures}}
        if lpips is not None:
            found[name]["regions"]["faces"] = figures
    return found


BASE = Measured("base", [photos(("p/house_1.jpg", 20, 0.4), ("p/b.jpg", 30, 0.1), ("c", 10, None))])
TUNED = Measured(
    "tuned",
    [
        photos(("p/house_1.jpg", 21, 0.2), ("p/b.jpg", 32, 0.1), ("c", 11, None)),
        photos(("p/house_1.jpg", 23, 0.2), ("p/b.jpg", 30, 0.1), ("c", 11, None)),
    ],
)


def by_part(rows):
    return {(row["photos of"], row["region"], row["recipe"]): row for row in rows}


def test_seeds_are_averaged_photo_by_photo_and_compared_in_pairs():
    rows = by_part(compare(BASE, [TUNED], None, None))
    assert set(rows) == {("all", r, n) for r in ("all", "faces") for n in ("base", "tuned")}
    row = rows["all", "all", "tuned"]
    assert (row["seeds"], row["photos"], row["psnr"]) == (2, 3, pytest.approx(64 / 3))
    assert row["dB over base"].value == pytest.approx(4 / 3)
    assert (row["dB over base"].low, row["dB over base"].high) == pytest.approx((1, 2))
    assert row["lpips to base, %"].value == pytest.approx(-40)  # 0.15 of 0.25
    assert row["better than base"] == "50%" and row["lpips of seeds"] == "0.1500 - 0.1500"
    assert rows["all", "all", "base"]["dB over base"] is None


def test_a_photo_that_a_seed_lacks_is_left_out():
    few = Measured("tuned", [TUNED.seeds[0], photos(("p/b.jpg", 30, 0.1))])
    assert by_part(compare(BASE, [few], None, None))["all", "all", "tuned"]["photos"] == 1


def test_photos_set_apart_are_compared_alone_and_left_out():
    rows = by_part(compare(BASE, [TUNED], "tuned", "house_"))
    assert rows["house_*", "faces", "tuned"]["psnr"] == 22
    assert rows["house_*", "faces", "base"]["dB over tuned"] == (-2, None, None)
    assert rows["not house_*", "all", "tuned"]["photos"] == 2
    assert rows["not house_*", "faces", "tuned"]["lpips"] == 0.1


def test_a_missing_run_is_a_dash():
    rows = by_part(compare(BASE, [Measured("tuned", [])], "tuned", None))
    row = rows["all", "faces", "tuned"]
    assert row.pop("seeds") == row.pop("photos") == 0
    assert {
        value for key, value in row.items() if key not in ("photos of", "region", "recipe")
    } == {None}
    assert rows["all", "faces", "base"]["dB over tuned"] is None


def test_a_table_is_written_for_a_page_too():
    rows = [{"recipe": "a", "dB": Estimate(1.234, 1.0, 2.0), "lpips": None, "psnr": 26.128}]
    assert markdown(rows).splitlines() == [
        "| recipe | dB | lpips | psnr |",
        "| --- | --- | --- | --- |",
        "| a | 1.23 [1, 2] | - | 26.13 |",
    ]


def test_a_curve_is_the_mean_over_seeds_as_far_as_all_go():
    seeds = [
        [(0.0, {"all": {"psnr": 20}}), (0.5, {"all": {"psnr": 22}}), (1.0, {})],
        [(0.0, {"all": {"psnr": 20}}), (0.7, {"all": {"psnr": 23}}), (1.0, {"all": {"psnr": 24}})],
    ]
    assert curve(seeds, "all", "psnr", 10) == [(0, 20, 20, 20), (6, 22.5, 22, 23)]


@pytest.mark.slow
def test_recipes_are_trained_once_and_compared(file, tiny_base, photo_folder, project, tmp_path):
    output, steps = tmp_path / "study", tmp_path / "steps.json"
    figures, curves = tmp_path / "figures.json", tmp_path / "curves.png"

    def call(*flags: object) -> subprocess.CompletedProcess:
        command = [
            sys.executable, project / "benchmarks" / "recipes.py", "--recipes", file,
            "--vae", tiny_base, "--output", output, "--eval-resolution", 64, "--steps-file", steps,
            "--set", "held=demo:val", *flags, "--", "--data", photo_folder,
            "--resolution", 32, "--eval-resolution", 64, "--eval-every", 2, "--workers", 0,
        ]  # fmt: skip
        return subprocess.run([str(part) for part in command], capture_output=True, text=True)

    timed = call("--only", "plain", "--measure-steps", 3, "--rounds", 1, "--minutes", 0.01)
    assert timed.returncode == 0, timed.stderr
    known = json.loads(steps.read_text())
    assert known["max_steps"]["plain"] >= 1 and known["minutes"] == 0.01
    steps.write_text(json.dumps({"minutes": 1, "max_steps": {"plain": 3, "still": 4}}))
    ended = call("--only", "plain", "--seeds", 0)
    assert ended.returncode == 0, ended.stderr
    before = (output / "plain_seed0" / "report.json").stat().st_mtime_ns
    again = call(
        "--only", "plain", "still", "--seeds", 0, "--versus", "plain", "--no-training",
        "--json", figures, "--curves", curves,
    )  # fmt: skip
    assert again.returncode == 1 and "1 of 2 runs are missing" in again.stderr
    assert "measured" not in again.stdout  # what was found before is read
    assert (output / "plain_seed0" / "report.json").stat().st_mtime_ns == before
    rows = by_part(json.loads(figures.read_text())["rows"])
    assert rows["all", "all", "plain"]["photos"] == 3
    assert len(rows["all", "all", "plain"]["dB over base"]) == 3
    assert rows["all", "all", "still"]["psnr"] is None
    assert curves.stat().st_size > 1000
