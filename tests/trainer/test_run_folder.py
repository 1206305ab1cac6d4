"""A run folder belongs to one run and one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]

HOLDING = """
import sys, time
from pathlib import Path
from trainer.training.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).claimed(False):
    print("held", flush=True)
    time.sleep(60)
"""


def claim(path: Path, resume: bool = False) -> None:
    with RunFolder(path).claimed(resume):
        pass


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        before = sorted((tmp_path / "run").iterdir())
        with pytest.raises(UserError, match="another process is training into"):
            claim(tmp_path / "run")
        assert sorted((tmp_path / "run").iterdir()) == before
        os.kill(first.pid, signal.SIGKILL)
    claim(tmp_path / "run")


def test_a_run_is_not_written_over(tmp_path):
    claim(tmp_path)
    (tmp_path / "config.toml").write_text("x")
    with pytest.raises(UserError, match="already holds a run.*--resume"):
        claim(tmp_path)
    claim(tmp_path, resume=True)


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "samples").mkdir()  # a folder of ours is no stranger
    (tmp_path / "thesis.docx").write_text("x")
    with pytest.raises(UserError, match=r"not empty \(it holds thesis.docx\)"):
        claim(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_leftovers_of_a_kill_are_swept(tmp_path):
    claim(tmp_path)
    (tmp_path / ".tmp-config.toml-99").write_text("half")
    (tmp_path / "checkpoints" / ".tmp-step_000007").mkdir()
    (tmp_path / "samples" / ".tmp-step_000007.png-99").write_text("half")
    claim(tmp_path)
    assert [path.name for path in tmp_path.rglob(".*")] == [".lock"]
