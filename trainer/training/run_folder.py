"""The run folder: claimed by one process at a time, never written over."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from trainer.errors import UserError
from trainer.photos.face_search import INDEX_NAME
from trainer.training.checkpoints import sweep
from vae_core.files import write_text

CONFIG, METRICS, LOCK = "config.toml", "metrics.jsonl", ".lock"


class RunFolder:
    """Where everything of a run lies; see "What comes out" in README.md."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.metrics = path / METRICS
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.export = path / "export"

    def holds_run(self) -> bool:
        """Tell whether a run was begun here."""
        return self.config.exists()

    @contextmanager
    def claimed(self, resume: bool) -> Iterator[None]:
        """Hold the folder for this process, or refuse: in use, used before, or something else's."""
        self.path.mkdir(parents=True, exist_ok=True)
        complaint = (
            f"another process is training into {self.path}: wait for it, stop it, or give another "
            "--output"
        )
        with exclusive(self.path / LOCK, complaint):
            self._refuse_what_is_not_ours(resume)
            self.checkpoints.mkdir(exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            for folder in (self.path, self.checkpoints, self.samples):
                sweep(folder)
            yield

    def _refuse_what_is_not_ours(self, resume: bool) -> None:
        if self.holds_run() and not resume:
            raise UserError(
                f"{self.path} already holds a run, which is not written over: "
                "go on with it by --resume, or give another --output"
            )
        there = {entry.name for entry in self.path.iterdir() if entry.name[0] != "."}
        strangers = sorted(there - {"checkpoints", "samples", INDEX_NAME})
        if not self.holds_run() and strangers:
            raise UserError(
                f"{self.path} is not empty (it holds {strangers[0]}) and is not a run: "
                "give --output a new or an empty folder"
            )

    def restore(self, config: str) -> None:
        """Make the folder again if it vanished under a running training."""
        if not self.config.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            write_text(self.config, config)


@contextmanager
def exclusive(path: Path, complaint: str) -> Iterator[None]:
    """Lock a file for a `with` block; the system frees it however this process ends.

    Raises UserError with `complaint` where another process holds it.
    """
    with path.open("ab") as handle:
        try:
            _lock(handle)
        except OSError as error:
            raise UserError(complaint) from error
        yield


def _lock(handle: BinaryIO) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
