"""The widgets that choose whether a picture goes through a VAE whole or in exact tiles."""

from __future__ import annotations

from typing import NamedTuple

from comfy_api.latest import io

from .latent_dict import checked_number, chosen
from .schema import socket

AUTO, OFF, EXACT = "auto", "off", "exact"
MOST_MIB = 2**20
MIB = 2**20


class Tiling(NamedTuple):
    """What the widgets say; `budget` in bytes, None for what is free."""

    choice: str = AUTO
    budget: int | None = None


def tiling_sockets() -> list[io.Input]:
    """Describe the two widgets; they stand last, as workflows keep widgets by position."""
    return [
        socket(
            io.Combo,
            "tiling",
            options=[AUTO, OFF, EXACT],
            default=AUTO,
            optional=True,
            tooltip="auto: whole where that fits into memory, else in exact tiles: the same "
            "picture, without seams or a shift of colours. exact: always these. off: as ComfyUI's "
            "own node, with its own tiles when memory runs out.",
        ),
        socket(
            io.Int,
            "memory_budget",
            default=0,
            min=0,
            max=MOST_MIB,
            optional=True,
            advanced=True,
            tooltip="MiB that a pass may take beside the VAE's weights; 0 for what is free. Less "
            "memory takes more time; a budget that is too small is refused with the least one.",
        ),
    ]


def chosen_tiling(tiling: str, memory_budget: float) -> Tiling:
    """Read the widgets; ValueError where they say nothing usable."""
    mib = checked_number(memory_budget, "memory_budget", 0, MOST_MIB)
    return Tiling(chosen(tiling, "tiling", (AUTO, OFF, EXACT)), int(mib * MIB) or None)
