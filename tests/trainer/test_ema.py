"""The averaged weights against the formula by hand."""

import pytest
import torch
from torch import nn

from trainer.training.ema import Ema


def parameters(value: float) -> dict[str, nn.Parameter]:
    return {"w": nn.Parameter(torch.full((3,), value))}


def test_average_follows_its_formula():
    trained = parameters(0.0)
    ema, expected = Ema(trained, 0.99), 0.0
    for n in range(1, 200):
        trained["w"].data.fill_(float(n))
        ema.update(trained)
        rate = min(0.99, (1 + n) / (10 + n))
        expected = rate * expected + (1 - rate) * n
    assert ema.updates == 199
    assert ema.shadow["w"].tolist() == pytest.approx([expected] * 3, rel=1e-5)


def test_decay_zero_is_the_newest_weight():
    trained = parameters(0.0)
    ema = Ema(trained, 0.0)
    trained["w"].data.fill_(7.0)
    ema.update(trained)
    assert ema.shadow["w"].tolist() == [7.0] * 3


def test_a_shadow_of_half_weights_still_moves_by_little():
    trained = {"w": nn.Parameter(torch.full((3,), 0.02))}
    ema = Ema(trained, 0.9999)
    ema.updates = 1_000_000
    trained["w"].data.add_(1e-3)
    for _ in range(10):
        ema.update(trained)
    assert ema.shadow["w"].dtype == torch.float32
    assert ema.shadow["w"][0].item() == pytest.approx(0.02 + 1e-3 * (1 - 0.9999**10), abs=2e-8)


def test_applied_puts_back_what_was_there():
    trained = parameters(1.0)
    ema = Ema(trained, 0.5)
    trained["w"].data.fill_(5.0)
    with ema.applied(trained):
        assert trained["w"].tolist() == [1.0] * 3
    assert trained["w"].tolist() == [5.0] * 3
