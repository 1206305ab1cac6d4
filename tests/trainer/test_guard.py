"""`--no-worse`: photos that a run forgets decide what it exports; real small runs, no stand-ins.

The base decodes all to a dull grey, so dull photos lose as soon as training learns contrast from
others. At a learning rate of 3e-3 they gain 2.1 dB at step 1, lose at every step from 2 on, most
(0.9 dB) at step 4, and heal as the rate falls, to a loss of 0.006 dB at step 12; the held-out
photos are best at step 2.
"""

import dataclasses
import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.trainer.conftest import signals_as_they_were
from tests.trainer.runs import call_entry, cut_back, exported, options
from tests.trainer.test_ranks import run_two
from trainer.judge.scores import PhotoScore
from trainer.report.guard_words import guard_words
from trainer.training import session
from trainer.training.checkpoints import all_checkpoints, best_checkpoint
from trainer.training.guard import decibels_lost
from vae_core.files import sha256_file, write_json

STEPS = ("--max-steps", 12, "--ema-decay", 0, "--checkpoint-every", 0)
FORGETS = (*STEPS, "--learning-rate", 3e-3, "--eval-every", 1)
GUARDED = (*FORGETS, "--no-worse", 0.05, "--checkpoint-every", 1, "--keep-checkpoints", 20)


@pytest.fixture(scope="session")
def dull(tmp_path_factory, photo_folder) -> Path:
    """Six of the photos with a tenth of their contrast."""
    folder = tmp_path_factory.mktemp("dull")
    for path in sorted(photo_folder.iterdir())[:6]:
        pixels = np.asarray(Image.open(path)).astype(float)
        Image.fromarray((118 + (pixels - 118) / 10).round().astype(np.uint8)).save(
            folder / path.name
        )
    return folder


@pytest.fixture
def guarded(train, dull):
    """Train with dull photos as the general ones; return the exit code."""
    return lambda run, *flags: train(run, "--general-val-data", dull, *flags)


@pytest.fixture(scope="module")
def ended(tmp_path_factory, tiny_base, photo_folder, dull) -> tuple[Path, str]:
    """A run that ended early, with every checkpoint, and what it said; not to be changed."""
    run, said = tmp_path_factory.mktemp("ended") / "run", io.StringIO()
    general = ("--general-val-data", dull)
    with signals_as_they_were(), redirect_stdout(said):
        assert call_entry(options(tiny_base, photo_folder, run, *general, *GUARDED)) == 0
    return run, said.getvalue()


def report(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def steps(run: Path) -> list[int]:
    return [int(folder.name[-6:]) for folder in all_checkpoints(run / "checkpoints")]


def state(run: Path) -> dict:
    folder = all_checkpoints(run / "checkpoints")[-1]
    return json.loads((folder / "state.json").read_text())["run"]


def write_manifest_of(folder: Path, name: str) -> None:
    """Let a changed file of a checkpoint pass for what was written."""
    manifest = json.loads((folder / "manifest.json").read_text())
    size, digest = (folder / name).stat().st_size, sha256_file(folder / name)
    manifest["files"][name] = {"bytes": size, "sha256": digest}
    write_json(folder / "manifest.json", manifest)


def assert_exported(run: Path, step: int) -> None:
    """The export holds the tensors of a step's checkpoint, in both of its files."""
    kept = load_file(run / "checkpoints" / f"step_{step:06d}" / "weights.safetensors")
    there = load_file(run / "export" / "diffusers" / "diffusion_pytorch_model.safetensors")
    assert kept.keys() == there.keys()
    assert all(torch.equal(kept[name], there[name]) for name in kept)
    # the single file has other names for the same tensors
    sums = [
        sorted(float(tensor.double().sum()) for tensor in tensors.values())
        for tensors in (kept, load_file(run / "export" / "vae.safetensors"))
    ]
    assert sums[0] == sums[1]


def test_what_general_photos_lose_too_much_at_is_not_exported(ended):
    run, said = ended
    assert steps(run) == [1, 2, 3, 4] and "training ends early, at step 4: " in said
    assert best_checkpoint(run / "checkpoints").name == "step_000001"  # held-out photos prefer 2
    assert_exported(run, 1)
    guard, lost = report(run)["guard"], dict(state(run)["general_lost"])
    assert list(lost) == [1, 2, 3, 4] and lost[1] < 0 and min(lost[2], lost[3], lost[4]) > 0.05
    assert guard == pytest.approx(
        {"allowed": 0.05, "lost": lost[4], "step": 4, "kept": False, "exported": 1,
         "exported_lost": lost[1]}
    )  # fmt: skip
    words = (
        f"general photos lost {lost[4]:.2f} dB at step 4, more than the 0.05 allowed: exported is "
        f"step 1 ({-lost[1]:+.2f} dB), the best that keeps to it"
    )
    assert guard_words(guard) == words and f"guard    {words}" in said
    assert words in (run / "README.md").read_text()
    assert words.split("(")[0] in (run / "report.html").read_text()
    assert f"general photos lost {lost[2]:.2f} dB at step 2, more than the 0.05 allowed" in said
    assert "best     the held-out loss" not in said


def test_figures_sheet_and_card_are_those_of_the_exported_step(ended):
    run, _ = ended
    found = report(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tuned = {line["step"]: line["eval"]["tuned"] for line in lines if "eval" in line}
    for group in ("val", "general"):
        figures = found["models"]["tuned"][group]["all"]
        for name in ("psnr", "ssim", "sharpness"):
            assert figures[name] == pytest.approx(tuned[1][group]["all"][name])
    assert (found["run"]["steps"], found["run"]["images"]) == (1, 2)
    assert "- Steps: 1, 2 crops seen" in (run / "README.md").read_text()
    sheets = [(run / "samples" / f"step_{step:06d}.png").read_bytes() for step in (1, 4)]
    assert sheets[0] != sheets[1]


def test_a_run_that_keeps_to_it_exports_its_end_and_says_so(guarded, tmp_path, capsys):
    run = tmp_path / "run"
    assert guarded(run, *STEPS, "--eval-every", 6, "--no-worse", 0.05) == 0
    said = capsys.readouterr().out
    assert_exported(run, 12)
    guard = report(run)["guard"]
    assert guard["kept"] and guard["step"] == guard["exported"] == 12
    assert guard["lost"] == guard["exported_lost"] < 0
    words = f"general photos gained {-guard['lost']:.2f} dB at step 12, within the 0.05 dB allowed"
    assert (
        f"guard    {words}: exported is that step" in said
        and words in (run / "README.md").read_text()
    )
    assert "guard       general photos may lose 0.05 dB" in said


def test_a_loss_that_shrinks_is_waited_for(guarded, tmp_path, capsys):
    run = tmp_path / "run"
    assert guarded(run, *FORGETS, "--eval-every", 3, "--no-worse", 0.05) == 0
    lost = [lost for _, lost in state(run)["general_lost"]]
    assert lost[0] > lost[1] > lost[2] > 0.05 > lost[3]  # three in a row, and healed at the end
    assert "training ends early, at" not in capsys.readouterr().out
    assert_exported(run, 12)


def test_where_no_step_keeps_to_it_nothing_is_exported(guarded, tmp_path, capsys):
    run = tmp_path / "run"
    assert guarded(run, *FORGETS, "--eval-every", 2, "--no-worse", 0.05) == 3
    said = capsys.readouterr()
    assert "at step 6, more than the 0.05 allowed, and no measured step keeps to it: " in said.err
    assert "nothing is exported; the checkpoints and the report stay." in said.err
    assert steps(run) == [6] and best_checkpoint(run / "checkpoints") is None
    assert not (run / "export").exists() and not (run / "README.md").exists()
    assert report(run)["guard"]["exported"] is None and "export" not in report(run)
    assert "Nothing exported" in (run / "report.html").read_text()


def test_what_an_earlier_end_exported_is_not_replaced(guarded, tmp_path, capsys):
    run = tmp_path / "run"
    assert guarded(run, *FORGETS, "--eval-every", 6) == 0
    before, card = exported(run), (run / "README.md").read_bytes()
    assert guarded(run, *FORGETS, "--eval-every", 6, "--no-worse", 0, "--resume") == 3
    assert "export/ is left as an earlier end of this run wrote it" in capsys.readouterr().err
    assert exported(run) == before and (run / "README.md").read_bytes() == card
    assert best_checkpoint(run / "checkpoints") is None  # its mark went with the new allowance


@pytest.mark.parametrize("last", [3, 4])
def test_a_resumed_run_comes_to_the_same_verdict(guarded, ended, tmp_path, last):
    whole, pieces = ended[0], shutil.copytree(ended[0], tmp_path / "pieces")
    cut_back(pieces, last)
    assert guarded(pieces, *GUARDED, "--resume") == 0
    assert steps(pieces) == steps(whole)
    assert report(pieces)["guard"] == report(whole)["guard"]
    assert state(pieces)["general_lost"] == state(whole)["general_lost"]
    assert exported(pieces) == exported(whole)


def test_a_kill_before_the_mark_costs_no_best_step(guarded, ended, tmp_path):
    run = shutil.copytree(ended[0], tmp_path / "run")
    cut_back(run, 1)
    (run / "checkpoints" / "best").unlink()
    assert guarded(run, *GUARDED, "--keep-checkpoints", 1, "--resume") == 0
    assert steps(run) == [1, 4]
    assert_exported(run, 1)


def test_a_damaged_best_step_is_not_exported(guarded, ended, tmp_path, capsys):
    run = shutil.copytree(ended[0], tmp_path / "run")
    weights = run / "checkpoints" / "step_000001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert guarded(run, *GUARDED, "--resume") == 1
    assert "step 1 is the best that keeps to --no-worse, but its" in capsys.readouterr().err
    assert exported(run) == exported(ended[0])


def test_what_reads_back_as_worse_than_noted_is_not_exported(guarded, ended, tmp_path):
    run = shutil.copytree(ended[0], tmp_path / "run")
    shutil.rmtree(run / "export")
    folders = {step: run / "checkpoints" / f"step_{step:06d}" for step in (1, 4)}
    shutil.copy(folders[4] / "weights.safetensors", folders[1])
    write_manifest_of(folders[1], "weights.safetensors")
    assert guarded(run, *GUARDED, "--resume") == 3
    assert not (run / "export").exists() and report(run)["guard"]["exported"] is None


def test_a_checkpoint_from_before_the_guard_is_taken_up(guarded, tmp_path, capsys):
    run = tmp_path / "run"
    assert guarded(run, *STEPS, "--max-steps", 2) == 0
    folder = run / "checkpoints" / "step_000002"
    kept = json.loads((folder / "state.json").read_text())
    del kept["run"]["general_lost"]
    write_json(folder / "state.json", kept)
    write_manifest_of(folder, "state.json")
    assert guarded(run, *STEPS, "--max-steps", 20, "--no-worse", 0.05, "--resume") == 0
    said = capsys.readouterr().out
    assert "judged only at the end, as --eval-every is 0" in said and "give --eval-every 1," in said
    assert [step for step, _ in state(run)["general_lost"]] == [20]


def test_the_guard_needs_photos_to_guard(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--no-worse", 0.05) == 2
    expected = "Expected --general-val-data together with --no-worse 0.05, but it is not given"
    assert expected in capsys.readouterr().err


def test_general_photos_without_a_figure_are_refused(guarded, tmp_path, dull, capsys, monkeypatch):
    photos, real = shutil.copytree(dull, tmp_path / "photos"), session.judge_base

    def after_they_vanished(run, meter):
        shutil.rmtree(photos)
        return real(run, meter)

    monkeypatch.setattr(session, "judge_base", after_they_vanished)
    run = tmp_path / "run"
    assert guarded(run, "--general-val-data", photos, "--no-worse", 0.05) == 1
    said = capsys.readouterr().err
    assert "Expected general photos that can be measured for --no-worse, but of 6 the" in said


def scores(*values: float | None) -> list[PhotoScore]:
    return [PhotoScore(str(i), str(i), psnr=value) for i, value in enumerate(values)]


def test_what_was_lost_is_over_the_same_photos_and_never_hides_nan():
    assert decibels_lost(scores(20, 30), scores(19.5, 29.9)) == pytest.approx(0.3)
    gone = [*scores(21), dataclasses.replace(scores(0, 0)[1], psnr=None, skipped="gone")]
    assert decibels_lost(scores(20, 30), gone) == pytest.approx(-1)
    assert decibels_lost(scores(20, 30), scores(25, float("nan"))) is None
    assert decibels_lost(scores(), scores()) is None


def test_words_tell_a_loss_from_what_is_allowed_and_say_what_is_no_number():
    guard = {"allowed": 0.05, "step": 9, "kept": False, "exported": 3, "exported_lost": 0.002}
    close = guard_words(guard | {"lost": 0.0503})
    assert "lost 0.0503 dB at step 9, more than the 0.05 allowed" in close
    assert "exported is step 3 (+0.00 dB)" in close
    no_number = guard_words(guard | {"lost": None, "exported": None})
    assert no_number == (
        "general photos gave no number at step 9, which is not within the 0.05 allowed, and no "
        "measured step keeps to it: nothing is exported"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_two_processes_agree_on_the_verdict(guarded, tiny_base, photo_folder, dull, tmp_path):
    for every, codes in ((1, 0), (2, 3)):
        flags = (*FORGETS, "--eval-every", every, "--no-worse", 0.05)
        run = tmp_path / f"two{every}"
        general = ("--general-val-data", dull, "--batch-size", 1)
        command = options(tiny_base, photo_folder, run, *flags, *general)
        ends = run_two(command, "nothing", tmp_path / "kept")
        assert [end.code for end in ends] == [codes, codes], ends
        assert guarded(tmp_path / f"one{every}", *flags) == codes
        assert steps(run) == steps(tmp_path / f"one{every}")
        two, one = (report(tmp_path / f"{name}{every}")["guard"] for name in ("two", "one"))
        assert two == pytest.approx(one, abs=1e-3)
        if not codes:
            assert_exported(run, 1)
