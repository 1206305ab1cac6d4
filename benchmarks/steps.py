"""Training steps to measure: the SD decoder with random weights, trained as the trainer does it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer.judge.at_once import gradient_at_once
from trainer.judge.perceptual import Perceptual
from trainer.options.config import TrainConfig
from trainer.training.ema import Ema
from trainer.training.losses import TrainStep
from trainer.training.memory import PRECISIONS
from trainer.training.optimizer import make_optimizer
from trainer.training.run import arrange_blocks
from trainer.vae.autoencoder import Posterior, build, latent_channels, ratio, trainable_names
from vae_core.architecture import architecture_from_config
from vae_core.lpips import SMALLEST_SIDE, lpips, prepare
from vae_core.lpips_weights import weight_shapes

SD = architecture_from_config(
    {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
    }
)
Step = Callable[[], Tensor]


def settings(side: int, batch: int, precision: str, way: str = "fused") -> TrainConfig:
    """Give the options of a step: MSE + 0.1 LPIPS-vgg, AdamW, averaged weights."""
    return TrainConfig(
        vae="sd",
        data="photos",
        output="run",
        resolution=side,
        batch_size=batch,
        mixed_precision=precision,
        activation_memory=way,
    )


def random_perceptual(net: str, device: torch.device | str) -> Perceptual:
    """Make LPIPS of random weights, which take as long as any."""
    ready = prepare(random_weights(net), device)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return lpips(ready, net, x, y)

    return Perceptual(f"lpips-{net}", True, SMALLEST_SIDE[net], gradient_at_once(distance))


def random_weights(net: str) -> dict[str, Tensor]:
    """Draw weights of an LPIPS net, most of them positive so that features stay alive."""
    generator = torch.Generator().manual_seed(0)
    shapes = weight_shapes(net).items()
    return {name: (torch.rand(shape, generator=generator) - 0.45) / 10 for name, shape in shapes}


def trained_decoder(device: torch.device | str = "cpu") -> nn.Module:
    """Build the SD layout, its decoder ready to train."""
    vae = build(SD).train().requires_grad_(False).to(device)
    for name in trainable_names(vae, "decoder"):
        vae.get_parameter(name).requires_grad_()
    return vae


def cached_step(config: TrainConfig, device: torch.device | str = "cpu") -> Step:
    """Make one whole step from cached latents: decode, loss, backward, AdamW, average."""
    vae = trained_decoder(device)
    vae.encoder = vae.quant_conv = None  # where latents are cached, they are not on the device
    arrange_blocks(vae, config, device)
    return whole_step(config, vae, posterior_of(config, vae, device))


def whole_step(config: TrainConfig, vae: nn.Module, posterior: Posterior | None) -> Step:
    """Make one whole step of a VAE; without cached moments it encodes its pixels first."""
    device = next(vae.parameters()).device
    weights = {"rec_weight": 1.0, "lpips_weight": 0.1, "kl_weight": 0.0}
    loss = TrainStep(vae, random_perceptual("vgg", device), "mse", **weights, train_encoder=False)
    trained = {name: p for name, p in vae.named_parameters() if p.requires_grad}
    optimizer, average = make_optimizer(config, trained.values()), Ema(trained, config.ema_decay)
    side = config.resolution
    pixels = draw(config.batch_size, 3, side, side).clamp(-1, 1).to(device)
    noise = draw(config.batch_size, latent_channels(vae), side // 8, side // 8).to(device)

    def step() -> Tensor:
        precision = PRECISIONS.get(config.mixed_precision)
        with torch.autocast(device.type, precision, enabled=precision is not None):
            found = loss(pixels, noise, posterior)["loss"]
        found.backward()
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(trained)
        return found.detach()

    return step


def posterior_of(config: TrainConfig, vae: nn.Module, device: torch.device | str) -> Posterior:
    """Draw moments as a cache keeps them, in float16."""
    cells = config.resolution // ratio(vae)
    mean = draw(config.batch_size, latent_channels(vae), cells, cells).to(device, torch.float16)
    return Posterior(mean, mean - 8)


def draw(*shape: int) -> Tensor:
    """Draw from N(0, I), the same numbers each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
