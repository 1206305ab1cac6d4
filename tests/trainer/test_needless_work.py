"""No gradient is computed that nobody needs, read off what a backward pass asks of convolutions."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.test_memory import make
from trainer.judge.perceptual import encoder_features
from trainer.training.losses import TrainStep
from trainer.training.run import choose_trained
from trainer.vae.fused import keep_activations


class AskedOfConvolutions(TorchDispatchMode):
    """Counts the (input, weight) gradients that backward passes of convolutions are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[bool, bool]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.found[tuple(args[-1][:2])] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("how", ["eager", "fused"])
def test_only_what_trains_gets_a_gradient(tiny_vae, how):
    perceptual = encoder_features(tiny_vae, "cpu")
    choose_trained(tiny_vae.train(), make())
    keep_activations(tiny_vae, how)
    step = TrainStep(tiny_vae, perceptual, "mse", 1.0, 0.1, 1e-6, train_encoder=False)
    with AskedOfConvolutions() as asked:
        step(torch.rand(2, 3, 32, 32), torch.randn(2, 4, 16, 16))["loss"].backward()
    convolutions = [m for m in tiny_vae.decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    levels = [m for m in tiny_vae.encoder.down_blocks.modules() if isinstance(m, torch.nn.Conv2d)]
    assert asked.found == {
        (False, True): 1,  # post_quant_conv: the latent takes none
        (True, True): len(convolutions),
        (True, False): len(levels) + 1,  # the loss: its weights take none
    }
