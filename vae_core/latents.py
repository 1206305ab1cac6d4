"""The posterior that an encoder describes: its divergence from N(0, I), and draws from it.

B batch, C latent channels, h, w latent cells. The posterior of an image is a diagonal gaussian with
mean μ and standard deviation σ; `logvar` is log σ² everywhere.
"""

from torch import Tensor


def kl_per_item(mean: Tensor, logvar: Tensor) -> Tensor:
    """Measure each posterior's KL divergence from N(0, I): [B, C, h, w] twice -> [B], in nats.

    ½ Σ(μ² + σ² - log σ² - 1), summed over C, h, w as in the LDM code
    (Kingma and Welling 2014, appendix B). Its gradient is zero at μ = 0, σ = 1 only.
    """
    _check_same(mean, logvar, "mean", "logvar")
    mean, logvar = mean.float(), logvar.float()
    # expm1 keeps σ² - 1 exact near σ = 1, where the difference of two near equals would be noise
    return 0.5 * (mean.square() + logvar.expm1() - logvar).flatten(1).sum(1)


def sample(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Draw from posteriors: μ + σ * noise, all [B, C, h, w]; noise is drawn from N(0, I).

    The caller draws the noise, with a generator of its own, so that a draw can be repeated.
    """
    _check_same(mean, logvar, "mean", "logvar")
    _check_same(mean, noise, "mean", "noise")
    return mean + (0.5 * logvar).exp() * noise


def _check_same(x: Tensor, y: Tensor, x_name: str, y_name: str) -> None:
    if x.shape != y.shape:
        raise ValueError(
            f"Expected {x_name} and {y_name} of one shape, got {list(x.shape)} and {list(y.shape)}."
        )
