"""How Reconstruction Diff describes itself: inputs, outputs and their words."""

from __future__ import annotations

from comfy_api.latest import io

from ...vae_core.compare import diff, figure_text
from ..shared.schema import node_schema, result, socket
from . import lpips_file

NAME = "Reconstruction Diff"
SLIDER = getattr(io, "ImageCompare", None)  # core's compare slider, since 0.9.0

DESCRIPTION = (
    "Compares a reconstruction with its original: difference pictures, a perceptual heat map and "
    "figures, whole and inside a mask, for each pair of a batch. Both are rounded to 8 bits "
    "first, as a saved file is."
)


def diff_schema() -> io.Schema:
    """Describe the node."""
    return node_schema(
        node_id="VAELabReconstructionDiff",
        display_name=NAME,
        description=DESCRIPTION,
        search_aliases=[
            "compare images",
            "image difference",
            "psnr",
            "ssim",
            "lpips",
            "heatmap",
            "metrics",
        ],  # fmt: skip
        is_output_node=True,
        inputs=[*_images(), *_choices(), *_extras()],
        outputs=[*_pictures(), *_numbers(), *_texts()],
    )


def _images() -> list[io.Input]:
    return [
        socket(io.Image, "original", tooltip="What it should look like: [B, H, W, 3] in 0..1."),
        socket(
            io.Image,
            "reconstruction",
            tooltip="What came out: [B, H, W, 3] in 0..1, as many as originals, or one of either. "
            "Smaller ones, as VAE Encode crops them, are compared on the same centre crop; "
            "nothing is ever stretched.",
        ),
    ]


def _choices() -> list[io.Input]:
    return [
        socket(
            io.Float, "gain", default=8.0, min=0.1, max=1000.0, step=0.5,
            tooltip="How many times the difference is strengthened in the pictures, 0.1 to 1000. "
            "The figures do not depend on it.",
        ),
        socket(
            io.Combo, "heat_map", options=list(diff.KINDS), default="auto",
            tooltip="auto: LPIPS where its file is there, else SSIM. lpips: learned perceptual "
            "distance, 0 to 0.5. ssim: 1 - SSIM, 0 to 1. colour: distance in OKLab, slightly "
            "blurred, 0 to 0.1. absolute: mean error of the channels, 0 to 1 / gain.",
        ),
        socket(
            io.Combo, "lpips_net", options=list(lpips_file.CHOICES), default=lpips_file.AUTO,
            tooltip="Network of LPIPS, read from ComfyUI's models/vae_lab/lpips_NET.safetensors; "
            "nothing is downloaded. auto: alex, vgg or squeeze, the first whose file is there.",
        ),
        socket(
            io.Combo, "list_figure", options=list(figure_text.COLUMNS), default="psnr",
            tooltip="The figure that the output per_image lists, one for each pair.",
        ),
        socket(
            io.Float, "heat_range", default=0.0, min=0.0, max=100.0, step=0.01, advanced=True,
            tooltip="Error that has the heat map's brightest colour, 0 to 100, in the unit of its "
            "legend; 0 takes the usual one, the same in every run.",
        ),
    ]  # fmt: skip


def _extras() -> list[io.Input]:
    mask = [
        socket(
            io.Mask,
            "mask",
            optional=True,
            tooltip="A region, such as a face: [B, H, W], above 0.5 is inside. It is measured "
            "apart, framed and shown enlarged. As large as the original.",
        )
    ]
    if SLIDER is None:
        return mask
    tooltip = "Slide between the original and the reconstruction."
    return [*mask, socket(SLIDER, "compare_view", optional=True, tooltip=tooltip)]


def _pictures() -> list[io.Output]:
    return [
        result(
            io.Image,
            "strip",
            "Original, reconstruction, strengthened difference and heat map side by side, whole; "
            "with a mask its box and the region enlarged. Over 1536 pixels they are shown smaller.",
        ),
        result(io.Image, "absolute", "|reconstruction - original| x gain, per channel, in 0..1."),
        result(
            io.Image,
            "signed",
            "0.5 + (reconstruction - original) x gain / 2, per channel, in 0..1: grey is equal.",
        ),
        result(io.Image, "heat_map_image", "The heat map at its own size, with its legend."),
    ]


def _numbers() -> list[io.Output]:
    return [
        result(io.Float, "psnr", "Peak signal-to-noise ratio in dB, mean; inf for equal pictures."),
        result(io.Float, "ssim", "Structural similarity, mean, up to 1; NaN under 11 pixels."),
        result(io.Float, "lpips", "Perceptual distance, mean, from 0 up; NaN without its file."),
        result(io.Float, "mse", "Mean squared error, 0 to 1."),
        result(io.Float, "mae", "Mean absolute error, 0 to 1."),
        result(io.Float, "maximum", "Largest absolute error of the batch, 0 to 1."),
        result(
            io.Float,
            "colour_shift",
            "List of three: mean of reconstruction - original in red, green, blue, -1 to 1.",
            is_output_list=True,
        ),
        result(
            io.Float,
            "per_image",
            "List: the chosen figure of each pair; NaN where it cannot be had.",
            is_output_list=True,
        ),
    ]


def _texts() -> list[io.Output]:
    return [
        result(io.String, "csv", "Table: a row per pair and one of the batch; empty: no number."),
        result(io.String, "json", "The same with crop, notes and boxes; null: no number."),
    ]
