"""The step: what is compared, what gets gradient, how each term is reduced."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from trainer.judge.perceptual import Perceptual, encoder_features, load_perceptual
from trainer.training.losses import (
    REC_LOSSES,
    TrainStep,
    bernoulli_nats,
    describe_reductions,
    pixel_loss,
)
from vae_core.checkpoint import write_safetensors
from vae_core.lpips_weights import weight_shapes


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(count: int = 2, side: int = 20, seed: int = 0) -> Tensor:
    return draw(count, 3, side, side, seed=seed).clamp(-1, 1)


@pytest.fixture(scope="module")
def lpips(tmp_path_factory: pytest.TempPathFactory) -> Perceptual:
    """LPIPS with random weights, from a file, as a run gets it."""
    generator = torch.Generator().manual_seed(0)
    shapes = weight_shapes("squeeze").items()
    state = {n: 0.1 * torch.rand(shape, generator=generator) - 0.04 for n, shape in shapes}
    state |= {name: tensor.abs() for name, tensor in state.items() if name.startswith("lin")}
    path = tmp_path_factory.mktemp("lpips") / "lpips_squeeze.safetensors"
    write_safetensors(path, state, {})
    return load_perceptual("squeeze", str(path), False, nn.Identity(), "cpu")


@pytest.fixture
def taesd() -> AutoencoderTiny:
    """A real AutoencoderTiny of ratio 2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )


def step(vae: nn.Module, perceptual: Perceptual | None = None, **changes) -> TrainStep:
    options = {
        "rec_loss": "mse",
        "rec_weight": 1.0,
        "lpips_weight": 0.1 if perceptual else 0.0,
        "kl_weight": 1e-2,
        "train_encoder": False,
    }
    return TrainStep(vae, perceptual, **options | changes)


def gradients(module: nn.Module) -> float:
    """How much gradient a module's parameters have got, 0 for none."""
    found = [p.grad.abs().sum().item() for p in module.parameters() if p.grad is not None]
    return sum(found)


# Pixel losses


@pytest.mark.parametrize("kind, function", [("l1", F.l1_loss), ("mse", F.mse_loss)])
def test_means_agree_with_torch(kind: str, function) -> None:
    x, y = draw(3, 3, 8, 8), draw(3, 3, 8, 8, seed=1)
    expected = torch.stack([function(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(pixel_loss(kind, x, y), expected)


def test_charbonnier_lies_between() -> None:
    """Near zero it is a parabola with a finite gradient, far away it is L1."""
    y = torch.zeros(1, 3, 4, 4)
    assert pixel_loss("charbonnier", y, y).item() == pytest.approx(1e-3)
    assert pixel_loss("charbonnier", y + 3e-3, y).item() == pytest.approx(10**0.5 * 1e-3)
    assert pixel_loss("charbonnier", y + 0.5, y).item() == pytest.approx(0.5, rel=1e-4)
    x = y.clone().requires_grad_()
    pixel_loss("charbonnier", x, y).sum().backward()
    assert (x.grad == 0).all()


def test_bce_inside_is_binary_cross_entropy_summed() -> None:
    generator = torch.Generator().manual_seed(0)
    p, t = (torch.rand(2, 3, 8, 8, generator=generator) for _ in range(2))
    p = p.clamp(0.002, 0.998)
    expected = F.binary_cross_entropy(p, t, reduction="none").sum((1, 2, 3))
    found = pixel_loss("bce", p * 2 - 1, t * 2 - 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("target", [-1.0, -0.998, -0.5, 0.0, 0.99, 0.998, 1.0])
@pytest.mark.parametrize("outside", [-20.0, -1.5, -1.001, 1.001, 1.5, 20.0])
def test_bce_outside_pulls_back(target: float, outside: float) -> None:
    x = torch.tensor([outside], requires_grad=True)
    bernoulli_nats(x, torch.tensor([target])).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.sign().item() == (1 if outside > 0 else -1)
    assert x.grad.abs().item() >= 0.5


@pytest.mark.parametrize("target", [-1.0, -0.3, 0.0, 1.0])
def test_bce_is_least_at_the_target_and_has_no_step(target: float) -> None:
    x = torch.linspace(-1.2, 1.2, 4801)
    nats = bernoulli_nats(x, torch.full_like(x, target))
    assert x[nats.argmin()].item() == pytest.approx(target, abs=2.1e-3)
    assert nats.isfinite().all() and nats.min() >= 0
    # a step in value would jump by more than the steepest slope allows
    assert nats.diff().abs().max() < 0.5 * 1001 * 5e-4 * 1.01


@pytest.mark.parametrize("kind", REC_LOSSES)
def test_a_batch_is_its_items(kind: str) -> None:
    x, y = 1.2 * draw(3, 3, 8, 8), pixels(3, 8)
    items = [pixel_loss(kind, x[i : i + 1], y[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(pixel_loss(kind, x, y), torch.cat(items))


@pytest.mark.parametrize("kind", REC_LOSSES)
def test_losses_are_float32_under_autocast(kind: str) -> None:
    x, y = pixels(1, 8, seed=1).bfloat16(), pixels(1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = pixel_loss(kind, x, y)
    assert found.dtype == torch.float32
    assert torch.equal(found, pixel_loss(kind, x.float(), y))


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="l1, mse, charbonnier, bce, got 'huber'"):
        pixel_loss("huber", pixels(), pixels())


# The step


def test_lpips_sends_gradient_to_the_decoders_last_layer(tiny_vae, lpips) -> None:
    module = step(tiny_vae, lpips, rec_weight=0.0, lpips_weight=1.0)
    scalars = module(pixels(), draw(2, 4, 10, 10))
    scalars["loss"].backward()
    assert tiny_vae.decoder.conv_out.weight.grad.abs().max() > 0
    assert scalars["loss"].item() == pytest.approx(scalars["lpips"].item())


def test_following_lpips_lowers_it(tiny_vae, lpips) -> None:
    module = step(tiny_vae, lpips, rec_weight=0.0, lpips_weight=1.0)
    optimizer = torch.optim.Adam(tiny_vae.decoder.parameters(), lr=1e-3)
    values = []
    for _ in range(5):
        scalars = module(pixels(), draw(2, 4, 10, 10))
        optimizer.zero_grad()
        scalars["loss"].backward()
        optimizer.step()
        values.append(scalars["lpips"].item())
    assert values[-1] < values[0]


def test_lpips_sees_predictions_beyond_white(tiny_vae, lpips) -> None:
    """A clamp before LPIPS would leave a decoder that is too bright without gradient."""
    with torch.no_grad():
        tiny_vae.decoder.conv_out.bias.fill_(5.0)
    module = step(tiny_vae, lpips, rec_weight=0.0, lpips_weight=1.0)
    module(pixels(), draw(2, 4, 10, 10))["loss"].backward()
    assert tiny_vae.decoder.conv_out.bias.grad.abs().min() > 0


def test_frozen_encoder_gets_nothing_and_kl_is_a_number(tiny_vae, lpips) -> None:
    scalars = step(tiny_vae, lpips)(pixels(), draw(2, 4, 10, 10))
    assert not scalars["kl"].requires_grad
    scalars["loss"].backward()
    assert gradients(tiny_vae.encoder) == gradients(tiny_vae.quant_conv) == 0
    assert gradients(tiny_vae.decoder) > 0 and gradients(tiny_vae.post_quant_conv) > 0
    expected = scalars["rec"] + 0.1 * scalars["lpips"]
    torch.testing.assert_close(scalars["loss"], expected)


def test_trained_encoder_gets_gradient_from_kl(tiny_vae) -> None:
    module = step(tiny_vae, rec_weight=0.0, kl_weight=1.0, train_encoder=True)
    scalars = module(pixels(), draw(2, 4, 10, 10))
    scalars["loss"].backward()
    assert gradients(tiny_vae.encoder) > 0 and gradients(tiny_vae.quant_conv) > 0
    assert gradients(tiny_vae.decoder) == 0  # weighted 0: all of it came from KL
    assert scalars["loss"].item() == scalars["kl"].item()


def test_trained_encoder_gets_gradient_through_the_sample(tiny_vae) -> None:
    step(tiny_vae, kl_weight=0.0, train_encoder=True)(pixels(), draw(2, 4, 10, 10))[
        "loss"
    ].backward()
    assert gradients(tiny_vae.encoder) > 0


@pytest.mark.parametrize("train_encoder", [False, True])
def test_values_agree_with_diffusers(tiny_vae, train_encoder: bool) -> None:
    x, noise = pixels(), draw(2, 4, 10, 10)
    scalars = step(tiny_vae, train_encoder=train_encoder)(x, noise)
    posterior = tiny_vae.encode(x).latent_dist
    output = tiny_vae.decode(posterior.mean + posterior.std * noise).sample
    torch.testing.assert_close(scalars["rec"], F.mse_loss(output, x))
    torch.testing.assert_close(scalars["kl"], posterior.kl().mean())
    torch.testing.assert_close(scalars["kl_per_element"], posterior.kl().mean() / (4 * 10 * 10))
    weighted = scalars["rec"] + train_encoder * 1e-2 * scalars["kl"]
    torch.testing.assert_close(scalars["loss"], weighted)


def test_the_posterior_is_sampled_by_the_given_noise(tiny_vae) -> None:
    module, noise = step(tiny_vae), draw(2, 4, 10, 10)
    first, again = module(pixels(), noise)["loss"], module(pixels(), noise)["loss"]
    other = module(pixels(), draw(2, 4, 10, 10, seed=1))["loss"]
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_mode_takes_no_noise(tiny_vae) -> None:
    module, x = step(tiny_vae, samples=False), pixels()
    losses = [module(x, draw(2, 4, 10, 10, seed=seed))["rec"] for seed in range(2)]
    assert torch.equal(*losses)
    output = tiny_vae.decode(tiny_vae.encode(x).latent_dist.mode()).sample
    torch.testing.assert_close(losses[0], F.mse_loss(output, x))


def test_denoising_sees_noise_and_is_compared_with_the_clean_picture(tiny_vae) -> None:
    module = step(tiny_vae, samples=False, noise_factor=0.7)
    x, added = pixels(), draw(2, 3, 20, 20, seed=5)
    found = module(x, draw(2, 4, 10, 10), pixel_noise=added)["rec"]
    seen = torch.clamp(x + 0.7 * added, -1, 1)
    output = tiny_vae.decode(tiny_vae.encode(seen).latent_dist.mode()).sample
    torch.testing.assert_close(found, F.mse_loss(output, x))
    assert not torch.isclose(found, F.mse_loss(output, seen))
    with pytest.raises(ValueError, match="Expected noise for the pixels"):
        module(x, draw(2, 4, 10, 10))


def test_without_a_factor_noise_on_pixels_does_nothing(tiny_vae) -> None:
    module, x, noise = step(tiny_vae), pixels(), draw(2, 4, 10, 10)
    added = draw(2, 3, 20, 20)
    assert torch.equal(module(x, noise)["loss"], module(x, noise, pixel_noise=added)["loss"])


def test_no_global_randomness(tiny_vae, lpips) -> None:
    before = torch.random.get_rng_state()
    step(tiny_vae, lpips, train_encoder=True)(pixels(), draw(2, 4, 10, 10))["loss"].backward()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_bce_with_kl_weight_1_is_the_negative_elbo(tiny_vae) -> None:
    with torch.no_grad():
        tiny_vae.decoder.conv_out.weight.mul_(0.1)  # keeps probabilities off the margins
    x, noise = (draw(2, 3, 20, 20) > 0).float() * 2 - 1, draw(2, 4, 10, 10)
    module = step(tiny_vae, rec_loss="bce", kl_weight=1.0, train_encoder=True)
    loss = module(x, noise)["loss"]
    posterior = tiny_vae.encode(x).latent_dist
    q = Normal(posterior.mean, posterior.std)
    output = tiny_vae.decode(posterior.mean + posterior.std * noise).sample
    assert output.abs().max() < 0.99
    nats = Bernoulli((output + 1) / 2).log_prob((x + 1) / 2).sum((1, 2, 3))
    elbo = nats - kl_divergence(q, Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(loss, -elbo.mean())


def test_the_loss_of_a_batch_is_the_mean_of_its_pictures(tiny_vae, lpips) -> None:
    """So that 4 x 1 and 2 x 2 accumulation take the same step."""
    module = step(tiny_vae, lpips, train_encoder=True)
    x, noise = pixels(4), draw(4, 4, 10, 10)
    whole = module(x, noise)
    single = [module(x[i : i + 1], noise[i : i + 1]) for i in range(4)]
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in single]).mean())


def test_bf16_computes_the_vae_and_scores_in_float32(tiny_vae, lpips) -> None:
    seen: list[torch.dtype] = []

    def spy(x: Tensor, y: Tensor) -> Tensor:
        seen.extend([x.dtype, y.dtype, lpips.distance(x, y).dtype])
        return lpips.distance(x, y)

    module = step(tiny_vae, dataclasses.replace(lpips, distance=spy), train_encoder=True)
    x, noise = pixels(), draw(2, 4, 10, 10)
    exact = module(x, noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny_vae.decoder(draw(1, 4, 4, 4)).dtype == torch.bfloat16
        scalars = module(x, noise)
    assert set(seen) == {torch.float32}
    for name, value in scalars.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.0)
    scalars["loss"].backward()
    assert tiny_vae.decoder.conv_out.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_checkpointing_changes_no_number(kind: str, tiny_vae, taesd) -> None:
    vae = tiny_vae if kind == "kl" else taesd
    module = step(vae, train_encoder=True)
    x, noise = pixels(), draw(2, 4, 10, 10)
    found = []
    for _ in range(2):
        vae.zero_grad()
        loss = module(x, noise)["loss"]
        loss.backward()
        found.append((loss.item(), gradients(vae.encoder), gradients(vae.decoder)))
        vae.enable_gradient_checkpointing()
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_autoencoder_tiny_has_neither_noise_nor_kl(taesd, lpips) -> None:
    module, x = step(taesd, lpips), pixels()
    scalars = module(x, draw(2, 4, 10, 10))
    assert set(scalars) == {"loss", "rec", "lpips"}
    assert torch.equal(scalars["loss"], module(x, draw(2, 4, 10, 10, seed=1))["loss"])
    expected = F.mse_loss(taesd.decode(taesd.encode(x).latents).sample, x)
    torch.testing.assert_close(scalars["rec"], expected)
    scalars["loss"].backward()
    assert gradients(taesd.encoder) == 0 and gradients(taesd.decoder) > 0


def test_the_fallback_is_not_called_lpips(tiny_vae) -> None:
    module = step(tiny_vae, encoder_features(tiny_vae, "cpu"), rec_weight=0.0, lpips_weight=0.5)
    scalars = module(pixels(), draw(2, 4, 10, 10))
    assert set(scalars) == {"loss", "rec", "distance", "kl", "kl_per_element"}
    torch.testing.assert_close(scalars["loss"], 0.5 * scalars["distance"])
    scalars["loss"].backward()
    assert gradients(tiny_vae.decoder.conv_out) > 0
    assert gradients(tiny_vae.encoder) == 0


def test_at_weight_0_lpips_is_not_computed(tiny_vae, lpips) -> None:
    refusing = dataclasses.replace(lpips, distance=lambda x, y: pytest.fail("computed"))
    scalars = step(tiny_vae, refusing, lpips_weight=0.0)(pixels(), draw(2, 4, 10, 10))
    assert "lpips" not in scalars
    torch.testing.assert_close(scalars["loss"], scalars["rec"])


def test_a_weight_without_a_distance_is_refused(tiny_vae) -> None:
    with pytest.raises(ValueError, match="perceptual distance"):
        step(tiny_vae, None, lpips_weight=0.1)


@pytest.mark.parametrize("fallback", [False, True])
def test_the_state_is_the_vaes_alone(tiny_vae, lpips, fallback: bool) -> None:
    module = step(tiny_vae, encoder_features(tiny_vae, "cpu") if fallback else lpips)
    assert set(module.state_dict()) == {f"vae.{name}" for name in tiny_vae.state_dict()}
    assert len(list(module.parameters())) == len(list(tiny_vae.parameters()))
    assert not list(module.buffers())


# What is said


def test_reductions_are_said() -> None:
    said = describe_reductions("mse", 1.0, 0.1, 1e-6, False, "lpips-vgg").splitlines()
    assert said == [
        "rec: mse, mean over C, H, W, mean over the batch; weight 1",
        "lpips-vgg: mean over space, float32, mean over the batch; weight 0.1",
        "kl: summed over C, h, w, mean over the batch; reported only: "
        "a frozen encoder gives it no gradient",
    ]


def test_the_elbo_is_named_only_where_it_is_one() -> None:
    assert "negative ELBO" in describe_reductions("bce", 1.0, 0.0, 1.0, True)
    assert "summed over C, H, W, in nats" in describe_reductions("bce", 1.0, 0.0, 1.0, True)
    others = (
        ("mse", 1.0, 0.0, 1.0, True),
        ("bce", 1.0, 0.1, 1.0, True),
        ("bce", 1.0, 0.0, 0.5, True),
        ("bce", 1.0, 0.0, 1.0, False),
    )
    for other in others:
        assert "ELBO" not in describe_reductions(*other)


def test_what_is_absent_is_said_to_be() -> None:
    said = describe_reductions("l1", 1.0, 0.0, 1e-6, True, has_posterior=False)
    assert "lpips: not in the loss (weight 0)" in said
    assert "this VAE has no posterior" in said
    assert "weight 1e-06" in describe_reductions("l1", 1.0, 0.0, 1e-6, True)


# With real weights


def test_taesd_learns_by_real_lpips(assets) -> None:
    vae = AutoencoderTiny.from_pretrained(assets / "models" / "taesd")
    file = str(assets / "models" / "lpips_squeeze.safetensors")
    perceptual = load_perceptual("squeeze", file, False, vae, "cpu")
    module = step(vae, perceptual, rec_weight=0.0, lpips_weight=1.0)
    module(pixels(1, 64), draw(1, 4, 8, 8))["loss"].backward()
    assert gradients(vae.decoder.layers[-1]) > 0
    assert gradients(vae.encoder) == 0
