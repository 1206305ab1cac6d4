"""Seeded noise of unit variance, and the ways it is put into a latent.

B items, C latent channels, h, w latent cells, after a frame axis for video. Noise is drawn on the
processor in float32, whatever device and type the latent has, so a seed means the same everywhere.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .scaling import Scaling, apply_scaling, undo_scaling

Each = Callable[[Iterable[int]], Iterable[int]]


def unit_noise(
    kind: str,
    shape: Sequence[int],
    seed: int,
    indices: Sequence[int] | None = None,
    octave_gain: float = 1.0,
    each: Each = iter,
) -> Tensor:
    """Draw noise of mean 0 and variance 1: -> shape, float32, on the processor.

    Args:
        kind: "gaussian", "uniform" or "pyramid" (see each function).
        shape: [B, C, h, w] or [B, C, T, h, w].
        seed: 0 to 2**64 - 1, of a generator of its own.
        indices: which draw each item takes, B whole numbers from 0; draw i is the same whichever
            items stand beside it. None: gaussian noise in one draw for the whole batch, the other
            kinds as for 0, 1, 2, ...
        octave_gain: of the pyramid.
        each: wraps the loop over draws, to show progress or to stop it.

    Gaussian noise equals that of ComfyUI's samplers for float32 latents, with indices
    (`batch_index`) or without:
    https://github.com/Comfy-Org/ComfyUI/blob/v0.3.75/comfy/sample.py, prepare_noise.
    """
    if kind not in DRAWS:
        raise ValueError(f"Expected noise of a kind in {', '.join(DRAWS)}, got {kind!r}.")
    generator = torch.Generator("cpu").manual_seed(seed)
    if kind == "gaussian" and indices is None:
        return gaussian(shape, generator)
    wanted = range(shape[0]) if indices is None else _checked(indices, shape[0])
    draw = DRAWS[kind] if kind != "pyramid" else _pyramid_with(octave_gain)
    kept, chosen = {}, set(wanted)
    for index in each(range(max(wanted) + 1)):
        item = draw((1, *shape[1:]), generator)
        if index in chosen:
            kept[index] = item
    return torch.cat([kept[index] for index in wanted])


def gaussian(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw from N(0, 1), each value by itself: -> shape, float32."""
    return torch.randn(tuple(shape), generator=generator, device="cpu", dtype=torch.float32)


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw evenly from [-√3, √3), which has variance 1: -> shape, float32."""
    unit = torch.rand(tuple(shape), generator=generator, device="cpu", dtype=torch.float32)
    return (unit * 2 - 1) * math.sqrt(3)


def pyramid(shape: Sequence[int], generator: torch.Generator, octave_gain: float = 1.0) -> Tensor:
    """Draw gaussian noise with low frequencies: [..., h, w] of any rank -> shape, float32.

    Octave k is gaussian noise on a grid 2**k times coarser, enlarged linearly; its weight is
    octave_gain**k (0: gaussian noise; 1: all octaves alike, near 1/f; more: larger blotches).
    There are log2(shorter side) octaves. Linear enlarging damps the variance, differently from
    cell to cell; that is divided out, so each cell has variance 1 in expectation.
    After Whitaker (2023), "Multi-Resolution Noise for Diffusion Model Training",
    https://wandb.ai/johnowhitaker/multires_noise/reports/--VmlldzozNjYyOTU2.
    """
    *outer, height, width = shape
    count = max(1, int(math.log2(max(1, min(height, width)))))
    total = torch.zeros(tuple(shape), dtype=torch.float32)
    for octave in range(count):
        size = [math.ceil(side / 2**octave) for side in (height, width)]
        coarse = gaussian((*outer, *size), generator)
        rows, columns = _enlarging(size[0], height), _enlarging(size[1], width)
        total += octave_gain**octave * (rows @ coarse @ columns.T)
    return total / math.sqrt(sum(octave_gain ** (2 * octave) for octave in range(count)))


DRAWS = {"gaussian": gaussian, "uniform": uniform, "pyramid": pyramid}


def amplitudes(
    levels: Tensor, shape: Sequence[int], weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Lay out the noise's factor: S levels, latents [B, C, ...] -> [B * S, C or 1, ...], float64.

    Item by item, all levels of each: item 0 with levels 0..S-1, then item 1. Channel weights [C]
    and a mask [B, 1, ...] of the latent's size, 0 for untouched, multiply it.
    """
    ones = [1] * (len(shape) - 2)
    factor = levels.double().repeat(shape[0]).view(-1, 1, *ones)
    if weights is not None:
        factor = factor * weights.double().view(1, -1, *ones)
    if mask is not None:
        factor = factor * mask.double().cpu().repeat_interleave(len(levels), 0)
    return factor


def added(latent: Tensor, noise: Tensor, amplitude: Tensor) -> Tensor:
    """Add noise: latent + amplitude * noise, all [B, C, ...] -> the latent's shape and dtype.

    Where the amplitude is 0 the latent stays as it is, bit for bit.
    """
    factor = _like(amplitude, latent)
    return _kept(latent, latent.float() + factor * noise, factor)


def mixed(latent: Tensor, noise: Tensor, amplitude: Tensor, scaling: Scaling) -> Tensor:
    """Mix noise in so that variance 1 stays 1: √(1 - a²) z + a n -> the latent's shape and dtype.

    z is the model latent: the latent given, under `scaling`; the result is scaled back. With
    a = √t that is √(1 - t) z + √t n; at a timestep of a schedule, a is its noise_amplitudes.
    The amplitude a is in [-1, 1], per item, channel or cell; where it is 0 the latent stays as
    it is, bit for bit.
    """
    factor = _like(amplitude, latent)
    signal = _like((1 - amplitude.double().square()).sqrt(), latent)
    changed = signal * apply_scaling(latent.float(), scaling) + factor * noise
    return _kept(latent, undo_scaling(changed, scaling), factor)


def spread(latent: Tensor) -> Tensor:
    """Measure each item's standard deviation over all its values: [B, ...] -> [B, 1, ...], float32.

    Of the values themselves (divided by their number, not by one less).
    """
    dims = tuple(range(1, latent.ndim))
    return latent.float().std(dims, correction=0, keepdim=True)


def _kept(latent: Tensor, changed: Tensor, factor: Tensor) -> Tensor:
    return torch.where(factor == 0, latent, changed.to(latent.dtype))


def _like(amplitude: Tensor, latent: Tensor) -> Tensor:
    """Bring an amplitude to a latent's device in float32: what needs float64 is done by now."""
    return amplitude.float().to(latent.device)


def _checked(indices: Sequence[int], batch: int) -> list[int]:
    whole = [int(index) for index in indices]
    if len(whole) != batch or min(whole) < 0:
        raise ValueError(
            f"Expected {batch} noise indices (batch_index) from 0 up, one for each item, "
            f"got {str(whole)[:100]}."
        )
    return whole


def _pyramid_with(octave_gain: float) -> Callable[[Sequence[int], torch.Generator], Tensor]:
    return lambda shape, generator: pyramid(shape, generator, octave_gain)


def _enlarging(small: int, large: int) -> Tensor:
    """Linear enlarging as a matrix whose rows have length 1: [large, small]."""
    weights = F.interpolate(torch.eye(small).unsqueeze(0), size=large, mode="linear")[0].T
    return F.normalize(weights, dim=1)
