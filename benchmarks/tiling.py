"""Exact tiles beside the untiled decode and ComfyUI's own tiles: time, memory, error and seams.

    python benchmarks/tiling.py --size 512 1024 --json tiling.json
    PYTHON_OF_COMFYUI benchmarks/tiling.py --comfyui COMFYUI --size 512 1024
    python benchmarks/tiling.py --curve 512 1024 2048 4096

The SD decoder with random weights, in float32. With `--comfyui`, in ComfyUI's environment, the
untiled pass is that of ComfyUI's own module, and its three passes of tiles stand beside. Times are
medians over rounds in which each way ran once; memory is counted, storage by storage, in the
first run of each way. `--curve` computes nothing: it prints what plans foretell.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn

from benchmarks.results import add_outputs, hand_over, paired, ratio
from trainer.training.live_bytes import LiveBytes
from vae_core import tiling
from vae_core.tiling import Network, Plan

ROOT = Path(__file__).resolve().parents[1]
UNTILED, CORE = "untiled", "core's tiles"
BUDGETS = {"exact": None, "exact, least memory": 0}
TILE, OVERLAP = 64, 16  # latent cells: what ComfyUI takes when memory ran out
WIDTHS = [128, 256, 512, 512]
MIB = 2**20
Way = Callable[[], Tensor]


def main() -> None:
    options = parse()
    if options.curve:
        rows = [curve_at(side, options.widths, options.layers) for side in options.curve]
    else:
        vae, core = comfy_module(options.comfyui) if options.comfyui else (diffusers_module(), None)
        rows = [row for side in options.size for row in compared(vae, core, side, options.rounds)]
    hand_over(rows, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="pixels a side")
    parser.add_argument("--rounds", type=int, default=3, help="0: time the first run alone")
    parser.add_argument("--comfyui", type=Path, help="ComfyUI's folder, the one with main.py")
    parser.add_argument("--curve", type=int, nargs="+", help="only foretell, for these sizes")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the curve's VAE")
    parser.add_argument("--layers", type=int, default=2, help="residual blocks a level, likewise")
    add_outputs(parser)
    return parser.parse_args()


# The network


def diffusers_module(
    device: str = "cpu", widths: Sequence[int] = WIDTHS, layers: int = 2
) -> nn.Module:
    """Build diffusers' AutoencoderKL, in SD's layout if nothing else is asked."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * len(widths)}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * len(widths)}
    with torch.device(device):
        vae = AutoencoderKL(block_out_channels=widths, layers_per_block=layers, **blocks)
    return drawn(vae)


def comfy_module(comfyui: Path) -> tuple[nn.Module, Callable[..., Tensor]]:
    """Build ComfyUI's AutoencoderKL in SD's layout, and give its function for tiles."""
    sys.path.insert(0, str(ROOT / "tests" / "comfyui"))
    from launch import import_on_cpu

    import_on_cpu(comfyui.resolve())
    import comfy.utils
    from comfy.ldm.models.autoencoder import AutoencoderKL

    shape = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3}
    shape |= {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": []}
    return drawn(AutoencoderKL(ddconfig=shape, embed_dim=4)), comfy.utils.tiled_scale


def drawn(vae: nn.Module) -> nn.Module:
    """Draw weights that keep values near 1; ComfyUI's layers leave their memory as it was."""
    generator = torch.Generator().manual_seed(0)
    for weight in vae.parameters():
        if weight.device.type == "meta":
            continue
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = noise / weight[0].numel() ** 0.5 if weight.ndim > 1 else 1 + noise / 5
    return vae.eval().requires_grad_(False)


# Ways of decoding


def compared(
    vae: nn.Module, core: Callable[..., Tensor] | None, side: int, rounds: int
) -> list[dict[str, object]]:
    """Decode one latent in every way; a row each."""
    network = tiling.read_network(vae)
    latent = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(1))
    plans = {name: planned(network, latent, budget) for name, budget in BUDGETS.items()}
    ways: dict[str, Way] = {UNTILED: lambda: whole(vae, latent)}
    ways |= {name: exact(network, latent, plan) for name, plan in plans.items()}
    if core:
        ways[CORE] = lambda: three_passes(core, vae, latent)
    counted = {name: Counted(way) for name, way in ways.items()}
    seconds = paired(rounds, counted)
    if not rounds:
        seconds = {name: [way.seconds] for name, way in counted.items()}
    truth = counted[UNTILED]
    return [
        {
            "size": side,
            "way": name,
            "seconds": statistics.median(seconds[name]),
            "to untiled": ratio(seconds, name, UNTILED),
            "to core": ratio(seconds, name, CORE) if core else None,
            "peak, MiB": way.peak / MIB,
            "of untiled": way.peak / truth.peak,
            "planned, MiB": plans[name].peak_bytes / MIB if name in plans else None,
            "largest error": (way.result - truth.result).abs().max().item(),
            "excess at borders": excess(way.result, truth.result, borders(name, side, plans)),
        }
        for name, way in counted.items()
    ]


class Counted:
    """A way of decoding; in its first run its memory is counted and its result kept."""

    def __init__(self, way: Way) -> None:
        self._way, self.peak = way, 0

    def __call__(self) -> None:
        with torch.no_grad():
            if self.peak:
                self._way()
                return
            began = time.perf_counter()
            with LiveBytes() as live:
                self.result = self._way()
            self.seconds, self.peak = time.perf_counter() - began, live.peak


def whole(vae: nn.Module, latent: Tensor) -> Tensor:
    found = vae.decode(latent)
    return found if isinstance(found, Tensor) else found.sample


def exact(network: Network, latent: Tensor, plan: Plan) -> Way:
    return lambda: tiling.decode(network, latent, plan)


def planned(network: Network, latent: Tensor, budget: int | None) -> Plan:
    """Plan within a budget; where it is too small, within the least."""
    shape = tuple(latent.shape)
    try:
        return tiling.plan_decode(network, shape, torch.float32, budget)
    except tiling.TooLittleMemory as error:
        return tiling.plan_decode(network, shape, torch.float32, error.least)


def three_passes(core: Callable[..., Tensor], vae: nn.Module, latent: Tensor) -> Tensor:
    """ComfyUI's tiled decode: tiles of three shapes, each feathered, and their mean."""
    passes = [
        core(latent, vae.decode, width, height, OVERLAP, upscale_amount=8)
        for height, width in tiles()
    ]
    return sum(passes) / len(passes)


def tiles() -> Iterator[tuple[int, int]]:
    """Height and width of the tiles of each pass, in latent cells."""
    yield from ((2 * TILE, TILE // 2), (TILE // 2, 2 * TILE), (TILE, TILE))


# Seams


def borders(name: str, side: int, plans: dict[str, Plan]) -> list[int]:
    """Rows of pixels at which a tile or strip begins or ends."""
    if name in plans:
        return list(range(plans[name].steps[-1].rows, side, plans[name].steps[-1].rows))
    cells, found = side // 8, set()
    for height, _ in tiles():
        if cells > height:
            for start in range(height - OVERLAP, cells - OVERLAP, height - OVERLAP):
                found |= {8 * start, 8 * (start + OVERLAP)}
    return sorted(row for row in found if 0 < row < side)


def excess(result: Tensor, truth: Tensor, rows: list[int]) -> float | None:
    """How much steeper a picture is between rows at borders than elsewhere, above the untiled."""
    if not rows:
        return None
    at = torch.zeros(result.shape[2] - 1, dtype=torch.bool)
    at[[row - 1 for row in rows]] = True

    def steepness(picture: Tensor) -> float:
        steps = picture.diff(dim=2).abs().mean((0, 1, 3))
        return (steps[at].mean() / steps[~at].mean()).item()

    return steepness(result) - steepness(truth)


# What plans foretell


def curve_at(side: int, widths: Sequence[int], layers: int) -> dict[str, object]:
    """Memory by plan, of the whole pass and of exact tiles."""
    network = tiling.read_network(diffusers_module("meta", widths, layers))
    cells = side // network.ratio
    latent = torch.empty(1, 4, cells, cells, device="meta")
    untiled = tiling.untiled_bytes(network, latent.shape, torch.float32, "decode")
    row: dict[str, object] = {"size": side, "untiled, MiB": untiled / MIB}
    for name, budget in BUDGETS.items():
        plan = planned(network, latent, budget)
        row |= {
            f"{name}, MiB": plan.peak_bytes / MIB,
            "of untiled, " + name: plan.peak_bytes / untiled,
            "rests a pixel, " + name: plan.resting_bytes / side**2,
            "work, MiB, " + name: plan.work_bytes / MIB,
        }
    return row


if __name__ == "__main__":
    main()
