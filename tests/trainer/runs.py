"""Whole small runs for the tests: the entry with small options, and what lies in a run folder."""

import json
import shutil
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from safetensors.torch import load_file

from trainer.finetune_decoder import main
from trainer.options.toml_file import from_toml
from trainer.photos.face_index import read_index
from trainer.training.checkpoints import all_checkpoints, fault, step_of
from trainer.training.metrics_log import MetricsLog


def options(base: Path, photos: Path, output: Path, *flags: object) -> list[str]:
    """Small defaults as a command line; flags given later replace them."""
    small = {
        "--vae": base, "--data": photos, "--output": output, "--resolution": 32,
        "--eval-resolution": 32, "--max-steps": 4, "--batch-size": 2, "--lpips-weight": 0,
        "--workers": 0, "--log-every": 1, "--eval-every": 0, "--sample-photos": 1,
        "--log-with": "none", "--learning-rate": 1e-3, "--warmup-steps": 0,
    }  # fmt: skip
    return [str(part) for pair in small.items() for part in pair] + [str(flag) for flag in flags]


def call_entry(argv: list[str]) -> int:
    """Call the entry as a process just started would, and return its exit code."""
    forget_processes()
    return main(argv)


def forget_processes() -> None:
    """Let accelerate look anew for its device and its processes, as when it is imported."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


# What lies in a run folder


def losses(run: Path) -> list[float]:
    """Every logged loss, in order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def logged(run: Path) -> dict[int, float]:
    """The loss of each logged step."""
    lines = MetricsLog(run / "metrics.jsonl").read()
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def cut_back(run: Path, step: int) -> None:
    """Leave a run as if it had been killed just after the checkpoint of `step`."""
    for folder in all_checkpoints(run / "checkpoints"):
        if step_of(folder) > step:
            shutil.rmtree(folder)
    shutil.rmtree(run / "export", ignore_errors=True)


def exported(run: Path) -> dict[str, bytes]:
    """Every exported file, by its path in there."""
    files = [path for path in (run / "export").rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def assert_whole(run: Path) -> None:
    """Whatever stands under a final name is complete; names with a dot do not count."""
    for folder in all_checkpoints(run / "checkpoints"):
        assert fault(folder) is None, folder
    for path in sorted(run.rglob("*")):
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(run).parts):
            OPENERS[path.suffix](path)
    if (run / "export").exists():
        assert len(exported(run)) == 3, list(exported(run))


def _check_page(path: Path) -> None:
    assert path.read_text("utf-8").rstrip().endswith("</html>"), path


def _check_text(path: Path) -> None:
    assert path.read_text("utf-8").endswith("\n"), path


def _check_picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


OPENERS = {
    ".safetensors": load_file,
    ".json": lambda path: json.loads(path.read_text("utf-8")),
    ".png": _check_picture,
    ".toml": from_toml,
    ".parquet": read_index,
    ".html": _check_page,
    ".csv": _check_text,
    ".md": _check_text,
    ".jsonl": lambda path: MetricsLog(path).read(),  # appended to: a torn last line is left out
    ".pt": lambda path: None,  # hashed with its checkpoint
    "": lambda path: None,  # `best`: a name, and none at all where there is no checkpoint
}
