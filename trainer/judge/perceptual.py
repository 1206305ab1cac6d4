"""The perceptual distance of a run: LPIPS, or the features of the frozen VAE encoder.

Where LPIPS weights come from, in order: --lpips-weights FILE; the cache of an earlier fetch;
torchvision's address and torchmetrics (trainer/weights.py). Only a run that must not download
(the demo) falls back to the encoder's features.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.judge.at_once import gradient_at_once
from trainer.weights import fetch_weights, save_weights
from vae_core import lpips as lpips_math
from vae_core.checkpoint import check_finite, read_tensors

FALLBACK = "encoder-features"


@dataclass(frozen=True)
class Perceptual:
    """A perceptual distance and its name.

    distance(x, y): pixels [B, C, H, W] twice in [-1, 1] -> [B] in float32, gradient for x alone.
    """

    name: str  # "lpips-squeeze", "encoder-features"
    is_lpips: bool  # whether its figures may be called LPIPS
    smallest_side: int  # in pixels
    distance: Callable[[Tensor, Tensor], Tensor]
    source: str = ""  # where the weights came from, for the start text


def load_perceptual(
    net: str,
    weights: str | None,
    allow_fallback: bool,
    vae: nn.Module,
    device: torch.device | str,
    required: bool = True,
) -> Perceptual | None:
    """Make the perceptual distance ready on a device.

    `weights` is the file of --lpips-weights. With `allow_fallback` and no file nothing is fetched:
    the features of `vae`'s encoder serve. Raises UserError naming the ways out when LPIPS cannot
    be had; returns None instead where it is not `required` (--lpips-weight 0).
    """
    if weights is not None:
        return _lpips(net, read_weights(net, Path(weights)), Path(weights).name, device)
    if allow_fallback:
        return encoder_features(vae, device)
    cached = read_cache(net)
    if cached is not None:
        return _lpips(net, cached, "the cache of an earlier download", device)
    try:
        state = fetch_weights(net)
    except UserError as error:
        if not required:
            return None
        raise UserError(_ways_out(net, error)) from error
    _write_cache(net, state)
    return _lpips(net, state, "downloaded now", device)


def read_weights(net: str, path: Path) -> dict[str, Tensor]:
    """Read the file of --lpips-weights; raise UserError unless it holds this net's weights."""
    try:
        state = read_tensors(path)
        found = lpips_math.net_of(state)
        if found == net:
            lpips_math.check_weights(net, state)
            check_finite(state, path.name)
            return state
    except (ValueError, OSError) as error:
        raise UserError(f"--lpips-weights {path}: {error}") from error
    raise UserError(
        f"--lpips-weights {path} holds the weights of {found!r}, but --lpips-net is {net!r}: "
        f"say --lpips-net {found}, or name a file with the {net!r} weights."
    )


def cache_path(net: str) -> Path:
    """Name the file in the user's cache that keeps fetched LPIPS weights."""
    return Path(torch.hub.get_dir()) / "vae_lab" / f"lpips_{net}.safetensors"


def read_cache(net: str) -> dict[str, Tensor] | None:
    """Read cached weights; None where there are none, or none that can be used."""
    if not cache_path(net).is_file():
        return None
    try:
        return read_weights(net, cache_path(net))
    except UserError:
        return None  # damaged: it is fetched and written anew


def _write_cache(net: str, state: dict[str, Tensor]) -> None:
    try:
        save_weights(net, state, cache_path(net))
    except OSError:
        return  # a home that cannot be written: the run has its weights all the same


def _ways_out(net: str, error: UserError) -> str:
    return (
        f"LPIPS weights for {net!r} cannot be had: {error} Ways out: "
        "--lpips-weights FILE, if you have them; or run `python trainer/weights.py --lpips-net "
        f"{net} --output lpips_{net}.safetensors` on a machine with network and name that file; "
        "or --lpips-weight 0, which trains without LPIPS and evaluates without it."
    )


def _lpips(
    net: str, state: dict[str, Tensor], source: str, device: torch.device | str
) -> Perceptual:
    prepared = lpips_math.prepare(state, device)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return lpips_math.lpips(prepared, net, _as_rgb(x), _as_rgb(y))

    side = lpips_math.SMALLEST_SIDE[net]
    return Perceptual(f"lpips-{net}", True, side, gradient_at_once(distance), source)


def _as_rgb(x: Tensor) -> Tensor:
    """Repeat a grey picture over three channels."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


# The fallback


def encoder_features(vae: nn.Module, device: torch.device | str) -> Perceptual:
    """Make a perceptual distance of a copy of the VAE's encoder, which no training moves.

    At each of the encoder's levels: features of unit length over the channels, squared difference
    summed over the channels, mean over space; then the mean over the levels. The form of LPIPS
    without its learned heads, so its figures are not LPIPS figures.
    """
    encoder = _frozen_copy(vae.encoder).to(device, torch.float32)
    side = 2 ** sum(_halves(module) for module in encoder.modules())

    def features(x: Tensor) -> list[Tensor]:
        return [lpips_math.unit_length(level) for level in _levels(encoder, x.float())]

    def distance(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                target = features(y)
            pairs = zip(features(x), target, strict=True)
            levels = [(a - b).square().sum(1).mean(dim=(1, 2)) for a, b in pairs]
            return torch.stack(levels).mean(0)

    source = "the frozen encoder of the base VAE"
    return Perceptual(FALLBACK, False, side, gradient_at_once(distance), source)


def _frozen_copy(encoder: nn.Module) -> nn.Module:
    encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
    for module in encoder.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False
    return encoder


def _levels(encoder: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Yield an encoder's features at each level: pixels [B, C, H, W] in [-1, 1] -> maps."""
    if hasattr(encoder, "down_blocks"):  # AutoencoderKL
        h = encoder.conv_in(x)
        for block in encoder.down_blocks:
            h = block(h)
            yield h
        return
    h = (x + 1) / 2  # AutoencoderTiny's range
    for layer in encoder.layers[:-1]:
        if _halves(layer):
            yield h
        h = layer(h)
    yield h


def _halves(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.stride == (2, 2)
