"""The optimizer over float32 master weights."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from trainer.errors import UserError
from trainer.options.config import TrainConfig
from trainer.training.muon import Muon


def make_optimizer(
    config: TrainConfig, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Build AdamW (Loshchilov & Hutter, 2019), its 8-bit form (Dettmers et al., 2022), or Muon.

    AdamW is fused: one pass over weight, gradient and moments instead of one per operation. Not
    under fp16, where accelerate sees a skipped step by its not being called, which the fused form
    always is.
    """
    kind = torch.optim.AdamW
    if config.optimizer == "muon":
        kind = Muon
    elif config.optimizer == "adamw8bit":
        kind = _adamw_8bit()
    elif config.mixed_precision != "fp16":
        kind = partial(kind, fused=True)
    return kind(
        list(parameters),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
    )


def _adamw_8bit() -> type[torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "--optimizer adamw8bit needs the package bitsandbytes, which is not installed: "
            "`pip install bitsandbytes`, or use --optimizer adamw"
        ) from error
    return AdamW8bit


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
