"""A run may die at any moment, and a drive may fail: what is there is whole, and the run goes on.

"Whole" is what `assert_whole` asks, and "goes on" means by --resume, to the same exported bytes.
"""

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.trainer.children import KILLED, begin, die, fail, lose, run_with_fault
from tests.trainer.runs import assert_whole, call_entry, exported, logged, options
from trainer.training.checkpoints import all_checkpoints

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork"),
]

SHORT = ("--max-steps", 3, "--checkpoint-every", 1, "--keep-checkpoints", 1, "--eval-every", 2)
LONG = ("--max-steps", 12, "--checkpoint-every", 1, "--eval-every", 5)
MOMENTS = 12  # file operations at which a run is struck, evenly over the whole run
KILLS = 20

Argv = Callable[..., list[str]]


@pytest.fixture
def argv(tiny_base: Path, photo_folder: Path) -> Argv:
    return lambda run, *flags: options(tiny_base, photo_folder, run, *flags)


class Whole(NamedTuple):
    """A run that nothing disturbed."""

    run: Path
    changes: int  # to its files
    seconds: float


def undisturbed(command: list[str], run: Path, strike: Callable = die) -> Whole:
    said, tally = run.with_suffix(".said"), run.with_suffix(".tally")
    began = time.monotonic()
    process = begin(said, run_with_fault, command, run, -1, strike, tally)
    process.join(120)
    assert process.exitcode == 0, said.read_text()
    assert_whole(run)
    return Whole(run, int(tally.read_text()), time.monotonic() - began)


def assert_goes_on(command: list[str], whole: Whole, run: Path, lost_lines: int = 0) -> None:
    said = run.with_suffix(".said")
    process = begin(said, call_entry, [*command, "--resume"])
    process.join(120)
    assert process.exitcode == 0, said.read_text()
    assert_whole(run)
    assert exported(run) == exported(whole.run)
    assert len(logged(run)) >= len(logged(whole.run)) - lost_lines
    assert logged(run).items() <= logged(whole.run).items()
    assert [path.name for path in run.rglob(".*")] == [".lock"]


@pytest.mark.parametrize(("strike", "codes"), [(die, {KILLED}), (lose, {KILLED}), (fail, {0, 1})])
def test_a_run_struck_at_any_file_operation_goes_on(argv, tmp_path, strike, codes):
    whole = undisturbed(argv(tmp_path / "whole", *SHORT), tmp_path / "whole", strike)
    assert whole.changes > 2 * MOMENTS
    for moment in range(MOMENTS):
        nth = (whole.changes - 1) * moment // (MOMENTS - 1)
        run = tmp_path / f"struck_at_{nth}"
        said, command = run.with_suffix(".said"), argv(run, *SHORT)
        process = begin(said, run_with_fault, command, run, nth, strike, tmp_path / "tally")
        process.join(120)
        # a failure while something needless is removed is no failure of the run
        assert process.exitcode in codes, (nth, said.read_text())
        assert process.exitcode != 1 or "finetune_decoder: " in said.read_text(), nth
        assert "Traceback" not in said.read_text(), nth
        assert_whole(run)
        # the line of a step that could not be written is not written later
        assert_goes_on(command, whole, run, lost_lines=strike is fail)


def test_kills_at_random_moments_cost_nothing_that_was_saved(argv, tmp_path):
    begin(tmp_path / "said", int).join()  # does nothing, once everything is imported
    whole = undisturbed(argv(tmp_path / "whole", *LONG), tmp_path / "whole")
    chance, kills, runs = random.Random(0), 0, 0
    struck = []  # how many checkpoints stood at each kill
    while kills < KILLS:
        run = tmp_path / f"run{runs}"
        process = begin(run.with_suffix(".said"), call_entry, [*argv(run, *LONG), "--resume"])
        process.join(chance.uniform(0, whole.seconds))
        if process.exitcode is None:
            process.kill()
            process.join()
            assert_whole(run)
            kills += 1
            struck.append(len(all_checkpoints(run / "checkpoints")))
        else:
            assert process.exitcode == 0, run.with_suffix(".said").read_text()
            assert exported(run) == exported(whole.run)
            runs += 1
    assert_goes_on(argv(run, *LONG), whole, run)
    assert sum(count > 0 for count in struck) >= KILLS // 4
