"""Low-rank adapters on the decoder (Hu et al., 2021), through peft, with an exact merge."""

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from trainer.vae.autoencoder import DECODER_PREFIXES

_ADAPTED = (nn.Conv2d, nn.Linear)


def add_adapters(vae: nn.Module, rank: int, alpha: float | None, seed: int) -> None:
    """Put a trainable low-rank adapter beside each convolution and projection of the decoder.

    The update is alpha / rank * B A; B starts at zero, so the model's output does not change.
    """
    targets = [
        name
        for name, module in vae.named_modules()
        if isinstance(module, _ADAPTED) and name.startswith(DECODER_PREFIXES[0])
    ]
    settings = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=targets)
    with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, vae)


@torch.no_grad()
def merged_state(vae: nn.Module) -> dict[str, Tensor]:
    """Return the state dict under its plain names, adapters added into the weights they adapt."""
    state = {_plain(name): value for name, value in vae.state_dict().items() if _is_base(name)}
    for name, module in vae.named_modules():
        if isinstance(module, LoraLayer):
            weight = f"{name}.weight"
            state[weight] = state[weight] + module.get_delta_weight("default")
    return state


def _is_base(name: str) -> bool:
    return ".lora_" not in name


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")
