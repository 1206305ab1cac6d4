"""`--compile`: the decoder through torch.compile, in place, so that no name of a weight changes."""

import torch
from torch import nn

from trainer.errors import UserError


def compile_decoder(vae: nn.Module, device: torch.device) -> None:
    """Let the decoder's next call on a shape compile it; raise UserError where nothing can.

    `Module.compile` replaces the call and not the module, so state dicts, averages and exports
    keep their names. One shape is all that training has: hence no dynamic ones.
    """
    _require_compiler(device)
    vae.decoder.compile(dynamic=False)


def _require_compiler(device: torch.device) -> None:
    """Compile next to nothing, as only that tells of compilers, headers and Triton alike."""
    try:
        torch.compile(_next_to_nothing)(torch.ones(8, device=device))
    except Exception as error:
        needed = "a C++ compiler (g++, clang or MSVC)" if device.type == "cpu" else "Triton"
        raise UserError(
            f"Expected {needed} for --compile, but torch.compile does not work on {device.type} "
            f"here ({_cause(error)}): install it, or train without --compile."
        ) from error


def _next_to_nothing(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1


def _cause(error: Exception) -> str:
    inner = getattr(error, "inner_exception", None) or error
    first = (str(inner).strip() or "no reason given").splitlines()[0]
    return f"{type(inner).__name__}: {first[:200]}"
