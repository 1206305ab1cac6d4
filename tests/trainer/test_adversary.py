"""The discriminator and what it does to a step: who gets which gradient, how much, and when."""

import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor, nn

from tests.conftest import TINY
from tests.trainer.runs import forget_processes
from tests.trainer.test_memory import make
from trainer.judge.perceptual import encoder_features
from trainer.training import adversary as adversaries
from trainer.training.adversary import LARGEST_SCALE, Adversary, balance, steps_alone
from trainer.training.discriminator import PatchDiscriminator, hinge, parameter_count
from trainer.training.losses import TrainStep
from trainer.training.run import choose_trained
from trainer.vae.fused import keep_activations


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(count: int = 2, channels: int = 3) -> Tensor:
    return draw(count, channels, 32, 32).clamp(-1, 1)


@pytest.fixture
def alone() -> Accelerator:
    """One process on the CPU."""
    forget_processes()
    return Accelerator(cpu=True)


def at_work(scale: float = 0.0, channels: int = 3, **options) -> Adversary:
    """An adversary whose judgement counts, by a scale as if measured before."""
    adversary = Adversary(make(gan_weight=0.5, **options), PatchDiscriminator(channels, 0))
    adversary.scale.fill_(scale)
    adversary.prepare(10_000)
    assert adversary.learns and adversary.judges
    return adversary


def step_on(vae: nn.Module, adversary: Adversary | None, how: str = "eager") -> TrainStep:
    choose_trained(vae.train(), make())
    keep_activations(vae, how)
    perceptual = encoder_features(vae, "cpu")
    weights = {"rec_weight": 1.0, "lpips_weight": 0.1, "kl_weight": 0.0}
    return TrainStep(
        vae, perceptual, "mse", **weights, train_encoder=False, hf_weight=0.2, adversary=adversary
    )


def gradients(vae: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}


def stepped(vae: nn.Module, adversary: Adversary | None, how: str = "eager") -> dict[str, Tensor]:
    """Forward and backward of one batch; return the VAE's gradients."""
    vae.zero_grad()
    step_on(vae, adversary, how)(pixels(), draw(2, 4, 16, 16))["loss"].backward()
    return gradients(vae)


def flat(tensors) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


# The discriminator


@pytest.mark.parametrize("side, patches", [(24, 1), (32, 2), (256, 30)])
def test_patches_are_judged(side: int, patches: int) -> None:
    discriminator = PatchDiscriminator(3, 0)
    assert discriminator(torch.zeros(2, 3, side, side)).shape == (2, 1, patches, patches)


def test_a_patch_is_70_pixels_and_a_judgement_is_its_own() -> None:
    discriminator = PatchDiscriminator(1, 0)
    picture = draw(1, 1, 256, 256).requires_grad_()
    discriminator(picture)[0, 0, 15, 15].backward()
    reached = picture.grad[0, 0].nonzero()
    assert (reached.max(0).values - reached.min(0).values + 1).tolist() == [70, 70]
    two = draw(2, 1, 32, 32)
    together, apart = discriminator(two), torch.cat([discriminator(one[None]) for one in two])
    torch.testing.assert_close(together, apart)


def test_each_layer_has_spectral_norm_1_which_follows_the_weights() -> None:
    discriminator = PatchDiscriminator(3, 0)

    def largest() -> list[float]:
        weights = [layer.weight.flatten(1) for layer in discriminator.layers[::2]]
        return [torch.linalg.matrix_norm(weight, ord=2).item() for weight in weights]

    assert largest() == pytest.approx([1.0] * 5, rel=0.05)
    with torch.no_grad():
        for layer in discriminator.layers[::2]:
            layer.parametrizations.weight.original.mul_(3).add_(0.1)
    assert max(largest()) > 2
    for _ in range(10):
        discriminator.refresh()
    assert largest() == pytest.approx([1.0] * 5, rel=0.05)


def test_looking_changes_nothing_and_building_draws_nothing() -> None:
    before = torch.get_rng_state()
    discriminator, again = PatchDiscriminator(3, 0), PatchDiscriminator(3, 0)
    assert torch.equal(before, torch.get_rng_state())
    state = copy.deepcopy(discriminator.state_dict())
    discriminator(pixels())
    for other in (again.state_dict(), discriminator.state_dict()):
        assert all(torch.equal(state[name], other[name]) for name in state)
    assert not torch.equal(state["layers.0.bias"], state["layers.0.parametrizations.weight.0._u"])
    different = PatchDiscriminator(3, 1).state_dict()
    assert any(not torch.equal(state[name], different[name]) for name in state)


def test_it_is_as_large_as_counted() -> None:
    # 4 x 4 kernels from 3 to 64, 128, 256, 512 and 1 channels, each with biases
    expected = sum(16 * a * b + b for a, b in [(3, 64), (64, 128), (128, 256), (256, 512)])
    assert parameter_count(3) == expected + 16 * 512 + 1
    assert parameter_count(1) == parameter_count(3) - 2 * 16 * 64


def test_hinge_is_1_where_nothing_is_known_and_0_where_all_is() -> None:
    zero = torch.zeros(2, 1, 2, 2)
    assert hinge(zero, zero).tolist() == [1, 1]
    assert hinge(zero + 1, zero - 1).tolist() == [0, 0] == hinge(zero + 9, zero - 9).tolist()
    assert hinge(zero - 1, zero + 0.5).tolist() == [1.75, 1.75]


# Who gets which gradient


@pytest.mark.parametrize("how", ["eager", "fused", "checkpoint"])
def test_the_generator_gets_no_gradient_from_the_discriminators_step(tiny_vae, alone, how) -> None:
    without = stepped(tiny_vae, None, how)
    adversary = at_work(scale=0.0)
    beside = stepped(tiny_vae, adversary, how)
    adversary.learn(alone, 1e-3)
    after = gradients(tiny_vae)
    for name, gradient in without.items():
        assert torch.equal(gradient, beside[name]) and torch.equal(gradient, after[name]), name
    assert without.keys() == beside.keys()
    assert flat(p.grad for p in adversary.parameters).abs().max() > 0


@pytest.mark.parametrize("how", ["eager", "fused"])
def test_the_generators_gradient_is_that_of_both_terms(tiny_vae, how) -> None:
    """Against autograd through a frozen copy of the discriminator, all in one graph."""
    x, noise, scale = pixels(), draw(2, 4, 16, 16), 0.7
    adversary = at_work(scale)
    frozen = copy.deepcopy(adversary.discriminator).requires_grad_(False)
    found = stepped(tiny_vae, adversary, how)
    without = stepped(tiny_vae, None)
    tiny_vae.zero_grad()
    posterior = tiny_vae.encode(x).latent_dist
    output = tiny_vae.decode(posterior.mean + posterior.std * noise).sample
    term = -frozen(output).mean()
    term.backward()
    alone = gradients(tiny_vae)
    for name in alone:
        expected = without[name] + 0.5 * scale * alone[name]
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-7)
    scalars = step_on(tiny_vae, at_work(scale))(x, noise)
    torch.testing.assert_close(scalars["gan"], term.detach())
    parts = scalars["rec"] + 0.1 * scalars["distance"] + 0.2 * scalars["hf"]
    torch.testing.assert_close(scalars["loss"], parts + 0.5 * scale * scalars["gan"])
    assert scalars["gan_scale"].item() == pytest.approx(scale)


def test_the_discriminators_gradient_is_that_of_its_hinge_loss_alone(tiny_vae) -> None:
    x, noise = pixels(), draw(2, 4, 16, 16)
    adversary = at_work(scale=5.0)
    scalars = step_on(tiny_vae, adversary)(x, noise)
    scalars["loss"].backward()
    posterior = tiny_vae.encode(x).latent_dist
    output = tiny_vae.decode(posterior.mean + posterior.std * noise).sample.detach()
    oracle = copy.deepcopy(adversary.discriminator).requires_grad_()
    oracle.zero_grad()
    loss = F.relu(1 - oracle(x)).mean() / 2 + F.relu(1 + oracle(output)).mean() / 2
    loss.backward()
    torch.testing.assert_close(scalars["disc"], loss.detach())
    for mine, other in zip(adversary.parameters, oracle.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-8)


def test_pictures_are_looked_at_a_few_at_a_time(tiny_vae, monkeypatch) -> None:
    at_once, in_turn = at_work(1.0), at_work(1.0)
    whole = stepped(tiny_vae, at_once)
    monkeypatch.setattr(adversaries, "PIXELS_AT_ONCE", 32 * 32)
    parted = stepped(tiny_vae, in_turn)
    for name in whole:
        torch.testing.assert_close(whole[name], parted[name], rtol=1e-4, atol=1e-7)
    for a, b in zip(at_once.parameters, in_turn.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-8)


def test_it_judges_in_float32_whatever_the_run_computes_in() -> None:
    output, x = draw(2, 3, 32, 32, seed=1).requires_grad_(), pixels()
    rest = (output - x).square().mean()
    plain, within = at_work(1.0), at_work(1.0)
    term, _ = plain.judge(output, x, rest)
    with torch.autocast("cpu", torch.bfloat16):
        other, _ = within.judge(output, x, rest)
    assert torch.equal(term, other) and other.dtype == torch.float32
    for a, b in zip(plain.parameters, within.parameters, strict=True):
        assert torch.equal(a.grad, b.grad)


def test_vaes_of_grey_pictures_have_one_too() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(**TINY, in_channels=1, out_channels=1)
    step = TrainStep(
        vae, None, "mse", 1.0, 0.0, 0.0, train_encoder=False, adversary=at_work(1.0, channels=1)
    )
    scalars = step(pixels(channels=1), draw(2, 4, 16, 16))
    scalars["loss"].backward()
    assert scalars["gan"].isfinite() and vae.decoder.conv_out.weight.grad.abs().max() > 0


# How much it counts


def linear(weight: list[float]) -> Adversary:
    """An adversary whose judge is linear: the mean over places of weight · pixel."""
    adversary = at_work()
    judge = nn.Conv2d(3, 1, 1)
    judge.refresh = lambda: None
    with torch.no_grad():
        judge.weight.copy_(torch.tensor(weight).view(1, 3, 1, 1))
    adversary.discriminator, adversary.parameters = judge, list(judge.parameters())
    adversary.optimizer = torch.optim.AdamW(adversary.parameters, lr=0.0, fused=True)
    return adversary


# The gradient of -D's mean over 2 x 32 x 32 places is -weight / (2 · 32²) in each of them, and |w|
# is 5. That of `rest` is `slope` in all of three times as many.
@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("slope", [1e-4, 1e-3, 1.0])
def test_the_scale_is_the_ratio_of_both_gradients_norms(alone, slope: float, batches: int) -> None:
    adversary = linear([3.0, 0.0, 4.0])
    for _ in range(batches):
        output = draw(2, 3, 32, 32).requires_grad_()
        adversary.judge(output, pixels(), slope * output.sum())
    adversary.learn(alone, 0.0)
    by_hand = slope * (3 * 2 * 32**2) ** 0.5 / (5 / (2 * 32**2) ** 0.5)
    assert adversary.scale.item() == pytest.approx(min(by_hand, LARGEST_SCALE))
    assert (by_hand > LARGEST_SCALE) == (slope == 1.0)


def test_the_scale_is_bounded_and_never_undefined() -> None:
    cases = {(9.0, 4.0): 1.5, (0.0, 0.0): 0.0, (1.0, 0.0): LARGEST_SCALE, (0.0, 1.0): 0.0}
    for squares, expected in cases.items():
        assert balance(*map(torch.tensor, squares)).item() == pytest.approx(expected)


def test_the_scale_is_averaged_over_steps_and_used_by_those_after(alone) -> None:
    adversary, used = linear([3.0, 0.0, 4.0]), []
    unit = (3 * 2 * 32**2) ** 0.5 / (5 / (2 * 32**2) ** 0.5)
    for ratio in (2.0, 4.0, 9.0, float("nan"), *[1.0] * 8):
        adversary.prepare(10_000)
        output = draw(2, 3, 32, 32).requires_grad_()
        _, scalars = adversary.judge(output, pixels(), ratio / unit * output.sum())
        adversary.learn(alone, 0.0)
        used.append(scalars["gan_scale"].item())
    # the plain mean of those before; what is not a number counts as the average itself
    assert used[:6] == pytest.approx([0, 2, 3, 5, 5, (4 * 5 + 1) / 5])
    # from the tenth on, an average that forgets
    assert used[11] == pytest.approx(0.9 * used[10] + 0.1)


def test_batches_add_up_to_one(tiny_vae, alone) -> None:
    """Two batches of 2 leave the discriminator and the scale that one of 4 leaves."""
    x, noise = pixels(4), draw(4, 4, 16, 16)
    whole, parts = at_work(1.0), at_work(1.0)
    step_on(tiny_vae, whole)(x, noise)
    for half in (slice(0, 2), slice(2, 4)):
        step_on(tiny_vae, parts)(x[half], noise[half])
    for adversary in (whole, parts):
        adversary.learn(alone, 1e-3)
    assert parts.scale.item() == pytest.approx(whole.scale.item(), rel=1e-5)
    for a, b in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-8)


# When


def test_it_first_learns_alone_then_judges() -> None:
    config = make(gan_weight=1.0, gan_start=100, max_steps=400)
    assert steps_alone(config) == 30
    assert steps_alone(make(gan_weight=1.0)) == 50
    adversary, seen = Adversary(config, PatchDiscriminator(3, 0)), {}
    for step in (0, 99, 100, 129, 130, 399):
        adversary.prepare(step)
        seen[step] = (adversary.learns, adversary.judges)
    assert seen[0] == seen[99] == (False, False)
    assert seen[100] == seen[129] == (True, False)
    assert seen[130] == seen[399] == (True, True)


def test_before_its_start_a_step_does_not_look(tiny_vae, alone) -> None:
    adversary = Adversary(make(gan_weight=1.0, gan_start=5), PatchDiscriminator(3, 0))
    looks = []
    adversary.discriminator.register_forward_hook(lambda *_: looks.append(1))
    weights = flat(adversary.parameters).clone()
    without = stepped(tiny_vae, None)
    beside = stepped(tiny_vae, adversary)
    adversary.learn(alone, 1e-3)
    assert not looks and torch.equal(weights, flat(adversary.parameters))
    assert all(torch.equal(without[name], beside[name]) for name in without)
    adversary.prepare(5)
    stepped(tiny_vae, adversary)
    adversary.learn(alone, 1e-3)
    assert len(looks) == 2 and not torch.equal(weights, flat(adversary.parameters))


def test_what_an_unfinished_step_left_is_dropped(tiny_vae, alone) -> None:
    one, other = at_work(1.0), at_work(1.0)
    stepped(tiny_vae, one)  # and it ended there: the loss was not finite, say
    for adversary in (one, other):
        adversary.prepare(10_000)
        stepped(tiny_vae, adversary)
        adversary.learn(alone, 1e-3)
    assert torch.equal(flat(one.parameters), flat(other.parameters))
    assert torch.equal(one.scale, other.scale)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_of_its_own_that_is_not_finite_is_skipped_and_counted(
    tiny_vae, alone, broken: str
) -> None:
    adversary = at_work(1.0)
    stepped(tiny_vae, adversary)
    adversary.learn(alone, 1e-3)
    weights, state = flat(adversary.parameters).clone(), copy.deepcopy(adversary.state())
    adversary.prepare(10_000)
    if broken == "loss":
        output = draw(2, 3, 32, 32).requires_grad_()
        adversary.judge(output, pixels() * float("inf"), output.square().mean())
    else:
        stepped(tiny_vae, adversary)
        adversary.parameters[0].grad[0] = float("inf")
    adversary.learn(alone, 1e-3)
    assert torch.equal(weights, flat(adversary.parameters))
    for before, after in zip(
        state["optimizer"]["state"].values(), adversary.state()["optimizer"]["state"].values(),
        strict=True,
    ):  # fmt: skip
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert adversary.skipped.item() == 1 and adversary.scale.isfinite()
    adversary.prepare(10_000)
    stepped(tiny_vae, adversary)
    adversary.learn(alone, 1e-3)
    assert adversary.skipped.item() == 1
    assert not torch.equal(weights, flat(adversary.parameters))
    assert flat(adversary.parameters).isfinite().all()


def test_its_rate_follows_the_runs_and_its_gradient_is_clipped(tiny_vae, alone) -> None:
    adversary = at_work(1.0)
    stepped(tiny_vae, adversary)
    for parameter in adversary.parameters:
        parameter.grad *= 1e6
    adversary.learn(alone, 2.5e-4)
    assert adversary.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert flat(p.grad for p in adversary.parameters).norm().item() == pytest.approx(1, rel=1e-3)
