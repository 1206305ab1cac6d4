"""What a file is that is not the VAE one hoped for, said in words a person can act on."""

import re
from collections.abc import Sequence

from .header import shown

_TAKE_VAE = "take the VAE's own file, or a full checkpoint with first_stage_model."

# The first mark that any name matches decides.
_MARKS = (
    (
        r".*(\.lora_(up|down|a|b)\b|^lora_(unet|te)|\.hada_w1|\.lokr_w)",
        f"a LoRA, which is an addition to a model and holds no VAE; {_TAKE_VAE}",
    ),
    (
        r"(first_stage_model\.|vae\.)?(quantize\.|vquantizer\.|quantizer\.)",
        "a VQ model (it has a codebook, quantize.embedding), which has no gaussian latents; "
        "take an AutoencoderKL or an AutoencoderTiny",
    ),
    (r"(control_model|controlnet_\w+)\.", f"a ControlNet and no VAE; {_TAKE_VAE}"),
    (
        r"model\.diffusion_model\.|input_blocks\.|output_blocks\.|(double|joint)_blocks\.|"
        r"(down|up)_blocks\.\d+\.|time_embed|unet\.",
        f"a diffusion model (U-Net or transformer) without its VAE; {_TAKE_VAE}",
    ),
    (
        r"(cond_stage_model|conditioner|text_model|text_encoders|transformer|token_embedding|"
        r"text_projection|shared|encoder\.block|model\.embed_tokens)\b",
        f"a text encoder and no VAE; {_TAKE_VAE}",
    ),
    (
        r"\d+\.(weight|bias|conv\.\d)",
        "one half of a TAESD (its encoder or its decoder alone); take its diffusers form, or a "
        "file with both, taesd_encoder.* and taesd_decoder.*",
    ),
    (r"features\.\d+\.|lin\d\.", f"weights of a perceptual loss or a classifier; {_TAKE_VAE}"),
)


_BESIDE_A_VAE = _MARKS[:2]  # a LoRA of a VAE, a VQ model: both have encoder and decoder too


def what_stands_there(names: Sequence[str], has_vae: bool) -> str | None:
    """Say what a file with these tensor names is, or None if it is a VAE or has one."""
    for mark, words in _BESIDE_A_VAE if has_vae else _MARKS:
        pattern = re.compile(mark, re.IGNORECASE)
        if any(pattern.match(name) for name in names):
            return words
    if has_vae:
        return None
    if not names:
        return "no tensors at all; get it again"
    few = ", ".join(shown(name) for name in sorted(names)[:3])
    return f"no VAE: {len(names):,} tensors such as {few}; {_TAKE_VAE}"
