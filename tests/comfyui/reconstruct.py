"""Encode and decode with ComfyUI's own VAE class, in its own process.

    python reconstruct.py COMFYUI VAE CONFIG IN OUT

CONFIG is what `comfy.sd.VAE(sd, config=…)` takes, as JSON. IN holds `image` [B, H, W, 3] in [0, 1]
and `latent` [B, C, h, w]; OUT gets `encoded` (raw latents) and `decoded` (images).
"""

import json
import sys
from pathlib import Path

from launch import import_on_cpu
from safetensors.torch import load_file, save_file


def main() -> None:
    comfyui, vae, config, given, out = (Path(name).resolve() for name in sys.argv[1:])
    import_on_cpu(comfyui)
    import comfy.sd
    import comfy.utils

    weights = comfy.utils.load_torch_file(str(vae))
    loaded = comfy.sd.VAE(sd=weights, config=json.loads(config.read_text("utf-8")))
    tensors = load_file(given)
    encoded = loaded.encode(tensors["image"]).contiguous()
    decoded = loaded.decode(tensors["latent"]).contiguous()
    save_file({"encoded": encoded, "decoded": decoded}, out)


if __name__ == "__main__":
    main()
