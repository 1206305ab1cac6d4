"""VAE Lab: see and work in Stable Diffusion's latent space, and fine-tune a VAE decoder."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
