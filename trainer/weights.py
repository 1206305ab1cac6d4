"""Fetch LPIPS weights once, into one .safetensors file for offline machines and for the nodes.

The backbone comes from torchvision's public address, checked by its SHA-256; the linear heads from
the files that torchmetrics ships.

    python trainer/weights.py --lpips-net squeeze --output lpips_squeeze.safetensors
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from trainer/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import hashlib
import importlib.util
import urllib.request

import torch
from torch import Tensor

from trainer.errors import UserError
from vae_core.checkpoint import read_tensors, write_safetensors
from vae_core.lpips import NETS, check_weights
from vae_core.lpips_weights import weight_shapes

State = dict[str, Tensor]

# torchvision's weights: the last part of each name is the start of the file's SHA-256.
ADDRESSES = {
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}

SECONDS_TO_ANSWER = 15


def fetch_weights(net: str, backbone: Path | None = None) -> State:
    """Put together a net's LPIPS weights in the layout of vae_core.lpips_weights.

    `backbone` is a local file instead of the download: torchvision's .pth, or a .safetensors
    with `features.*`. Raises UserError where a part cannot be had.
    """
    features = read_backbone(net, backbone) if backbone else download_backbone(net)
    joined = read_heads(net) | features
    try:
        check_weights(net, joined)
    except ValueError as error:
        source = backbone.name if backbone else ADDRESSES[net]
        raise UserError(f"{source} does not fit: {error}") from error
    return {name: joined[name].float().contiguous() for name in weight_shapes(net)}


def save_weights(net: str, state: State, path: Path) -> None:
    """Write LPIPS weights as one .safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, state, {"format": "pt", "vae_lab.lpips_net": net})


def download_backbone(net: str) -> State:
    """Fetch a backbone from torchvision's address through torch.hub, which keeps a copy."""
    address = ADDRESSES[net]
    try:
        if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(address).name).is_file():
            _knock(address)
        return torch.hub.load_state_dict_from_url(
            address, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(f"{address} could not be fetched ({error}).") from error


def _knock(address: str) -> None:
    """Raise OSError soon if nobody answers: torch.hub itself would wait without end."""
    request = urllib.request.Request(address, method="HEAD")
    urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER).close()


def read_backbone(net: str, path: Path) -> State:
    """Read a local backbone: a .safetensors, or torchvision's own .pth, known by its SHA-256."""
    if not path.is_file():
        raise UserError(f"Expected a file with the {net!r} backbone, found none at {path}.")
    if path.suffix in (".safetensors", ".sft"):
        return read_tensors(path)
    name = Path(ADDRESSES[net]).name
    expected = name.removesuffix(".pth").rsplit("-", 1)[1]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(expected):
        raise UserError(
            f"Expected torchvision's {name} (SHA-256 {expected}...) or a .safetensors, "
            f"{path.name} has SHA-256 {digest[:8]}...: pickles from elsewhere are not opened."
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def read_heads(net: str) -> State:
    """Read a net's linear heads from the file that torchmetrics ships."""
    spec = importlib.util.find_spec("torchmetrics")  # not imported: that alone takes seconds
    if spec is None or spec.origin is None:
        raise UserError(
            "Expected torchmetrics, which ships the LPIPS heads, found none: "
            "run `pip install torchmetrics`."
        )
    path = Path(spec.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
    if not path.is_file():
        raise UserError(
            "Expected the LPIPS heads inside torchmetrics, this version ships none: "
            "run `pip install --upgrade torchmetrics`."
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lpips-net", choices=NETS, required=True, help="which backbone")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the .safetensors to write"
    )
    parser.add_argument(
        "--lpips-weights",
        type=Path,
        metavar="FILE",
        help="a local backbone (torchvision's .pth, or a .safetensors) instead of the download",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Fetch and write; return the exit code."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    net, output = arguments.lpips_net, arguments.output
    try:
        if output.suffix != ".safetensors":
            raise UserError(f"Expected --output to end in .safetensors, got {output.name!r}.")
        state = fetch_weights(net, arguments.lpips_weights)
        save_weights(net, state, output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    numbers = sum(tensor.numel() for tensor in state.values())
    print(f"{output}: LPIPS {net}, {len(state)} tensors, {numbers:,} numbers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
