"""VAE Lab: see and work in Stable Diffusion's latent space, and fine-tune a VAE decoder."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
