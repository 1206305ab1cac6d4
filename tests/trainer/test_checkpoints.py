"""Checkpoints are complete or absent, and damage is seen (crash, fault and rotation tests)."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.training import checkpoints
from trainer.training.checkpoints import (
    FILES,
    all_checkpoints,
    best_checkpoint,
    fault,
    mark_best,
    newest_complete,
    require_complete,
    save_checkpoint,
    sweep,
    thin_out,
)
from vae_core.files import write_text

ROOT = Path(__file__).resolve().parents[2]


def writers(text: str = "content"):
    return {
        name: lambda path, name=name: write_text(path, f"{name} {text}" * 500) for name in FILES
    }


def test_a_saved_checkpoint_is_whole_and_found(tmp_path):
    folder = save_checkpoint(tmp_path, 5, writers())
    assert folder.name == "step_000005" and fault(folder) is None
    assert newest_complete(tmp_path) == (folder, [])
    assert json.loads((folder / "manifest.json").read_text())["step"] == 5


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["empty", "half", "flip", "zero page", "remove"])
def test_damage_is_seen_and_the_one_before_is_taken(tmp_path, name, damage):
    older = save_checkpoint(tmp_path, 1, writers("older"))
    path = save_checkpoint(tmp_path, 2, writers()) / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 64
    if damage == "zero page":
        data[: len(data) // 2] = bytes(len(data) // 2)
    keep = {"empty": 0, "half": len(data) // 2}.get(damage, len(data))
    path.unlink() if damage == "remove" else path.write_bytes(data[:keep])
    found, said = newest_complete(tmp_path)
    if name == "manifest.json" and damage == "flip" and fault(path.parent) is None:
        pytest.skip("the flipped byte fell on white space")
    assert found == older
    assert len(said) == 1 and said[0].startswith("step_000002 is not used: ")


def test_only_damaged_ones_are_an_error_not_a_fresh_start(tmp_path):
    (save_checkpoint(tmp_path, 2, writers()) / "state.json").unlink()
    with pytest.raises(UserError, match="no checkpoint .* is whole .*state.json is missing"):
        require_complete(tmp_path)
    assert require_complete(tmp_path / "nothing here") == (None, [])


WRITERS = """
from trainer.training.checkpoints import FILES
from vae_core.files import write_text

def writers(text):
    return {name: lambda path, name=name: write_text(path, (name + text) * 500) for name in FILES}
"""

CRASHING = """
import os, sys
from pathlib import Path
import vae_core.files as files, trainer.training.checkpoints as checkpoints, shutil, builtins
from tests_writers import writers

left = int(sys.argv[2])
def counted(real):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os._exit(137)
        left -= 1
        return real(*args, **kwargs)
    return call

real_open = builtins.open
def opening(file, mode="r", *args, **kwargs):
    opened = counted(real_open) if "w" in mode else real_open
    return opened(file, mode, *args, **kwargs)
builtins.open = opening
os.fsync, os.replace, os.rename = counted(os.fsync), counted(os.replace), counted(os.rename)
os.unlink, os.rmdir = counted(os.unlink), counted(os.rmdir)
root = Path(sys.argv[1])
checkpoints.sweep(root)
checkpoints.save_checkpoint(root, 2, writers("second"))
checkpoints.mark_best(root, 2)
checkpoints.save_checkpoint(root, 2, writers("second again"))
checkpoints.thin_out(root, 1)
"""


def test_a_crash_at_any_file_operation_leaves_whole_checkpoints(tmp_path):
    (tmp_path / "tests_writers.py").write_text(WRITERS)
    driver = FORKING.replace("CRASHING", repr(CRASHING))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", driver, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    assert codes[-1] == 0 and set(codes[:-1]) == {137 << 8} and len(codes) > 30


# Forks a child for each N, so that torch is imported once; the parent computes nothing.
FORKING = """
import json, os, sys
from pathlib import Path
import trainer.training.checkpoints as checkpoints
from tests_writers import writers

codes = []
while not codes or codes[-1] != 0:
    root = Path(sys.argv[1]) / f"run{len(codes)}"
    root.mkdir()
    checkpoints.save_checkpoint(root, 1, writers("first"))
    child = os.fork()
    if child == 0:
        sys.argv = ["x", str(root), str(len(codes))]
        exec(compile(CRASHING, "crashing", "exec"), {"__name__": "__main__"})
        os._exit(0)
    codes.append(os.waitpid(child, 0)[1])
    found, said = checkpoints.newest_complete(root)
    assert found is not None and not said, (len(codes), said)
    assert all(checkpoints.fault(f) is None for f in checkpoints.all_checkpoints(root)), len(codes)
    checkpoints.sweep(root)
    assert not [p.name for p in root.iterdir() if p.name.startswith(".")], len(codes)
print(json.dumps(codes))
"""


def test_a_failed_write_leaves_nothing_half_and_keeps_the_old(tmp_path):
    old = save_checkpoint(tmp_path, 1, writers("old"))

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, writers() | {"optimizer.pt": full})
    assert [path.name for path in tmp_path.iterdir()] == [old.name] and fault(old) is None


def test_rotation_goes_by_step_and_spares_the_best(tmp_path):
    for step in (1, 2, 3, 10):
        folder = save_checkpoint(tmp_path, step, writers())
        os.utime(folder, (0, 0) if step == 10 else (4e9, 4e9))
    mark_best(tmp_path, 1)
    thin_out(tmp_path, 2)
    assert [path.name for path in all_checkpoints(tmp_path)] == [
        "step_000001", "step_000003", "step_000010",
    ]  # fmt: skip
    assert best_checkpoint(tmp_path).name == "step_000001"


def test_one_that_cannot_be_removed_stays_until_the_next_time(tmp_path, monkeypatch):
    folders = [save_checkpoint(tmp_path, step, writers()) for step in (1, 2, 3)]
    rename = checkpoints.rename_folder

    def busy(source, target):
        if source == folders[0]:
            raise PermissionError(errno.EACCES, "in use", str(source))
        rename(source, target)

    monkeypatch.setattr(checkpoints, "rename_folder", busy)
    thin_out(tmp_path, 1)
    assert all_checkpoints(tmp_path) == [folders[0], folders[2]] and fault(folders[0]) is None
    monkeypatch.undo()
    thin_out(tmp_path, 1)
    assert all_checkpoints(tmp_path) == [folders[2]]


def test_best_may_name_nothing_and_leads_nowhere_else(tmp_path):
    assert best_checkpoint(tmp_path) is None
    write_text(tmp_path / "best", "../../etc\n")
    assert best_checkpoint(tmp_path) is None


def test_sweep_removes_what_a_kill_left(tmp_path):
    (tmp_path / ".tmp-step_000004").mkdir()
    (tmp_path / ".old-step_000003").mkdir()
    (tmp_path / ".tmp-best-77").write_text("x")
    kept = save_checkpoint(tmp_path, 1, writers())
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
