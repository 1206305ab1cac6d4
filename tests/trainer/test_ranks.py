"""Two processes are one run: the same weights, one end, whatever happens to one of them."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.children import begin, free_port, run_rank
from tests.trainer.runs import assert_whole, cut_back, exported, losses, options
from trainer.training.checkpoints import all_checkpoints
from trainer.training.metrics_log import MetricsLog

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork"),
]

SECONDS = 90  # in which both must have ended, on a busy machine


class Ended(NamedTuple):
    code: int
    said: str


def run_two(command: list[str], prepare: str, kept: Path) -> list[Ended]:
    """Run two processes to their ends, which must come soon and from themselves."""
    kept.mkdir(exist_ok=True)
    said, port = [kept / f"said{rank}" for rank in (0, 1)], free_port()
    ranks = [begin(said[rank], run_rank, command, rank, 2, port, prepare, kept) for rank in (0, 1)]
    until = time.monotonic() + SECONDS
    for process in ranks:
        process.join(max(0.0, until - time.monotonic()))
    late = [rank for rank, process in enumerate(ranks) if process.exitcode is None]
    for process in ranks:
        process.kill()
    assert not late, [path.read_text() for path in said]
    return [Ended(p.exitcode, path.read_text()) for p, path in zip(ranks, said, strict=True)]


# The bias of an attention's keys adds the same to all scores of a query, and softmax drops it: its
# gradient is rounding alone, of which Adam makes whole steps.
NO_GRADIENT = "to_k.bias"


def test_two_processes_are_one_with_the_joined_batch(train, tiny_base, photo_folder, tmp_path):
    flags = ("--max-steps", 20, "--checkpoint-every", 1, "--keep-checkpoints", 20)
    command = options(tiny_base, photo_folder, tmp_path / "two", *flags, "--batch-size", 2)
    ends = run_two(command, "keep weights", tmp_path / "kept")
    assert [end.code for end in ends] == [0, 0], ends
    a, b = (torch.load(tmp_path / f"kept/rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert_whole(tmp_path / "two")
    assert len(all_checkpoints(tmp_path / "two" / "checkpoints")) == 20
    assert train(tmp_path / "one", *flags, "--batch-size", 4) == 0
    # sums of gradients run in another order
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = (
        load_file(all_checkpoints(tmp_path / n / "checkpoints")[-1] / "training.safetensors")
        for n in ("one", "two")
    )
    apart = [name for name in one if not torch.allclose(one[name], two[name], atol=2e-5)]
    assert [name for name in apart if not name.endswith(NO_GRADIENT)] == []


def test_two_processes_share_one_discriminator(train, tiny_base, photo_folder, tmp_path):
    flags = ("--max-steps", 8, "--gan-weight", 0.5, "--gan-start", 2)
    flags += ("--fold-upsampling", "off")  # a discriminator's pull magnifies how its sums round
    command = options(tiny_base, photo_folder, tmp_path / "two", *flags, "--batch-size", 2)
    ends = run_two(command, "keep weights", tmp_path / "kept")
    assert [end.code for end in ends] == [0, 0], ends
    a, b = (torch.load(tmp_path / f"kept/rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert any(name.startswith("discriminator.") for name in a)
    assert train(tmp_path / "one", *flags, "--batch-size", 4) == 0
    for name in ("loss", "disc", "gan", "gan_scale"):
        one, two = (
            [line.get(name, 0.0) for line in MetricsLog(tmp_path / n / "metrics.jsonl").read()]
            for n in ("one", "two")
        )
        assert any(one) and two == pytest.approx(one, rel=1e-4, abs=1e-5), name


OF_RANK_1 = "process 1 stopped the run: "
FAULTS = {  # what breaks: what each of the two processes says in the end, and the step saved
    "photos": ([OF_RANK_1 + "Expected the photos to stay", "Expected the photos to stay"], 3),
    "reader": ([OF_RANK_1 + "RuntimeError: a bug in the reader", "Traceback"], None),
    "forward": ([OF_RANK_1 + "its device is out of memory", "the device is out of memory"], 2),
    "backward": (["another process of this run has ended", "the device is out of memory"], None),
    "log": (["the log: Input/output error", "process 0 stopped the run: the log"], 3),
    "evaluation": ([OF_RANK_1 + "a file: Input/output error", "a file: Input/output error"], 6),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_on_one_process_ends_both_in_a_sentence(
    fault, tiny_base, photo_folder, tmp_path
):
    words, saved = FAULTS[fault]
    run = tmp_path / "run"
    command = options(tiny_base, photo_folder, run, "--max-steps", 6)
    ends = run_two(command, fault, tmp_path / "kept")
    assert [end.code for end in ends] == [1, 1], ends
    for end, expected in zip(ends, words, strict=True):
        assert expected in end.said, ends
        assert ("Traceback" in end.said) == (expected == "Traceback"), ends
        assert not saved or f"stopped at step {saved}, saved; go on by" in end.said, ends
    assert_whole(run)
    names = [folder.name for folder in all_checkpoints(run / "checkpoints")]
    assert names == ([f"step_{saved:06d}"] if saved else [])


def test_two_processes_go_on_after_one_failed(tiny_base, photo_folder, tmp_path):
    failed, whole = (
        options(tiny_base, photo_folder, tmp_path / name, "--max-steps", 6)
        for name in ("failed", "whole")
    )
    run_two(failed, "photos", tmp_path / "kept")
    for command in ([*failed, "--resume"], whole):
        ends = run_two(command, "nothing", tmp_path / "kept")
        assert [end.code for end in ends] == [0, 0], ends
    assert losses(tmp_path / "failed") == losses(tmp_path / "whole")
    assert exported(tmp_path / "failed") == exported(tmp_path / "whole")


@pytest.mark.parametrize("shape", [(4, 1), (2, 2)], ids=["one batch", "accumulated"])
def test_one_process_goes_on_where_two_stopped(
    shape, train, tiny_base, photo_folder, tmp_path, capsys
):
    flags = ("--max-steps", 8, "--checkpoint-every", 1, "--keep-checkpoints", 20)
    batch, parts = shape
    alone = ("--batch-size", batch, "--gradient-accumulation-steps", parts)
    two = options(tiny_base, photo_folder, tmp_path / "two", *flags, "--batch-size", 2)
    ends = run_two(two, "nothing", tmp_path / "kept")
    assert [end.code for end in ends] == [0, 0], ends
    cut_back(tmp_path / "two", 3)
    assert train(tmp_path / "two", *flags, *alone, "--resume") == 0
    said = capsys.readouterr().out
    assert "resumed from step_000003" in said and "samples now" not in said
    assert train(tmp_path / "one", *flags, *alone) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_two_processes_go_on_where_one_stopped(train, tiny_base, photo_folder, tmp_path):
    flags = ("--max-steps", 6, "--checkpoint-every", 1, "--keep-checkpoints", 20)
    assert train(tmp_path / "run", *flags, "--batch-size", 4) == 0
    before = losses(tmp_path / "run")
    cut_back(tmp_path / "run", 3)
    more = options(tiny_base, photo_folder, tmp_path / "run", *flags, "--resume")
    ends = run_two(more, "nothing", tmp_path / "kept")
    assert [end.code for end in ends] == [0, 0], ends
    assert losses(tmp_path / "run") == pytest.approx(before, rel=1e-5)
