"""The entry as people start it: launchers, several processes, signals, kills. Real processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer.training.checkpoints import all_checkpoints, fault

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "trainer" / "finetune_decoder.py"
BIN = Path(sys.executable).parent

STARTS = {
    "python": ([sys.executable, ENTRY], None),
    "accelerate launch from another folder": ([BIN / "accelerate", "launch", ENTRY], "elsewhere"),
    "accelerate launch -m": (
        [BIN / "accelerate", "launch", "-m", "trainer.finetune_decoder"],
        ROOT,
    ),
    "torchrun": ([BIN / "torchrun", "--standalone", "--nproc_per_node", "1", ENTRY], None),
}


def options(base: Path, photos: Path, output: Path, *flags: object) -> list[str]:
    small = {
        "--vae": base, "--data": photos, "--output": output, "--resolution": 32,
        "--eval-resolution": 32, "--max-steps": 4, "--batch-size": 2, "--lpips-weight": 0,
        "--workers": 0, "--log-every": 1, "--eval-every": 0, "--sample-photos": 0,
        "--log-with": "none", "--learning-rate": 1e-3, "--warmup-steps": 0,
    }  # fmt: skip
    return [str(part) for pair in small.items() for part in pair] + [str(flag) for flag in flags]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(command: list, cwd: Path | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            if len(losses(run)) >= step:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("how", STARTS)
def test_the_entry_starts(how, tiny_base, photo_folder, tmp_path):
    command, cwd = STARTS[how]
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "elsewhere" if cwd == "elsewhere" else cwd
    process = start([*command, *options(tiny_base, photo_folder, tmp_path / "run")], folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(losses(tmp_path / "run")) == 4
    assert (tmp_path / "run" / "export" / "vae.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_are_one_with_the_joined_batch(train, tiny_base, photo_folder, tmp_path):
    two = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2", ENTRY]
    flags = ("--batch-size", 2, "--checkpoint-every", 1, "--keep-checkpoints", 9)
    process = start([*two, *options(tiny_base, photo_folder, tmp_path / "two", *flags)])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert train(tmp_path / "one", "--batch-size", 4) == 0
    # sums of gradients run in another order
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    a, b = (load_file(all_checkpoints(tmp_path / n / "checkpoints")[-1] / "training.safetensors")
            for n in ("one", "two"))  # fmt: skip
    assert all(torch.allclose(a[name], b[name], atol=2e-5) for name in a)


RANKS = """
import sys, torch
from trainer.training import session
from trainer.finetune_decoder import main
real = session.finish
def finish(run, meter):
    weights = {name: p.detach() for name, p in run.trained().items()}
    torch.save(weights, sys.argv[1] + f"/rank{run.accelerator.process_index}.pt")
    return real(run, meter)
session.finish = finish
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_both_processes_hold_the_same_weights(tiny_base, photo_folder, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + RANKS)
    two = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2", script, tmp_path]
    process = start([*two, *options(tiny_base, photo_folder, tmp_path / "run")])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    a, b = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    number, train, tiny_base, photo_folder, tmp_path
):
    flags = ("--max-steps", 3000, "--lr-schedule", "constant")
    command = [sys.executable, ENTRY, *options(tiny_base, photo_folder, tmp_path / "run", *flags)]
    process = start(command)
    wait_for_step(tmp_path / "run", 3, process)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "saved; go on by: accelerate launch" in out and "Traceback" not in err
    (saved,) = all_checkpoints(tmp_path / "run" / "checkpoints")
    assert fault(saved) is None
    step = int(saved.name.removeprefix("step_"))
    assert len(losses(tmp_path / "run")) == step
    more = ("--max-steps", step + 2, "--lr-schedule", "constant")
    assert train(tmp_path / "run", *more, "--resume") == 0
    assert train(tmp_path / "whole", *more) == 0
    # one thread there and two here: sums run in another order
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tiny_base, photo_folder, tmp_path):
    flags = ("--max-steps", 3000)
    process = start(
        [sys.executable, ENTRY, *options(tiny_base, photo_folder, tmp_path / "run", *flags)]
    )
    wait_for_step(tmp_path / "run", 2, process)
    os.kill(process.pid, signal.SIGSTOP)  # so that both signals wait when it goes on
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode in (130, 143)


@pytest.mark.slow
def test_a_dead_launcher_stops_the_trainer(tiny_base, photo_folder, tmp_path):
    flags = ("--max-steps", 3000)
    command = [BIN / "accelerate", "launch", ENTRY]
    process = start([*command, *options(tiny_base, photo_folder, tmp_path / "run", *flags)])
    wait_for_step(tmp_path / "run", 2, process)
    process.terminate()
    process.wait(timeout=30)
    until = time.monotonic() + 30
    while not all_checkpoints(tmp_path / "run" / "checkpoints") and time.monotonic() < until:
        time.sleep(0.1)
    (saved,) = all_checkpoints(tmp_path / "run" / "checkpoints")
    assert fault(saved) is None
    process.communicate(timeout=30)  # returns when nothing holds its output any more


@pytest.mark.slow
def test_a_signal_to_one_of_two_stops_both(tiny_base, photo_folder, tmp_path):
    flags = ("--max-steps", 3000)
    two = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2", ENTRY]
    process = start([*two, *options(tiny_base, photo_folder, tmp_path / "run", *flags)])
    wait_for_step(tmp_path / "run", 2, process)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    (saved,) = all_checkpoints(tmp_path / "run" / "checkpoints")
    assert fault(saved) is None


@pytest.mark.slow
def test_random_kills_never_cost_a_checkpoint(train, tiny_base, photo_folder, tmp_path):
    flags = ("--max-steps", 40, "--checkpoint-every", 1, "--lr-schedule", "constant")
    command = [sys.executable, ENTRY, *options(tiny_base, photo_folder, tmp_path / "run", *flags)]
    chance = random.Random(0)
    for _ in range(5):
        process = start([*command, "--resume"])
        run = tmp_path / "run"
        before = len(losses(run)) if (run / "metrics.jsonl").exists() else 0
        try:
            wait_for_step(run, before + 1, process)
        except AssertionError:
            break
        time.sleep(chance.random() * 0.4)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert [fault(f) for f in all_checkpoints(run / "checkpoints")].count(
            None
        ) >= 1 or before == 0
    process = start([*command, "--resume"])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert train(tmp_path / "whole", *flags) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
