"""Latent Inspect: a latent in numbers and pictures."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..vae_core.drawn.latent_charts import histogram_chart, table_chart
from ..vae_core.drawn.latent_pictures import batched, channel_tiles
from ..vae_core.inspect.latent_report import Findings, as_json, as_text
from ..vae_core.inspect.reading import SPACES, read
from .parts.inspect_colours import painter_of, scaling_and_factors
from .parts.inspect_findings import MOST_DRAWN, findings, map_of, ratio_of, tile_title, view_of
from .shared.latent_dict import Latent, checked_number, read_mark, read_samples
from .shared.loops import progress
from .shared.scaling_choice import FROM_MODEL, OF_FAMILY, model_socket
from .shared.schema import node_body, node_schema, result, socket

NAME = "Latent Inspect"
AUTO = "auto (from the latent's mark)"
SHARED, OWN = "one for all channels", "one for each channel"
SHOWN = 4  # items whose pictures are shown in the node itself


class VAELabLatentInspect(io.ComfyNode):
    """The node: statistics, histogram, channels, colours, map of a batch, sizes, KL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="VAELabLatentInspect",
            display_name=NAME,
            description="Shows what is in a latent: mean, std, min, max, values that are not "
            "finite, histogram, every channel, an approximation in colour, a map of the batch, "
            "and what it saves against pixels.",
            search_aliases=["latent statistics", "latent histogram", "latent preview", "latent pca"]
            + ["latent channels", "latent to rgb", "compression ratio", "debug latent"],
            is_output_node=True,
            inputs=_inputs(),
            outputs=_outputs(),
        )

    @classmethod
    @node_body(NAME)
    def execute(
        cls,
        samples: Latent,
        scaling: str,
        space: str,
        percent_outside: float,
        colour_range: str,
        frame: int,
        vae: Any | None = None,
        model: Any | None = None,
    ) -> io.NodeOutput:
        latent, mark = read_samples(samples), read_mark(samples)
        clip = checked_number(percent_outside, "percent_outside", 0, 49)
        is_shared = _is_shared(colour_range)
        chosen, factors = scaling_and_factors(None if scaling == AUTO else scaling, model)
        reading = read(latent, mark, chosen)
        view = view_of(reading, space, frame)
        ratio = None if vae is None else ratio_of(vae)
        painter = painter_of(reading, view.flat, factors, frame, ratio, view.drawn)
        tiles, colours = [], []
        for index in progress(range(view.drawn)):
            title = tile_title(index, view, clip)
            tiles.append(channel_tiles(view.flat[index], clip, is_shared, title))
            colours.append(painter.paint(index))
        found = findings(samples, reading, view, clip, vae, painter.words)
        histogram = batched([histogram_chart(view.values, clip, view.words)])
        places = batched([map_of(view.values, view.words)])
        return _output(cls, (histogram, batched(tiles), torch.stack(colours), places), found)


def _is_shared(colour_range: str) -> bool:
    if colour_range not in (SHARED, OWN):
        raise ValueError(f"expected a colour_range of the list, got {str(colour_range)[:80]!r}.")
    return colour_range == SHARED


def _output(cls: type, pictures: tuple[Tensor, ...], found: Findings) -> io.NodeOutput:
    """Hand out pictures, figures and words; the table of sizes is shown in the node alone."""
    whole, text = found.whole, as_text(found)
    table = batched([table_chart(found.table, found.ratio)])
    shown = [ui.PreviewImage(images[:SHOWN], cls=cls) for images in (*pictures, table)]
    entries = [entry for preview in shown for entry in preview.as_dict()["images"]]
    return io.NodeOutput(
        *pictures,
        *(whole.mean, whole.std, whole.minimum, whole.maximum),
        whole.non_finite,
        found.divergence.mean,
        text,
        as_json(found),
        ui={"images": entries, "text": (text,)},
    )


def _inputs() -> list[io.Input]:
    """Describe what the node takes."""
    return [
        socket(
            io.Latent,
            "samples",
            tooltip="Latents [B, C, h, w], or [B, C, T, h, w] of a video, raw or "
            "scaled and marked.",
        ),
        *_readings(),
        *_drawings(),
        socket(
            io.Vae,
            "vae",
            optional=True,
            tooltip="VAE that tells how many pixels a cell stands for. Without one, no ratio is "
            "assumed.",
        ),
        model_socket(),
    ]


def _readings() -> list[io.Input]:
    """Describe the widgets that say what the latent is, and what is shown of it."""
    return [
        socket(
            io.Combo,
            "scaling",
            options=[AUTO, *OF_FAMILY, FROM_MODEL],
            default=AUTO,
            tooltip="Whose latent this is: the family tells how a raw latent becomes the model's, "
            "and its colours. A marked latent is undone first and never scaled twice. Shapes "
            "cannot tell: auto knows a marked latent only.",
        ),
        socket(
            io.Combo,
            "space",
            options=list(SPACES),
            default=SPACES[0],
            tooltip="The space of all figures, histogram, channels and map: the latent as given, "
            "raw as VAE Encode returns it, or (raw - shift) x scale as the model sees it.",
        ),
    ]


def _drawings() -> list[io.Input]:
    """Describe the widgets of the pictures."""
    return [
        socket(
            io.Float,
            "percent_outside",
            default=1.0,
            min=0.0,
            max=49.0,
            step=0.1,
            tooltip="Percent of values beyond the colour range at each end, 0 to 49. At 1 the "
            "range goes from the 1st to the 99th percentile.",
        ),
        socket(
            io.Combo,
            "colour_range",
            options=[SHARED, OWN],
            default=SHARED,
            tooltip="One range for all channels, even around 0 (blue below, light at 0, red "
            "above), or one for each channel, written over it (dark to light).",
        ),
        socket(
            io.Int,
            "frame",
            default=-1,
            min=-1,
            max=100000,
            tooltip="Frame of a video latent that is drawn, from 0; -1 is the middle one. Figures "
            "cover all frames. Pictures have no frames.",
        ),
    ]


def _outputs() -> list[io.Output]:
    """Describe what the node gives."""
    unit = "in units of the chosen space, over all finite values of the batch"
    return [
        result(
            io.Image,
            "histogram",
            "Densities of the values per channel beside N(0, 1); one picture in 0..1.",
        ),
        result(
            io.Image,
            "channels",
            "Every channel in colours, with a legend; one picture in 0..1 for each item, "
            f"at most {MOST_DRAWN}.",
        ),
        result(
            io.Image,
            "rgb",
            f"Approximate colours, one picture in 0..1 for each item, at most {MOST_DRAWN}; a cell "
            "is as many pixels as the VAE's ratio. Not a decode.",
        ),
        result(
            io.Image, "map", "Batch items by their two principal components; one picture in 0..1."
        ),
        result(io.Float, "mean", f"Mean, {unit}."),
        result(io.Float, "std", f"Standard deviation (divided by the count), {unit}."),
        result(io.Float, "min", f"Smallest value, {unit}."),
        result(io.Float, "max", f"Largest value, {unit}."),
        result(io.Int, "non_finite", "Number of NaN and infinite values; 0 is well."),
        result(
            io.Float,
            "kl",
            "KL of the posterior from N(0, I) in nats, mean over the batch; NaN without the σ "
            "that VAE Encode (Scaled) keeps.",
        ),
        result(io.String, "report", "All of it in words, with warnings and the table of sizes."),
        result(io.String, "data", "All of it as JSON: per batch, item and channel."),
    ]
