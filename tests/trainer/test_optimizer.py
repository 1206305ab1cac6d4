"""The optimizer: fused, and the same as AdamW written out."""

import pytest
import torch

from trainer.options.config import TrainConfig
from trainer.training.optimizer import make_optimizer


def make(**changes) -> TrainConfig:
    return TrainConfig(**({"vae": "x", "data": "y", "output": "z"} | changes))


def test_three_steps_are_adamw_written_out() -> None:
    config = make(learning_rate=1e-2, weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.9)
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 50))
    optimizer = make_optimizer(config, [weight])
    expected, first, second = weight.detach().double(), 0.0, 0.0
    for step in (1, 2, 3):
        gradient = torch.linspace(0.5, -2, 50) * step
        weight.grad = gradient.clone()
        optimizer.step()
        g = gradient.double()
        first, second = 0.8 * first + 0.2 * g, 0.9 * second + 0.1 * g * g
        change = (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-8)
        expected = expected * (1 - 1e-2 * 0.1) - 1e-2 * change
    assert torch.allclose(weight.detach().double(), expected, atol=1e-6)


@pytest.mark.parametrize(("precision", "fused"), [("no", True), ("bf16", True), ("fp16", None)])
def test_it_is_fused_but_where_the_scaler_must_see_skipped_steps(precision, fused) -> None:
    optimizer = make_optimizer(make(mixed_precision=precision), [torch.nn.Parameter(torch.ones(3))])
    assert optimizer.defaults["fused"] == fused
