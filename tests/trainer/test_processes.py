"""The entry as people start it: launchers, several processes, signals, kills. Real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trainer.runs import losses, options
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
ALWAYS = "accelerate launch from another folder"  # the one start that is not left to the slow tier


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(command: list, cwd: Path | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


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


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=() if how == ALWAYS else pytest.mark.slow) for how in STARTS]
)
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
def test_a_signal_that_finds_the_workers_too_loses_no_step(tiny_base, photo_folder, tmp_path):
    """As `pkill -f finetune_decoder` sends it: to each process of that name, workers first."""
    flags = ("--max-steps", 3000, "--workers", 1)
    command = [sys.executable, ENTRY, *options(tiny_base, photo_folder, tmp_path / "run", *flags)]
    process = start(command)
    wait_for_step(tmp_path / "run", 3, process)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    children = [int(word) for word in found.stdout.split()]
    assert children
    for pid in [*children, process.pid]:
        os.kill(pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in err, err
    (saved,) = all_checkpoints(tmp_path / "run" / "checkpoints")
    assert fault(saved) is None
    assert len(losses(tmp_path / "run")) == int(saved.name.removeprefix("step_"))


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
def test_a_run_of_two_goes_on_alone(train, tiny_base, photo_folder, tmp_path):
    two = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2", ENTRY]
    flags = ("--lr-schedule", "constant", "--max-steps", 3, "--batch-size", 2)
    process = start([*two, *options(tiny_base, photo_folder, tmp_path / "run", *flags)])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    more = ("--lr-schedule", "constant", "--max-steps", 6, "--batch-size", 4)
    alone = [sys.executable, ENTRY]
    process = start(
        [*alone, *options(tiny_base, photo_folder, tmp_path / "run", *more, "--resume")]
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "resumed from step_000003" in out, err
    assert train(tmp_path / "whole", *more) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
