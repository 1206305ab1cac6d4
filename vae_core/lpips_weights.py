"""The weights that LPIPS needs: names, shapes, and whether a dict holds them.

The layout: the backbone's `features.N.*` as torchvision names them, and for the heads
`lin0.model.1.weight` and on, as the LPIPS v0.1 files do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]

NETS = ("vgg", "alex", "squeeze")

# per convolution: output channels, input channels, kernel
_CONVS = {
    "vgg": {
        0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3),
        10: (256, 128, 3), 12: (256, 256, 3), 14: (256, 256, 3),
        17: (512, 256, 3), 19: (512, 512, 3), 21: (512, 512, 3),
        24: (512, 512, 3), 26: (512, 512, 3), 28: (512, 512, 3),
    },
    "alex": {
        0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3),
    },
    "squeeze": {0: (64, 3, 3)},
}  # fmt: skip

# per fire block: input channels, squeezed channels, channels of each expansion
_FIRES = {
    3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128),
    9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256),
}  # fmt: skip

_HEADS = {
    "vgg": (64, 128, 256, 512, 512),
    "alex": (64, 192, 384, 256, 256),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}


def weight_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """List the tensors that a net needs: name -> shape, backbone and heads."""
    check_net(net)
    convs = {f"features.{i}": shape for i, shape in _CONVS[net].items()}
    if net == "squeeze":
        for i, (wide, narrow, half) in _FIRES.items():
            convs[f"features.{i}.squeeze"] = (narrow, wide, 1)
            convs[f"features.{i}.expand1x1"] = (half, narrow, 1)
            convs[f"features.{i}.expand3x3"] = (half, narrow, 3)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, into, kernel) in convs.items():
        shapes[f"{name}.weight"] = (out, into, kernel, kernel)
        shapes[f"{name}.bias"] = (out,)
    return shapes | {head_name(i): (1, c, 1, 1) for i, c in enumerate(_HEADS[net])}


def head_name(layer: int) -> str:
    """Name the tensor of one layer's head, as the LPIPS v0.1 files do."""
    return f"lin{layer}.model.1.weight"


def check_weights(net: str, state: Weights) -> None:
    """Raise ValueError, naming net and tensors, unless `state` holds all that the net needs."""
    shapes = weight_shapes(net)
    missing = [name for name in shapes if name not in state]
    if missing:
        raise ValueError(
            f"Expected the LPIPS weights of {net!r} ({len(shapes)} tensors); "
            f"{len(missing)} are missing: {_few(missing)}."
        )
    wrong = [name for name in shapes if tuple(state[name].shape) != shapes[name]]
    if wrong:
        raise ValueError(
            f"Expected the LPIPS weights of {net!r} with {wrong[0]} of shape "
            f"{list(shapes[wrong[0]])}, got {list(state[wrong[0]].shape)}."
        )


def net_of(state: Weights) -> str:
    """Tell which net the weights are of: "vgg", "alex" or "squeeze"; else raise ValueError."""
    for net, mark in (("squeeze", "features.3.squeeze.weight"), ("vgg", "features.28.weight")):
        if mark in state:
            return net
    if "features.10.weight" in state and "features.0.weight" in state:
        return "alex"
    raise ValueError(
        "Expected LPIPS weights (features.* and lin*.model.1.weight of vgg, alex or squeeze), "
        f"got {_few(sorted(state)) or 'no tensors'}."
    )


def prepare(state: Weights, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """Make weights ready for use: checked, float32, on a device, without gradient."""
    net = net_of(state)
    check_weights(net, state)
    ready = {n: state[n].detach().to(device, torch.float32) for n in weight_shapes(net)}
    return {name: fastest_layout(weight) for name, weight in ready.items()}


def fastest_layout(x: Tensor) -> Tensor:
    """Lay out pictures [B, C, H, W] or kernels as their device convolves them fastest.

    On the CPU channels last, which takes about a quarter off (benchmarks/lpips_cost.py).
    """
    if x.ndim != 4 or x.device.type != "cpu":
        return x
    return x.contiguous(memory_format=torch.channels_last)


def check_net(net: str) -> None:
    """Raise ValueError unless `net` names one of the three backbones."""
    if net not in NETS:
        raise ValueError(f"Expected an LPIPS net among {', '.join(NETS)}, got {net!r}.")


def _few(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
