"""A file or folder is old or new, whatever happens while it is written."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vae_core.files import (
    move_file,
    rename_folder,
    replace_file,
    sha256_file,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="modes, signals and limits of POSIX")

# Ends the process at the Nth opening for writing, sync, or rename, as a kill would.
CRASH = """
import builtins, os, sys
left = int(sys.argv[1])
def counted(call):
    def wrapper(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(137)
        return call(*args, **kwargs)
    return wrapper
plain_open = builtins.open
opened = counted(plain_open)
def chosen(file, mode="r", *args, **kwargs):
    return (opened if "w" in mode else plain_open)(file, mode, *args, **kwargs)
builtins.open = chosen
for name in ("fsync", "replace", "rename"):
    setattr(os, name, counted(getattr(os, name)))
"""


def run_python(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
    """Run code in a process of its own, with the project's root on the path."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(handle) -> None:
        handle.write(b"half of the new")
        raise OSError("the disk is on fire")

    with pytest.raises(OSError, match="on fire"):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("refusals", [2, 10_000])
def test_a_name_held_by_another_program_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    (tmp_path / "a").write_text("old")
    calls, replace = [], os.replace

    def held(*names: Path) -> None:
        calls.append(names)
        if len(calls) <= refusals:
            raise PermissionError(13, "WinError 5")
        replace(*names)

    monkeypatch.setattr(os, "replace", held)
    if refusals == 2:
        write_text(tmp_path / "a", "new")
        assert len(calls) == 3
    else:
        with pytest.raises(PermissionError):
            write_text(tmp_path / "a", "new")
        assert 3 < len(calls) < 100
    assert (tmp_path / "a").read_text() == ("new" if refusals == 2 else "old")
    assert os.listdir(tmp_path) == ["a"]


@posix
def test_killed_at_any_file_operation_the_file_is_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "a"
    code = CRASH + (
        "from pathlib import Path\nfrom vae_core.files import write_text\n"
        "write_text(Path(sys.argv[2]), 'new' * 1000)\n"
    )
    seen = []
    for stop in range(20):
        path.write_text("old")
        done = run_python(code, stop, path)
        assert path.read_text() in ("old", "new" * 1000)
        seen.append((done.returncode, path.read_text()[:3]))
        for name in leftovers(tmp_path):
            (tmp_path / name).unlink()
        if done.returncode == 0:
            break
    assert (137, "old") in seen
    assert (137, "new") in seen
    assert seen[-1] == (0, "new")


@posix
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "a"
    path.write_text("old")
    code = (
        "import sys\nfrom pathlib import Path\nfrom vae_core.files import write_text\n"
        "try:\n    write_text(Path(sys.argv[1]), 'x' * 100_000)\n"
        "except OSError as error:\n    sys.exit(error.errno)\n"
    )
    done = run_python(
        code,
        path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 27, done.stderr  # EFBIG
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_folders_are_renamed_onto_free_names_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    rename_folder(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError):
        rename_folder(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "x").read_text() == "x"


def test_a_finished_file_is_moved_over_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    move_file(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]
    assert (tmp_path / "b").read_text() == "new"


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("\u4e2d" * 85), "x")
    assert (tmp_path / ("\u4e2d" * 85)).read_text() == "x"


def test_json_is_strict_and_survives_odd_names(tmp_path: Path) -> None:
    value = {"name": "caf\u00e9 \udcff", "list": [1, None]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_bytes()
    assert json.loads(text) == value
    assert text.endswith(b"}\n")
    assert b"\r" not in text
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_bytes()) == value


def test_the_hash_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
