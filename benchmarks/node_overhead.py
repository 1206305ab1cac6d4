"""What our VAE Encode and Decode cost beside ComfyUI's own: pairs in one run, and the difference.

    PYTHON_OF_COMFYUI benchmarks/node_overhead.py COMFYUI [--size 512] [--pairs 15]

Runs in ComfyUI's environment, on the CPU, with the bundled VAE. Prints the median of the pairs'
ratios for each node (1.00: no cost) and the largest difference of the results (0: the same bits).
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "comfyui"))

import torch  # noqa: E402
from launch import import_on_cpu  # noqa: E402


def load(comfyui: Path):
    """Import ComfyUI, load this folder as a pack, and give its nodes and the bundled VAE."""
    import_on_cpu(comfyui)
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(ROOT)))
    known = nodes.NODE_CLASS_MAPPINGS
    return known, run(known["VAELabLoadVAE"], vae_name="kl-f8-small (bundled)")


def run(node: type, **inputs: object) -> Any:
    """Run a node of ours, its widgets at their defaults; its first output."""
    widgets = (part for part in node.define_schema().inputs if hasattr(part, "default"))
    return node.execute(**{part.id: part.default for part in widgets} | inputs).result[0]


def seconds(run: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    began = time.perf_counter()
    with torch.inference_mode():
        value = run()
    return time.perf_counter() - began, value


def compare(
    ours: Callable[[], torch.Tensor], core: Callable[[], torch.Tensor], pairs: int
) -> dict[str, float]:
    """Time both in turn, who begins alternates; the first pair warms up and does not count."""
    ratios, difference = [], 0.0
    for index in range(pairs + 1):
        order = (ours, core) if index % 2 else (core, ours)
        times = {run: seconds(run) for run in order}
        difference = max(difference, (times[ours][1] - times[core][1]).abs().max().item())
        ratios.append(times[ours][0] / times[core][0])
    return {"ratio": round(statistics.median(ratios[1:]), 4), "difference": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comfyui", type=Path, help="ComfyUI's folder, the one with main.py")
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    known, vae = load(options.comfyui.resolve())
    pixels = torch.rand(
        1, options.size, options.size, 3, generator=torch.Generator().manual_seed(0)
    )
    encode, decode = known["VAEEncode"]().encode, known["VAEDecode"]().decode
    latent = encode(vae, pixels)[0]
    figures = {
        "encode": compare(
            lambda: run(known["VAELabEncode"], pixels=pixels, vae=vae)["samples"],
            lambda: encode(vae, pixels)[0]["samples"],
            options.pairs,
        ),
        "decode": compare(
            lambda: run(known["VAELabDecode"], samples=latent, vae=vae),
            lambda: decode(vae, latent)[0],
            options.pairs,
        ),
    }
    print(json.dumps({"pixels": options.size, "pairs": options.pairs} | figures))


if __name__ == "__main__":
    main()
