"""Runs in processes of their own that can be killed: forked from one that has imported everything.

So a run takes a second instead of ten. That process computes nothing, as a device cannot be used
on both sides of a fork; and nothing here works on Windows, which cannot fork.
"""

import errno
import itertools
import multiprocessing
import os
import socket
import stat
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.trainer.runs import call_entry
from trainer.judge import evaluation
from trainer.photos import latent_cache
from trainer.photos.photo_set import PhotoSet
from trainer.photos.skips import SkippedPhoto
from trainer.training import session
from trainer.training.losses import TrainStep
from trainer.training.meter import Meter
from trainer.training.metrics_log import MetricsLog
from trainer.training.run import Run

KILLED = 137
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def begin(said: Path, work: Callable[..., int], *arguments: object) -> BaseProcess:
    """Start `work` in a process that prints into the file `said` and exits with what it returns."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    process = forks.Process(target=_child, args=(said, work, arguments))
    process.start()
    return process


def _child(said: Path, work: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    with said.open("ab") as handle:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(handle.fileno(), stream.fileno())
    torch.set_num_threads(1)
    sys.exit(work(*arguments))


def in_small_shards(size: int, work: Callable[..., int], *arguments: object) -> int:
    """Do some work with shards of a latent cache that hold `size` bytes at most."""
    latent_cache.SHARD_BYTES = size
    return work(*arguments)


# Faults at the Nth file operation


def die(handle: int | None = None) -> None:
    """End as a kill does: nothing is flushed, nothing cleaned up."""
    os._exit(KILLED)


def lose(handle: int) -> None:
    """End as a power cut does: half of what was written and not yet synced is lost."""
    os.ftruncate(handle, os.fstat(handle).st_size // 2)
    os._exit(KILLED)


def fail(handle: int | None = None) -> None:
    """Let the file operation fail as on a broken drive."""
    raise OSError(errno.EIO, os.strerror(errno.EIO), "the file of the test")


def run_with_fault(
    argv: list[str], folder: Path, nth: int, strike: Callable[[int | None], None], tally: Path
) -> int:
    """Call the entry and strike before its nth change to files in `folder`, counted from 0.

    Changes are opening for writing, fsync, renaming, removing and making folders; for `lose` only
    fsync of a file. `tally` gets their number if the run comes to its end; at an nth of -1 nothing
    strikes.
    """
    number, real_fsync = itertools.count(), os.fsync

    def on_event(event: str, arguments: tuple) -> None:
        if strike is not lose and _is_change(event, arguments, str(folder)):
            count()

    def fsync(handle: int) -> None:
        if strike is not lose or stat.S_ISREG(os.fstat(handle).st_mode):
            count(handle)
        real_fsync(handle)

    def count(handle: int | None = None) -> None:
        if next(number) == nth:
            strike(handle)

    sys.addaudithook(on_event)
    os.fsync = fsync
    code = call_entry(argv)
    tally.write_text(str(next(number)))
    return code


def _is_change(event: str, arguments: tuple, folder: str) -> bool:
    if event == "open":
        path, _, flags = arguments
        return bool(flags & WRITES) and str(path).startswith(folder)
    if event in CHANGES:
        by_handle = arguments[-1] != -1  # a name within an open folder: how trees are removed
        return by_handle or str(arguments[0]).startswith(folder)
    return False


# Several processes


def free_port() -> int:
    """Find a port for processes to meet at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_rank(argv: list[str], rank: int, world: int, port: int, prepare: str, kept: Path) -> int:
    """Call the entry as one of `world` processes on the CPU, after one of PREPARATIONS."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    PREPARATIONS[prepare](rank, kept)
    return call_entry(argv)


def _keep_weights(rank: int, kept: Path) -> None:
    """Save what each process holds when the training is over; see that it exchanges in place."""
    real = session.finish

    def finish(run: Run, meter: Meter) -> None:
        assert run.step_module.gradient_as_bucket_view
        assert not run.step_module.find_unused_parameters
        weights = {n: p.detach() for n, p in run.trained().items()}
        if run.adversary:
            judge = run.adversary.tensors() | {"scale": run.adversary.scale}
            weights |= {f"discriminator.{n}": p for n, p in judge.items()}
        torch.save(weights, kept / f"rank{rank}.pt")
        real(run, meter)

    session.finish = finish


def _break(
    where: type | ModuleType, name: str, error: Exception, on_rank: int, after: int
) -> Callable:
    """Let a method or function raise on one process, after so many calls there that go well."""

    def prepare(rank: int, kept: Path) -> None:
        real, calls = getattr(where, name), itertools.count(1)

        def breaking(*args, **kwargs):
            if next(calls) > after:
                raise error
            return real(*args, **kwargs)

        if rank == on_rank:
            setattr(where, name, breaking)

    return prepare


def _break_backward(rank: int, kept: Path) -> None:
    """Let the gradient fail on the second process, in the midst of its exchange."""
    real, calls = TrainStep.forward, itertools.count(1)

    def explode(gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("none left")

    def forward(self, pixels, noise, *more):
        terms = real(self, pixels, noise, *more)
        if next(calls) == 3:
            terms["loss"].register_hook(explode)
        return terms

    if rank == 1:
        TrainStep.forward = forward


PREPARATIONS: dict[str, Callable[[int, Path], None]] = {
    "keep weights": _keep_weights,
    "photos": _break(PhotoSet, "read", SkippedPhoto("unreadable", "gone"), 1, 7),
    "reader": _break(PhotoSet, "read", RuntimeError("a bug in the reader"), 1, 7),
    "forward": _break(TrainStep, "forward", torch.OutOfMemoryError("none left"), 1, 2),
    "backward": _break_backward,
    "evaluation": _break(evaluation, "reconstruct", OSError(errno.EIO, "Input/output error"), 1, 1),
    "log": _break(MetricsLog, "append", OSError(errno.EIO, "Input/output error", "the log"), 0, 3),
    "nothing": lambda rank, kept: None,
}
