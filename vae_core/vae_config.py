"""A VAE's config: the fields that matter, their defaults, and the bounds that keep it buildable.

The fields and defaults are those of diffusers' AutoencoderKL and AutoencoderTiny; everything that
comes from outside is checked here before anything of that size is built.
"""

import math
from collections.abc import Mapping
from typing import Any

from .header import CheckpointError, shown
from .layers import kl_shapes, tiny_shapes

MAX_WIDTH = 8192  # SD's widest layer has 512 channels
MAX_LEVELS = 12
MAX_LAYERS = 32
MAX_PARAMETERS = 2_000_000_000  # SD's VAE has 84 million

KL_DEFAULTS: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
TINY_DEFAULTS: dict[str, Any] = {
    "_class_name": "AutoencoderTiny",
    "in_channels": 3,
    "out_channels": 3,
    "encoder_block_out_channels": [64, 64, 64, 64],
    "decoder_block_out_channels": [64, 64, 64, 64],
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "latent_channels": 4,
    "upsampling_scaling_factor": 2,
    "num_encoder_blocks": [1, 3, 3, 3],
    "num_decoder_blocks": [3, 3, 3, 1],
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "force_upcast": False,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
}


def architecture_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Take the fields that matter from a diffusers config; what it leaves out has their default.

    Raises CheckpointError for another class than AutoencoderKL and AutoencoderTiny, and for
    values that can not be built.
    """
    defaults = _defaults_for(config)
    stated = {key: _plain(value) for key, value in config.items() if value is not None}
    architecture = {key: stated.get(key, value) for key, value in defaults.items()}
    for key, value in architecture.items():
        _check_type(key, value, defaults[key])
    lists = [key for key in architecture if isinstance(defaults[key], list)]
    tiny = architecture["_class_name"] == "AutoencoderTiny"
    for group in (lists[0::2], lists[1::2]) if tiny else (lists,):
        if len({len(architecture[key]) for key in group}) > 1:
            raise CheckpointError(f"gives a different number of levels in {', '.join(group)}")
    _check_tiny(architecture) if tiny else _check_kl(architecture)
    _check_size(architecture)
    return architecture


def state_shapes(architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """List the tensors that an architecture has: {diffusers name: shape}."""
    tiny = architecture["_class_name"] == "AutoencoderTiny"
    return tiny_shapes(architecture) if tiny else kl_shapes(architecture)


def _defaults_for(config: Mapping[str, Any]) -> dict[str, Any]:
    by_field = "AutoencoderTiny" if "num_decoder_blocks" in config else None
    by_field = by_field or ("AutoencoderKL" if "up_block_types" in config else "no _class_name")
    name = config.get("_class_name", by_field)
    known = {"AutoencoderKL": KL_DEFAULTS, "AutoencoderTiny": TINY_DEFAULTS}
    if name not in known:
        raise CheckpointError(
            f"describes {shown(str(name))}; an AutoencoderKL or AutoencoderTiny is expected"
        )
    return known[name]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_type(key: str, value: Any, default: Any) -> None:
    if key in ("shift_factor", "latents_mean", "latents_std", "sample_size"):
        fits = value is None or _number(value) or _all(value, (int, float))
    elif isinstance(default, list):
        fits = bool(value) and _all(value, (type(default[0]),)) and len(value) <= MAX_LEVELS
    elif isinstance(default, float) or key == "latent_magnitude":
        fits = _number(value)
    else:
        fits = type(value) is type(default)
    if not fits:
        raise CheckpointError(f"gives {key} a value that makes no sense: {str(value)[:60]!r}")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _all(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(type(item) in kinds for item in value)


def _check_kl(architecture: Mapping[str, Any]) -> None:
    kinds = {
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
    }
    for key, known in kinds.items():
        for kind in architecture[key]:
            if kind not in known:
                raise CheckpointError(f"has a block {shown(kind)}, which no VAE of SD's kind has")
    if architecture["act_fn"] not in ("silu", "swish", "mish", "gelu", "relu"):
        raise CheckpointError(f"has the activation {shown(architecture['act_fn'])}, not known here")
    groups, widths = architecture["norm_num_groups"], architecture["block_out_channels"]
    if groups < 1 or any(width % groups for width in widths):
        raise CheckpointError(
            f"has widths {widths}, which its norms can not part into {groups} groups; "
            "name a diffusers folder whose config.json gives norm_num_groups"
        )


def _check_tiny(architecture: Mapping[str, Any]) -> None:
    for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
        if len(set(architecture[key])) > 1:
            raise CheckpointError(f"gives {key} = {architecture[key]}; all must be the same width")
    if architecture["act_fn"] not in ("relu", "silu", "swish", "mish", "gelu"):
        raise CheckpointError(f"has the activation {shown(architecture['act_fn'])}, not known here")
    if architecture["upsample_fn"] not in ("nearest", "bilinear"):
        raise CheckpointError(f"has the upsampling {shown(architecture['upsample_fn'])}, not known")


def _check_size(architecture: Mapping[str, Any]) -> None:
    """Refuse what would fill the memory before it is built."""
    for key, value in architecture.items():
        counts = value if isinstance(value, list) else [value]
        limit = MAX_WIDTH if "channels" in key else MAX_LAYERS
        counted = "channels" in key or key in ("layers_per_block", "upsampling_scaling_factor")
        counted = counted or key.startswith("num_")
        if counted and not all(0 <= count <= limit for count in counts):
            raise CheckpointError(f"gives {key} = {str(value)[:60]}; at most {limit} is allowed")
        if "channels" in key and not all(counts):
            raise CheckpointError(f"gives {key} = {str(value)[:60]}; it can not be 0")
    total = sum(math.prod(shape) for shape in state_shapes(architecture).values())
    if total > MAX_PARAMETERS:
        raise CheckpointError(
            f"has {total:,} parameters; a VAE of at most {MAX_PARAMETERS:,} is allowed"
        )
