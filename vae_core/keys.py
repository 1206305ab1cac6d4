"""The names a VAE's tensors go by, and the ways between them.

In memory a VAE always has the names of today's diffusers. Files have four layouts:

    ldm             CompVis names, attention as 1x1 convolutions: what ComfyUI, A1111 and Forge read
    diffusers       AutoencoderKL, with new or old attention names, with or without 1x1 dimensions
    taesd           taesd_encoder.N / taesd_decoder.N, as ComfyUI reads it
    tiny-diffusers  AutoencoderTiny

ldm counts decoder levels from the image, diffusers from the latent: up.{n-1-i} is up_blocks.{i}.
The original TAESD decoder starts with a clamp without weights: taesd_decoder.{N+1} is layers.{N}.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from .header import CheckpointError
from .strangers import what_stands_there

_RESNET = {
    **{part: part for part in ("norm1", "conv1", "norm2", "conv2")},
    "nin_shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_CONV = {"conv": "conv"}
_ENDS = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
_LATENT = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}

# Where a layer stands: in ldm, in diffusers, and its parts. {s} is a side, {i} a level of the
# encoder, {u} one of the decoder (counted the other way round), {j} a place within the level.
_PLACES = (
    ("encoder.down.{i}.block.{j}.", "encoder.down_blocks.{i}.resnets.{j}.", _RESNET),
    ("encoder.down.{i}.attn.{j}.", "encoder.down_blocks.{i}.attentions.{j}.", _ATTENTION),
    ("encoder.down.{i}.downsample.", "encoder.down_blocks.{i}.downsamplers.0.", _CONV),
    ("decoder.up.{u}.block.{j}.", "decoder.up_blocks.{u}.resnets.{j}.", _RESNET),
    ("decoder.up.{u}.attn.{j}.", "decoder.up_blocks.{u}.attentions.{j}.", _ATTENTION),
    ("decoder.up.{u}.upsample.", "decoder.up_blocks.{u}.upsamplers.0.", _CONV),
    ("{s}.mid.block_1.", "{s}.mid_block.resnets.0.", _RESNET),
    ("{s}.mid.block_2.", "{s}.mid_block.resnets.1.", _RESNET),
    ("{s}.mid.attn_1.", "{s}.mid_block.attentions.0.", _ATTENTION),
    ("{s}.", "{s}.", _ENDS),
    ("", "", _LATENT),
)

_PREFIXES = ("first_stage_model.", "vae.", "")
_ROOTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "taesd_", "vae_s")
_IGNORED = ("loss.", "model_ema.")  # what A1111 drops too; training checkpoints of LDM have them
_TAESD_SCALARS = ("vae_scale", "vae_shift")  # ComfyUI's way from raw to model latents
_LAYOUTS = {
    "ldm": re.compile(r"encoder\.down\.|decoder\.up\.|(en|de)coder\.(mid|norm_out)\."),
    "diffusers": re.compile(
        r"encoder\.down_blocks\.|decoder\.up_blocks\.|(en|de)coder\.(mid_block|conv_norm_out)\."
    ),
    "taesd": re.compile(r"taesd_(en|de)coder\."),
    "tiny-diffusers": re.compile(r"(en|de)coder\.layers\."),
}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(r"(.*\.attentions\.\d{1,3})\.(query|key|value|proj_attn)\.(weight|bias)")
_PROJECTION = re.compile(r".*\.attentions\.\d{1,3}\.to_(q|k|v|out\.0)\.weight")


class VaeNames(NamedTuple):
    """The VAE's tensors in a file: its layout, and {name in the file: name without prefix}."""

    layout: str
    names: dict[str, str]


def vae_tensors(names: Iterable[str]) -> VaeNames:
    """Find the VAE among a file's tensor names, alone or inside a full checkpoint.

    Raises CheckpointError saying what the file holds instead: a LoRA, a U-Net, half a VAE, two
    layouts, or the same VAE with and without a prefix.
    """
    names = list(names)
    found = {prefix: _below(prefix, names) for prefix in _PREFIXES}
    found = {prefix: group for prefix, group in found.items() if _layouts(group.values())}
    _refuse_two(found, set(names))
    stranger = what_stands_there(names, has_vae=bool(found))
    if stranger:
        raise CheckpointError(f"holds {stranger}")
    (group,) = found.values()
    return VaeNames(_one_layout(group.values()), group)


def to_diffusers(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Rename a VAE's tensors from `layout`; attention weights become [C, C]. Views, not copies."""
    renamed = diffusers_names(state, layout)
    return {
        new: state[old].reshape(plain_shape(new, tuple(state[old].shape)))
        for old, new in renamed.items()
    }


def to_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename AutoencoderKL's tensors to ldm; attention weights become [C, C, 1, 1], contiguous."""
    depth = _depth(state)
    named = {_translate(name, _FROM_DIFFUSERS, depth) or name: name for name in state}
    return {new: _as_conv(old, state[old]).contiguous() for new, old in named.items()}


def to_taesd(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename AutoencoderTiny's tensors to taesd_encoder.N and taesd_decoder.N, contiguous."""
    return {
        _renumber(name, "{}.layers.", "taesd_{}.", 1): tensor.contiguous()
        for name, tensor in state.items()
    }


def diffusers_names(names: Iterable[str], layout: str) -> dict[str, str]:
    """Map names of `layout` to diffusers names; what is not known keeps its name.

    Raises CheckpointError if two names mean the same tensor.
    """
    names = [name for name in names if name not in _TAESD_SCALARS]
    depth = _depth(names)
    renamed = {name: _diffusers_name(name, layout, depth) for name in names}
    if len(set(renamed.values())) < len(renamed):
        raise CheckpointError("holds the same tensor twice, under an old and a new name")
    return renamed


def plain_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the 1x1 dimensions of an attention weight; every other shape stays."""
    flat = _PROJECTION.fullmatch(name) and len(shape) > 2 and set(shape[2:]) == {1}
    return shape[:2] if flat else shape


def _refuse_two(found: Mapping[str, Mapping[str, str]], names: set[str]) -> None:
    """Refuse a VAE of which even one tensor stands there again under another prefix."""
    bare = {name for group in found.values() for name in group.values()}
    places = [p for p in _PREFIXES if p in found or any(p + name in names for name in bare)]
    if len(places) > 1:
        raise CheckpointError(
            f"holds two VAEs, under {' and '.join(repr(p or 'no prefix') for p in places)}; "
            "take a file with one of them"
        )


def _below(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Return {name: name without prefix} of what belongs to the VAE under `prefix`."""
    bare = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    if not prefix and any(_of_checkpoint(name) for name in bare):
        bare = {name: name for name in bare if name.startswith(_ROOTS)}
    return {name: rest for name, rest in bare.items() if not rest.startswith(_IGNORED)}


def _of_checkpoint(name: str) -> bool:
    return name.startswith(("model.diffusion_model.", "cond_stage_model.", "conditioner."))


def _layouts(names: Iterable[str]) -> set[str]:
    return {layout for name in names for layout, mark in _LAYOUTS.items() if mark.match(name)}


def _one_layout(names: Iterable[str]) -> str:
    names = list(names)
    layouts = _layouts(names)
    if len(layouts) > 1:
        raise CheckpointError(
            f"mixes two key layouts, {' and '.join(sorted(layouts))}, so it is not clear which "
            "weights count; take a file with one of them"
        )
    for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if not any(name.startswith((f"{side}.", f"taesd_{side}.")) for name in names):
            raise CheckpointError(
                f"holds only the {other} of a VAE; take a file with encoder and decoder"
            )
    return layouts.pop()


def _diffusers_name(name: str, layout: str, depth: int) -> str:
    if layout == "taesd":
        return _renumber(name, "taesd_{}.", "{}.layers.", -1)
    if layout == "ldm":
        return _translate(name, _FROM_LDM, depth) or name
    old = _OLD.fullmatch(name)
    return f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else name


def _renumber(name: str, source: str, target: str, decoder_shift: int) -> str:
    for side, shift in (("encoder", 0), ("decoder", decoder_shift)):
        found = re.fullmatch(re.escape(source.format(side)) + r"(\d{1,4})\.(.*)", name)
        if found and int(found[1]) + shift >= 0:
            return f"{target.format(side)}{int(found[1]) + shift}.{found[2]}"
    return name


def _as_conv(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None] if _PROJECTION.fullmatch(name) else tensor


def _depth(names: Iterable[str]) -> int:
    """Count the levels of the decoder."""
    levels = (re.match(r"decoder\.up(_blocks)?\.(\d{1,3})\.", name) for name in names)
    return 1 + max((int(level[2]) for level in levels if level), default=-1)


# Translation by the table of places


_FIELDS = {"s": "(?P<s>encoder|decoder)", **{x: rf"(?P<{x}>\d{{1,3}})" for x in "iuj"}}
Rule = tuple[re.Pattern[str], str, dict[str, str]]


def _rules(to_ldm: bool) -> Iterator[Rule]:
    for ldm, diffusers, parts in _PLACES:
        source, target = (diffusers, ldm) if to_ldm else (ldm, diffusers)
        names = {new: old for old, new in parts.items()} if to_ldm else parts
        place = re.escape(source).replace(r"\{", "{").replace(r"\}", "}").format(**_FIELDS)
        part = "|".join(re.escape(name) for name in names)
        yield re.compile(rf"{place}(?P<part>{part})\.(?P<p>weight|bias)"), target, names


_FROM_LDM = tuple(_rules(to_ldm=False))
_FROM_DIFFUSERS = tuple(_rules(to_ldm=True))


def _translate(name: str, rules: Iterable[Rule], depth: int) -> str | None:
    for pattern, target, parts in rules:
        found = pattern.fullmatch(name)
        if found:
            fields = found.groupdict()
            if "u" in fields:
                fields["u"] = str(depth - 1 - int(fields["u"]))
            return f"{target.format(**fields)}{parts[fields['part']]}.{fields['p']}"
    return None
