"""The weights of a training run, or of one of its checkpoints, for those who convert them."""

from pathlib import Path

from trainer.errors import UserError
from trainer.training.checkpoints import MANIFEST, best_checkpoint, fault, require_complete
from trainer.vae.base import Weights, read_found
from trainer.vae.locate import Found

_WEIGHTS = "weights.safetensors"


def is_run(path: Path) -> bool:
    """Tell whether a folder is a run or a checkpoint of one."""
    return (path / MANIFEST).is_file() or (path / "checkpoints").is_dir()


def read_run_weights(path: Path, family: str | None) -> Weights:
    """Read a checkpoint's averaged weights; of a run, those of its best, else its newest.

    Raises UserError if the checkpoint is damaged, or the run has none.
    """
    folder = path if (path / MANIFEST).is_file() else _chosen(path / "checkpoints")
    wrong = fault(folder)
    if wrong:
        raise UserError(
            f"the checkpoint {folder.name} can not be used: {wrong}; name another of the run's"
        )
    run = folder.resolve().parents[1].name
    return read_found(Found(run, folder.name, folder / _WEIGHTS, None), family)


def _chosen(root: Path) -> Path:
    folder = best_checkpoint(root) or require_complete(root)[0]
    if folder is None:
        raise UserError(f"the run {root.parent} has no checkpoint yet: let it train further")
    return folder
