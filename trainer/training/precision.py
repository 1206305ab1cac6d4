"""What `--mixed-precision auto` comes to on a machine: the fastest that keeps its range."""

from dataclasses import replace

import torch

from trainer.options.config import TrainConfig

AUTO = "auto"


def settle_precision(config: TrainConfig) -> TrainConfig:
    """Put the precision that suits this machine in the place of auto; config.toml then holds it."""
    if config.mixed_precision != AUTO:
        return config
    return replace(config, mixed_precision=suitable_precision())


def suitable_precision() -> str:
    """Return bf16 where the hardware computes in it, fp16 on older CUDA GPUs, else no.

    A processor that only emulates bf16 takes many times longer in it than in float32.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if torch.accelerator.is_available():  # MPS and the like: not tried
        return "no"
    computes = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if computes else "no"
