"""How the nodes describe themselves: one place for what ComfyUI's versions take differently."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io

CATEGORY = "VAE Lab"
LARGEST_SEED = 2**64 - 1


def node_schema(**keywords: Any) -> io.Schema:
    """Describe a node; keywords that the running ComfyUI does not know are left out.

    `search_aliases`, for one, came after 0.3.75.
    """
    return io.Schema(category=CATEGORY, **_known(io.Schema, keywords))


def socket(kind: type[io.ComfyType], id: str, **keywords: Any) -> io.Input:
    """Describe an input; keywords that the running ComfyUI does not know are left out."""
    return kind.Input(id, **_known(kind.Input, keywords))


def result(
    kind: type[io.ComfyType], id: str, tooltip: str, display_name: str | None = None, **keywords
) -> io.Output:
    """Describe an output."""
    known = _known(kind.Output, keywords)
    return kind.Output(id, display_name=display_name or id, tooltip=tooltip, **known)


def seed_socket(id: str = "seed", what: str = "the noise") -> io.Input:
    """Describe a seed, 0 to 2⁶⁴ - 1; kept between runs where ComfyUI can be told so."""
    keep = getattr(getattr(io, "ControlAfterGenerate", None), "fixed", True)
    tooltip = f"Seed of {what}, drawn on the CPU: the same on every device."
    limits = {"default": 0, "min": 0, "max": LARGEST_SEED}
    return socket(io.Int, id, **limits, control_after_generate=keep, tooltip=tooltip)


def node_body(display_name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark the body of a node: no gradients, and errors about input begin with the node's name.

    Everything but ValueError passes as it came: a cancelled run among it.
    """

    def decorate(execute: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(execute)
        def named(*arguments: Any, **keywords: Any) -> Any:
            with torch.no_grad():
                try:
                    return execute(*arguments, **keywords)
                except ValueError as error:
                    raise ValueError(f"{display_name}: {error}") from error

        return named

    return decorate


def _known(kind: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}
