"""Whether the disk has room for what a run will write, asked before the first step."""

import shutil
from pathlib import Path

from torch import nn

from trainer.errors import UserError
from trainer.options.config import TrainConfig
from trainer.training.memory import FLOAT32, discriminator_bytes, optimizer_bytes

WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2}  # bytes per weight
EXPORTS = 2  # the single file and the diffusers folder
ADAPTER = ".lora_"


def checkpoint_bytes(config: TrainConfig, vae: nn.Module) -> int:
    """Size one checkpoint: the whole VAE, the trained weights, their average, the optimizer,
    and the discriminator with its own.

    `vae` is the model as it trains; whether its tensors hold data makes no difference.
    """
    trained = sum(weight.numel() for weight in vae.parameters() if weight.requires_grad)
    optimizer = optimizer_bytes(config, vae) + discriminator_bytes(config, vae, 3)
    return FLOAT32 * (_exported(vae) + 2 * trained) + optimizer


def _exported(vae: nn.Module) -> int:
    """Count the weights of the exported model; adapters are merged into them."""
    return sum(value.numel() for name, value in vae.state_dict().items() if ADAPTER not in name)


def checkpoints_at_once(config: TrainConfig) -> int:
    """Count the checkpoints that may lie there together: the newest, the best, and one begun."""
    written = config.max_steps // config.checkpoint_every if config.checkpoint_every else 0
    return min(config.keep_checkpoints + 2, written + 2)


def disk_needed(config: TrainConfig, vae: nn.Module) -> int:
    """Add up the bytes of the checkpoints that lie there together and of the export."""
    export = EXPORTS * WIDTHS[config.export_dtype] * _exported(vae)
    return checkpoints_at_once(config) * checkpoint_bytes(config, vae) + export


def disk_free(folder: Path) -> int:
    """Return the bytes that a run may still write under a folder, which need not be there yet.

    What an earlier part of the same run wrote there counts as free: the run needs it no more.
    """
    written = sum(path.stat().st_size for path in folder.glob("checkpoints/*/*") if path.is_file())
    return shutil.disk_usage(_nearest(folder)).free + written


def on_one_disk(one: Path, other: Path) -> bool:
    """Tell whether two folders, which need not be there yet, take their room from one disk."""
    return _nearest(one).stat().st_dev == _nearest(other).stat().st_dev


def _nearest(folder: Path) -> Path:
    place = folder.absolute()
    return next(path for path in (place, *place.parents) if path.exists())


def check_disk(config: TrainConfig, vae: nn.Module, folder: Path) -> None:
    """Raise UserError, with the figures, where the checkpoints and the export do not fit."""
    needed, free = disk_needed(config, vae), disk_free(folder)
    if needed > free:
        raise UserError(
            f"Expected {size(needed)} of free disk at {folder} for {checkpoints_at_once(config)} "
            f"checkpoints of {size(checkpoint_bytes(config, vae))} and the export, but there is "
            f"{size(free)}: free some, give --output on another disk, or lower "
            "--keep-checkpoints."
        )


def size(count: int) -> str:
    """Write a number of bytes as people read it: 1.5 GiB, 320 MiB."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.0f} MiB" if count >= 10 * 2**20 else f"{count / 2**20:.1f} MiB"
