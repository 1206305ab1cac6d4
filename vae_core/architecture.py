"""What a VAE looks like inside, read from the shapes of its tensors.

An architecture is a plain dict: the fields of a diffusers config and `_class_name`. Names and
shapes here are those of diffusers (see keys.py). What shapes do not show (the groups of the norms,
the activation) comes from the metadata that our own files carry. Error messages begin with a verb:
who reads a file puts its name before them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .header import CheckpointError, shown
from .vae_config import architecture_from_config, state_shapes

__all__ = [
    "architecture_from",
    "architecture_from_config",
    "check_state",
    "comfy_config",
    "state_shapes",
]

Shapes = Mapping[str, tuple[int, ...]]


def architecture_from(shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Rebuild an architecture from tensor shapes {diffusers name: shape} and file metadata.

    The groups of the norms come from `vae_lab.architecture`, else they are 32 as in every
    published VAE, if all widths can be divided so. Raises CheckpointError if that fails, if the
    metadata contradicts the shapes, or if the shapes are absurd.
    """
    try:
        tiny = any(name.startswith("decoder.layers.") for name in shapes)
        seen = _tiny_seen(shapes) if tiny else _kl_seen(shapes)
    except KeyError as error:
        raise CheckpointError(
            f"is not a whole VAE: {shown(error.args[0])} is missing; take a complete file"
        ) from None
    except IndexError:
        raise CheckpointError(
            "is not a VAE for images: its tensors have other dimensions"
        ) from None
    stated = _stated(metadata)
    wrong = [key for key in seen if key in stated and stated[key] != seen[key]]
    if wrong:
        raise CheckpointError(
            f"contradicts itself: its metadata says {wrong[0]} = {str(stated[wrong[0]])[:60]}, its "
            f"tensors say {seen[wrong[0]]}; get it again"
        )
    # Without a word on scaling the latents count as they are, not by the class's default of SD1.
    return architecture_from_config({"scaling_factor": 1.0, **stated, **seen})


def check_state(shapes: Shapes, architecture: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless exactly the architecture's tensors are there, each in shape."""
    expected = state_shapes(architecture)
    missing = [name for name in expected if name not in shapes]
    strange = [name for name in shapes if name not in expected]
    wrong = [
        f"{name} is {list(shapes[name])} instead of {list(expected[name])}"
        for name in expected
        if name in shapes and tuple(shapes[name]) != expected[name]
    ]
    faults = [
        f"{len(names):,} {what} ({_few(names)})"
        for what, names in (("missing", missing), ("unexpected", strange), ("misshapen", wrong))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"is not a whole {architecture['_class_name']}; tensors: {', '.join(faults)}; "
            "take a complete file of a VAE of that kind"
        )


def comfy_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an AutoencoderKL as ComfyUI's `comfy.sd.VAE(sd, config=...)` wants it.

    ComfyUI's class always has quant convs: a VAE without them needs identities in their place.
    Raises CheckpointError for shapes that class can not hold.
    """
    widths = architecture.get("block_out_channels") or [1]
    types = [kind.startswith("Attn") for kind in architecture.get("down_block_types", [])]
    up_types = [kind.startswith("Attn") for kind in architecture.get("up_block_types", [])]
    fits = (
        architecture["_class_name"] == "AutoencoderKL"
        and architecture["norm_num_groups"] == 32
        and architecture["act_fn"] in ("silu", "swish")
        and architecture["mid_block_add_attention"]
        and types == up_types[::-1]
        and all(width % widths[0] == 0 for width in widths)
    )
    if not fits:
        raise CheckpointError(
            "does not have the shape that ComfyUI's VAE class holds: AutoencoderKL with groups of "
            "32, silu, attention in the middle, and widths that are multiples of the first"
        )
    resolution = 256
    ddconfig = {
        "double_z": True,
        "z_channels": architecture["latent_channels"],
        "resolution": resolution,
        "in_channels": architecture["in_channels"],
        "out_ch": architecture["out_channels"],
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": architecture["layers_per_block"],
        "attn_resolutions": [resolution >> level for level, attends in enumerate(types) if attends],
        "dropout": 0.0,
    }
    return {"params": {"ddconfig": ddconfig, "embed_dim": architecture["latent_channels"]}}


def _few(names: list[str]) -> str:
    return ", ".join(name[:120] for name in names[:2]) + (", ..." if len(names) > 2 else "")


# Reading shapes


def _kl_seen(shapes: Shapes) -> dict[str, Any]:
    levels = range(_count(shapes, r"encoder\.down_blocks\.(\d{1,3})\."))
    widths = [shapes[f"encoder.down_blocks.{i}.resnets.0.conv2.weight"][0] for i in levels]
    attends = [f"encoder.down_blocks.{i}.attentions.0.to_q.weight" in shapes for i in levels]
    up_attends = [f"decoder.up_blocks.{i}.attentions.0.to_q.weight" in shapes for i in levels]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "down_block_types": ["Attn" * yes + "DownEncoderBlock2D" for yes in attends],
        "up_block_types": ["Attn" * yes + "UpDecoderBlock2D" for yes in up_attends],
        "block_out_channels": widths,
        "layers_per_block": _count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d{1,3})\."),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in shapes,
    }


def _tiny_seen(shapes: Shapes) -> dict[str, Any]:
    encoder, decoder = _tiny_levels(shapes, "encoder"), _tiny_levels(shapes, "decoder")
    width = shapes["encoder.layers.0.weight"][0]
    decoder_width = shapes["decoder.layers.0.weight"][0]
    last = _count(shapes, r"decoder\.layers\.(\d{1,3})\.") - 1
    return {
        "_class_name": "AutoencoderTiny",
        "in_channels": shapes["encoder.layers.0.weight"][1],
        "out_channels": shapes[f"decoder.layers.{last}.weight"][0],
        "encoder_block_out_channels": [width] * len(encoder),
        "decoder_block_out_channels": [decoder_width] * len(decoder),
        "latent_channels": shapes["decoder.layers.0.weight"][1],
        "num_encoder_blocks": encoder,
        "num_decoder_blocks": decoder,
    }


def _tiny_levels(shapes: Shapes, side: str) -> list[int]:
    """Count the blocks of each level: its bare convolutions part one level from the next.

    The encoder begins each level with a convolution and ends with one more; the decoder ends
    each level with one and begins with one more. A level without blocks counts as 0.
    """
    last = _count(shapes, rf"{side}\.layers\.(\d{{1,3}})\.") - 1
    convs = [i for i in range(last + 1) if f"{side}.layers.{i}.weight" in shapes]
    blocks = [i for i in range(last + 1) if f"{side}.layers.{i}.conv.0.weight" in shapes]
    return [sum(a < i < b for i in blocks) for a, b in zip(convs, convs[1:], strict=False)]


def _count(names: Iterable[str], pattern: str) -> int:
    found = (re.match(pattern, name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _stated(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        stated = json.loads(metadata.get("vae_lab.architecture", "{}"))
    except (ValueError, RecursionError):
        stated = None
    if not isinstance(stated, dict):
        raise CheckpointError("has a damaged vae_lab.architecture in its metadata; get it again")
    return stated
