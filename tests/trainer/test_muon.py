"""Muon, against torch's own for matrices and torch's AdamW for the rest."""

import pytest
import torch
from torch import nn

from trainer.training.muon import Muon, is_hidden, orthogonal

SETTINGS = {"lr": 1e-2, "betas": (0.8, 0.95), "weight_decay": 0.1}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def follow(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int = 4) -> torch.Tensor:
    for step in range(steps):
        weight.grad = draw(*weight.shape, seed=step + 1)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_matrices_go_as_by_torchs_own_muon(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(draw(*shape)) for _ in range(2))
    follow(Muon([ours], **SETTINGS), ours)
    other = torch.optim.Muon(
        [theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw", momentum=0.95
    )
    follow(other, theirs)
    moved = (theirs - draw(*shape)).norm()
    assert (ours - theirs).norm() < 0.05 * moved  # torch's computes in bfloat16
    assert moved > 0.01


@pytest.mark.parametrize("shape", [(64,), (3, 64, 3, 3), (64, 4, 3, 3), (64, 8)])
def test_biases_and_both_ends_go_as_by_adamw(shape: tuple[int, ...]) -> None:
    ours, theirs = (nn.Parameter(draw(*shape)) for _ in range(2))
    follow(Muon([ours], **SETTINGS), ours)
    follow(torch.optim.AdamW([theirs], **SETTINGS), theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert not is_hidden(ours)


def test_a_convolution_is_the_matrix_of_its_patches_in_any_memory_format() -> None:
    flat, conv = nn.Parameter(draw(32, 20 * 9)), nn.Parameter(draw(32, 20 * 9).view(32, 20, 3, 3))
    last = nn.Parameter(conv.detach().to(memory_format=torch.channels_last))
    optimizer = Muon([flat, conv, last], **SETTINGS)
    for step in range(3):
        flat.grad = draw(32, 180, seed=step)
        conv.grad = flat.grad.view(32, 20, 3, 3).clone()
        last.grad = conv.grad.to(memory_format=torch.channels_last)
        optimizer.step()
    torch.testing.assert_close(conv.detach().flatten(1), flat.detach())
    torch.testing.assert_close(last.detach(), conv.detach())
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_singular_values_come_near_one_and_nothing_stays_nothing() -> None:
    found = torch.linalg.svdvals(orthogonal(draw(24, 60) @ torch.diag(torch.linspace(1, 9, 60))))
    assert found.min() > 0.6 and found.max() < 1.3
    assert orthogonal(torch.zeros(20, 20)).abs().max() == 0


def test_its_state_comes_back_from_a_file(tmp_path) -> None:
    def make() -> tuple[Muon, list[nn.Parameter]]:
        weights = [nn.Parameter(draw(20, 30)), nn.Parameter(draw(30))]
        return Muon(weights, **SETTINGS), weights

    def take(optimizer: Muon, weights: list[nn.Parameter], step: int) -> None:
        for weight in weights:
            weight.grad = draw(*weight.shape, seed=step)
        optimizer.step()

    first, weights = make()
    take(first, weights, 1)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, others = make()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for weight, other in zip(weights, others, strict=True):
        other.data.copy_(weight.data)
    take(first, weights, 2)
    take(second, others, 2)
    assert all(torch.equal(*pair) for pair in zip(weights, others, strict=True))
