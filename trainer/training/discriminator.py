"""PatchGAN: a discriminator that judges each patch of a picture by itself.

Isola, Zhu, Zhou, Efros (2017), https://arxiv.org/abs/1611.07004, of 3 layers and 64 channels, which
sees 70 x 70 pixels at a time. In place of norms every convolution is divided by its largest
singular value (Miyato, Kataoka, Koyama, Yoshida, 2018, https://arxiv.org/abs/1802.05957), as
SN-PatchGAN does (Yu et al., 2019, https://arxiv.org/abs/1806.03589). That bounds the slope of the
judgement without the second derivatives that R1 takes, at next to no cost; and no picture's
judgement depends on the rest of its batch or crop.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

CHANNELS = (64, 128, 256, 512)
STRIDES = (2, 2, 2, 1)
INITIAL_DEVIATION = 0.02  # of the weights, as Isola et al. draw them; biases begin at 0
SLOPE = 0.2  # of the leaky ReLU below 0


class PatchDiscriminator(nn.Module):
    """Judge pixels [B, C, H, W] -> scores [B, 1, h, w], high for originals, one for each patch.

    In eval mode, as it is kept, a forward changes nothing: the singular vectors, which are
    buffers, come after the weights by `refresh` alone.
    """

    def __init__(self, image_channels: int, seed: int) -> None:
        """Draw weights from `seed`; no global random state changes."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.layers = nn.Sequential(*_layers(image_channels))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Judge pixels [B, C, H, W] in [-1, 1], H and W at least 24."""
        return self.layers(pixels)

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the singular vectors nearer to the weights as they are now, by one iteration."""
        self.train()
        for convolution in self.layers[::2]:
            _ = convolution.weight  # reading it in train mode is what iterates
        self.eval()


def parameter_count(image_channels: int) -> int:
    """Count the weights and biases of a discriminator without data."""
    with torch.device("meta"):
        planned = PatchDiscriminator(image_channels, 0)
    return sum(parameter.numel() for parameter in planned.parameters())


def _layers(image_channels: int) -> list[nn.Module]:
    layers, came = [], image_channels
    for channels, stride in zip(CHANNELS, STRIDES, strict=True):
        layers += [_convolution(came, channels, stride), nn.LeakyReLU(SLOPE)]
        came = channels
    return [*layers, _convolution(came, 1, 1)]


def _convolution(came: int, channels: int, stride: int) -> nn.Module:
    layer = nn.Conv2d(came, channels, kernel_size=4, stride=stride, padding=1)
    nn.init.normal_(layer.weight, std=INITIAL_DEVIATION)
    nn.init.zeros_(layer.bias)
    return spectral_norm(layer)


def hinge(original: Tensor, reconstructed: Tensor) -> Tensor:
    """Give the discriminator's loss of scores [B, 1, h, w] each -> [B], 1 where it knows nothing.

    The mean of max(0, 1 - score) over originals and of max(0, 1 + score) over reconstructions:
    Lim & Ye (2017), https://arxiv.org/abs/1705.02894.
    """
    wrong = F.relu(1 - original).flatten(1).mean(1) + F.relu(1 + reconstructed).flatten(1).mean(1)
    return wrong / 2
