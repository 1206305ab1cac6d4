"""The textbook's VAE: its bound, its variants, what is measured of it, and every lesson."""

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributions import MultivariateNormal

from trainer.errors import UserError
from trainer.textbook import LESSONS, main
from trainer.textbook_vae import channel_counts, fitting
from trainer.textbook_vae.anomalies import auroc
from trainer.textbook_vae.channels import without
from trainer.textbook_vae.clusters import purity, purity_of
from trainer.textbook_vae.digits import PIXELS, Digits, DigitSets, open_digits
from trainer.textbook_vae.elbo import elbo_terms, gaussian_nats, least_nats, pixel_nats
from trainer.textbook_vae.network import MlpVae
from trainer.textbook_vae.pictures import mixed
from trainer.textbook_vae.settings import VARIANTS, Settings, every_variant
from trainer.textbook_vae.shapes import draw_shapes
from trainer.textbook_vae.shelf import Shelf
from trainer.textbook_vae.sizes import in_use
from trainer.vae.base import load_base

LEARNT = -285.0  # nats a digit: the bound that the short training below passes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


@pytest.fixture(scope="module")
def digits() -> DigitSets:
    return open_digits("sklearn:digits")


def short(variant: str = "vae", **changes) -> Settings:
    return Settings(variant=variant, **{"epochs": 15, "learning_rate": 3e-3} | changes)


# The bound


class LinearGaussian:
    """x = W z + b + s ε: its log likelihood and its posterior are known, in closed form.

    The columns of W are orthogonal, so that the posterior is diagonal, as an encoder's is.
    """

    def __init__(self) -> None:
        columns, _ = torch.linalg.qr(draw(6, 2).double())
        self.weight = columns * torch.tensor([1.5, 0.4]).double()
        self.shift = draw(6, seed=1).double()
        self.variance = 0.3
        self.x = draw(6, seed=2).double() * 1.5

    def log_likelihood(self) -> float:
        covariance = self.weight @ self.weight.T + self.variance * torch.eye(6).double()
        return float(MultivariateNormal(self.shift, covariance).log_prob(self.x))

    def posterior(self) -> tuple[Tensor, Tensor]:
        precision = 1 + self.weight.square().sum(0) / self.variance
        mean = self.weight.T @ (self.x - self.shift) / self.variance / precision
        return mean, 1 / precision

    def bound(self, mean: Tensor, logvar: Tensor, draws: int = 40_000) -> tuple[float, float]:
        """The mean of the product's own bound over draws, and its standard error."""

        def nats(latents: Tensor) -> Tensor:
            decoded = latents.double() @ self.weight.T + self.shift
            return gaussian_nats(decoded, self.x.expand(draws, 6), self.variance)

        moments = (some.float().expand(draws, 2) for some in (mean, logvar))
        elbo = elbo_terms(*moments, draw(draws, 2, seed=3), nats).elbo
        return float(elbo.mean()), float(elbo.std()) / math.sqrt(draws)


def test_with_the_true_posterior_the_bound_is_the_likelihood() -> None:
    model = LinearGaussian()
    mean, variance = model.posterior()
    found, error = model.bound(mean, variance.log())
    assert error < 0.02
    assert found == pytest.approx(model.log_likelihood(), abs=4 * error)


def test_with_another_posterior_it_falls_short_by_the_divergence() -> None:
    model = LinearGaussian()
    mean, variance = model.posterior()
    other_mean, other_variance = mean + 0.3, variance * 2
    found, error = model.bound(other_mean, other_variance.log())
    ratio = other_variance / variance
    missing = 0.5 * float(((mean - other_mean) ** 2 / variance + ratio - ratio.log() - 1).sum())
    assert missing > 20 * error
    assert found == pytest.approx(model.log_likelihood() - missing, abs=4 * error)


def test_nats_of_pixels_are_sums() -> None:
    logits, x = draw(3, PIXELS), draw(3, PIXELS, seed=1).sigmoid()
    p = logits.sigmoid()
    bce = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    torch.testing.assert_close(pixel_nats("bce", logits, x), bce)
    squared = (p - x).square().sum(1) + PIXELS / 2 * math.log(math.pi)
    torch.testing.assert_close(pixel_nats("mse", logits, x), squared)
    entropy = torch.special.entr(x) + torch.special.entr(1 - x)
    torch.testing.assert_close(least_nats("bce", x), entropy.sum(1))
    with pytest.raises(ValueError, match="bce, mse, got 'l1'"):
        pixel_nats("l1", logits, x)


# Training


def test_it_learns_and_a_random_decoder_fails_the_same_bound(digits) -> None:
    model = fitting.fit(short(), digits.train.pictures)
    held_out = digits.held_out.pictures
    assert fitting.measure(model, held_out, "bce").elbo > LEARNT
    model.decoder.load_state_dict(MlpVae(20, seed=1).decoder.state_dict())
    assert fitting.measure(model, held_out, "bce").elbo < LEARNT - 100


def test_equal_settings_give_equal_weights_and_no_global_draw(digits) -> None:
    before = torch.random.get_rng_state()
    few = digits.train.pictures[:100]
    settings = short(epochs=2)
    first, again, other = (
        fitting.fit(some, few).state_dict()
        for some in (settings, settings, dataclasses.replace(settings, seed=1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mean.weight"], other["mean.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def gradients(variant: str, digits: DigitSets, **changes) -> tuple[MlpVae, float]:
    """A fresh model with the gradient of one batch, and its loss."""
    settings = short(variant, **changes)
    model, clean = MlpVae(20), digits.train.pictures[:16]
    terms = fitting.score(model, clean, settings.plan, "bce", generator())
    loss = fitting.weighted(terms, settings.plan)
    loss.backward()
    return model, loss.item()


def test_a_plain_autoencoder_has_no_sigma_to_train(digits) -> None:
    model, _ = gradients("autoencoder", digits)
    assert model.mean.weight.grad.abs().sum() > 0
    assert model.logvar.weight.grad is None or model.logvar.weight.grad.abs().sum() == 0
    model, _ = gradients("sampled-autoencoder", digits)
    assert model.logvar.weight.grad.abs().sum() > 0


def test_kl_alone_leaves_the_decoder(digits) -> None:
    model, loss = gradients("kl-only", digits)
    assert all(weight.grad.abs().sum() == 0 for weight in model.decoder.parameters())
    mean, logvar = model.encode(digits.train.pictures[:16])
    kl = 0.5 * (mean**2 + logvar.exp() - logvar - 1).sum(1).mean()
    assert loss == pytest.approx(kl.item(), rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 4.0])
def test_beta_weighs_kl(beta: float, digits) -> None:
    (_, plain), (_, weighed) = (gradients("vae", digits, beta=b) for b in (1.0, beta))
    _, kl = gradients("kl-only", digits)
    # a difference of two losses of some 540 nats in float32
    assert weighed - plain == pytest.approx((beta - 1) * kl, abs=5e-4)


def test_denoising_is_scored_against_the_clean_digits(digits) -> None:
    clean, model = digits.train.pictures[:16], MlpVae(20)
    plan = VARIANTS["denoising"]
    found = fitting.score(model, clean, plan, "bce", generator()).rec
    seen = fitting.disturbed(clean, plan.noise_factor, generator())
    assert seen.min() >= 0 and seen.max() <= 1 and not torch.equal(seen, clean)
    expected = pixel_nats("bce", model.decode(model.encode(seen)[0]), clean)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, pixel_nats("bce", model.decode(model.encode(seen)[0]), seen))


# What is measured


def test_purity_counts_the_commonest_class_of_each_cluster() -> None:
    assert purity(np.array([0, 0, 0, 1, 1]), np.array([7, 7, 3, 1, 1])) == pytest.approx(0.8)
    assert purity(np.array([4] * 10), np.arange(10)) == pytest.approx(0.1)


def test_clusters_that_lie_apart_are_pure() -> None:
    classes = torch.arange(10).repeat(12)
    places = draw(10, 3) * 20
    assert purity_of(places[classes] + 0.1 * draw(120, 3), classes) == 1.0


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    normal, strange = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.5, 4.0])
    assert auroc(normal, strange) == pytest.approx(5 / 6)
    assert auroc(strange, normal) == pytest.approx(1 / 6)


def test_shapes_have_the_ink_of_the_digits_that_they_stand_beside(digits) -> None:
    some = digits.train.pictures[:64]
    (shapes, kinds), (again, _) = draw_shapes(some, 8), draw_shapes(some, 8)
    assert shapes.shape == some.shape and len(set(kinds)) == 8 and torch.equal(shapes, again)
    inks = shapes.mean(1), some.mean(1)
    assert (inks[0] - inks[1]).abs().mean() < 0.1 * inks[1].mean()
    assert 0.3 < auroc(*inks) < 0.7


def test_numbers_in_use_are_those_that_move() -> None:
    assert in_use(draw(200, 5) * torch.tensor([1.0, 0.0, 0.5, 0.01, 0.2])) == 3


def test_a_channel_is_set_to_zero_and_the_latent_stays() -> None:
    latent = draw(1, 4, 2, 2)
    found, before = without(latent, 2), latent.clone()
    assert (found[:, 2] == 0).all() and torch.equal(found[:, [0, 1, 3]], latent[:, [0, 1, 3]])
    assert torch.equal(latent, before)


def test_a_walk_begins_and_ends_at_its_ends() -> None:
    ends = draw(2, 5)
    way = mixed(ends, 5)
    torch.testing.assert_close(way[[0, 2, 4]], torch.stack([ends[0], ends.mean(0), ends[1]]))


# Digits


def test_digits_are_split_once_and_every_class_in_proportion(digits) -> None:
    train, held_out, side = digits
    assert (len(train.pictures), len(held_out.pictures), side) == (1437, 360, 8)
    assert train.pictures.shape[1] == PIXELS and train.pictures.dtype == torch.float32
    assert train.pictures.min() == 0 and train.pictures.max() == 1
    counts = held_out.classes.bincount()
    assert len(counts) == 10 and counts.min() >= 34
    rows = {picture.numpy().tobytes() for picture in train.pictures}
    assert not rows & {picture.numpy().tobytes() for picture in held_out.pictures}


def test_a_data_set_as_mnist_is_laid_out_opens(tmp_path, digits) -> None:
    folder = tmp_path / "digits-of-ours"
    folder.mkdir()
    pictures = (digits.train.pictures[:6] * 255).round().byte().view(-1, 28, 28).numpy()
    for split in ("train", "test"):
        table = {"image": [{"bytes": png(p)} for p in pictures], "label": list(range(6))}
        pq.write_table(pa.table(table), folder / f"{split}.parquet")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    found = open_digits(str(folder))
    assert torch.equal(found.train.classes, torch.arange(6)) and found.native_side == 28
    torch.testing.assert_close(
        found.held_out.pictures, digits.train.pictures[:6], atol=0.6 / 255, rtol=0
    )


def png(levels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


CARD = """---
dataset_info:
  features:
    - name: image
      dtype: image
    - name: label
      dtype: int64
configs:
  - config_name: default
    data_files:
      - split: train
        path: train.parquet
      - split: test
        path: test.parquet
---
"""


def test_what_is_no_data_set_is_told_in_a_sentence(tmp_path, capsys) -> None:
    with pytest.raises(UserError, match="ylecun/mnist"):
        open_digits(str(tmp_path / "nothing"))
    argv = ["walk", "--data", str(tmp_path / "nothing"), "--output", str(tmp_path)]
    assert main(argv) == 1
    assert "\n" not in capsys.readouterr().err.strip()


# Lessons


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """Models of one epoch, shared by the lessons."""
    return tmp_path_factory.mktemp("textbook")


MANY_MODELS = {"maps", "sizes"}  # left to the slow tier
OF_DIGITS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in MANY_MODELS else [])
    for name in LESSONS
    if not name.startswith("channel")
]


@pytest.mark.parametrize("lesson", OF_DIGITS)
def test_every_lesson_runs_and_draws_what_it_says(lesson: str, output, capsys) -> None:
    assert main([lesson, "--epochs", "1", "--output", str(output)]) == 0
    said = capsys.readouterr().out.splitlines()
    for path in (line.removeprefix("wrote ") for line in said if line.startswith("wrote ")):
        with Image.open(path) as picture:
            picture.load()
    assert said


@pytest.mark.slow
def test_vaes_of_more_channels_are_trained_once_and_measured(tmp_path, capfd) -> None:
    argv = ["channel-counts", "--minutes", "0.02", "--output", str(tmp_path)]
    assert main(argv) == 0
    first = capfd.readouterr().out.splitlines()
    found = [line for line in first if line.endswith(" dB")]
    assert [line.split()[0] for line in found] == ["3", "4", "8"]
    with Image.open(tmp_path / "channel-counts.png") as picture:
        assert picture.mode == "RGB"
    for count in (3, 4, 8):
        run = tmp_path / "models" / f"channels-{count}-0.02-minutes"
        vae = load_base(str(run / "export" / "vae.safetensors")).vae
        assert vae.config.latent_channels == count
    assert main(argv) == 0
    again = capfd.readouterr().out.splitlines()
    assert again == [line for line in first if not line.startswith("training")]


@pytest.mark.slow
def test_a_training_that_fails_is_told_in_a_sentence(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setitem(channel_counts.OPTIONS, "--batch-size", 0)
    assert main(["channel-counts", "--output", str(tmp_path)]) == 1
    said = capfd.readouterr().err
    assert "--batch-size" in said and "channels-3-3-minutes ended with 2" in said


def test_a_kept_model_is_taken_for_equal_settings_alone(tmp_path, digits) -> None:
    said: list[str] = []

    def model(settings: Settings) -> MlpVae:
        shelf = Shelf(tmp_path, settings, said.append)
        shelf.digits = digits._replace(train=Digits(*(part[:64] for part in digits.train)))
        return shelf.model()

    first, again = model(short(epochs=1)), model(short(epochs=1))
    assert sum("training" in line for line in said) == 1
    kept = again.state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in first.state_dict().items())
    model(short(epochs=2))
    assert sum("training" in line for line in said) == 2


def test_every_variant_is_compared_once() -> None:
    names = [settings.name for settings in every_variant(Settings())]
    assert len(set(names)) == len(names) == 7 and {"vae", "vae-beta4", "denoising"} <= set(names)


@pytest.mark.parametrize(
    "argv", [["walks"], ["walk", "--beta", "-1"], ["walk", "--variant", "kl-only", "--beta", "2"]]
)
def test_a_wrong_command_line_ends_with_2(argv: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
