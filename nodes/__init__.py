"""The node pack's table of contents: what ComfyUI gets when it loads this folder."""

from comfy_api.latest import ComfyExtension, io

from .decode import VAELabDecode
from .encode import VAELabEncode
from .latent_inspect import VAELabLatentInspect
from .latent_interpolate import VAELabLatentInterpolate
from .latent_noise import VAELabLatentNoise
from .latent_rescale import VAELabLatentRescale
from .latent_sample import VAELabLatentSample
from .load_vae import VAELabLoadVAE
from .reconstruct import VAELabReconstruct
from .reconstruction_diff import VAELabReconstructionDiff

NODES: list[type[io.ComfyNode]] = [
    VAELabEncode,
    VAELabDecode,
    VAELabLatentInterpolate,
    VAELabLatentNoise,
    VAELabReconstructionDiff,
    VAELabLatentRescale,
    VAELabReconstruct,
    VAELabLatentInspect,
    VAELabLatentSample,
    VAELabLoadVAE,
]


class VAELabExtension(ComfyExtension):
    """The extension that hands `NODES` to ComfyUI, in that order."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


def comfy_entrypoint() -> ComfyExtension:
    """Return the extension: the one function that ComfyUI calls in a pack."""
    return VAELabExtension()
