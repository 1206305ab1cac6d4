"""LPIPS against torchmetrics' own on torchvision's architectures, and the published figure.

The backbones' trained weights cannot be shipped, so the oracle runs on random ones; its linear
heads are the real ones. torchvision itself is not installed: its three `features` are spelled out
below as its documentation gives them, independently of the product's tables.
"""

import importlib

import pytest
import torch
from torch import nn

from vae_core import lpips as product
from vae_core.checkpoint import read_tensors
from vae_core.lpips_weights import weight_shapes


class Fire(nn.Module):
    def __init__(self, wide: int, narrow: int, half: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(wide, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, half, 1)
        self.expand3x3 = nn.Conv2d(narrow, half, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def vgg16() -> nn.Sequential:
    layers, width = [], 3
    for out in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()] if out else [nn.MaxPool2d(2)]
        width = out or width
    return nn.Sequential(*layers)


def alexnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip


def squeezenet1_1() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
    )  # fmt: skip


FEATURES = {"vgg16": vgg16, "alexnet": alexnet, "squeezenet1_1": squeezenet1_1}
NETS = ("vgg", "alex", "squeeze")


def random_features(name: str) -> nn.Sequential:
    """A backbone whose features stay alive through all layers: He's weights, small biases."""
    features = FEATURES[name]()
    generator = torch.Generator().manual_seed(0)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            nn.init.uniform_(module.bias, 0, 0.1, generator=generator)
    return features


@pytest.fixture(scope="module")
def oracles() -> dict[str, nn.Module]:
    """torchmetrics' LPIPS per net, around random backbones and the real heads."""
    theirs = importlib.import_module("torchmetrics.functional.image.lpips")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "_get_tv_model_features", lambda net, _=False: random_features(net))
        return {net: theirs._LPIPS(net=net, pnet_rand=True) for net in NETS}


def torchvision_state(net: str, oracle: nn.Module) -> dict[str, torch.Tensor]:
    """The oracle's weights in the layout of a weights file."""
    state = {}
    for name, tensor in oracle.state_dict().items():
        if name.startswith("net.slice"):  # net.slice2.5.weight, net.slices.1.3.squeeze.weight
            path = name.split(".")[3 if "slices" in name else 2 :]
            state[".".join(["features", *path])] = tensor
        elif name.startswith("lin") and not name.startswith("lins"):
            state[name] = tensor
    return state


@pytest.fixture(scope="module")
def states(oracles) -> dict[str, dict[str, torch.Tensor]]:
    return {net: product.prepare(torchvision_state(net, oracles[net])) for net in NETS}


def pixels(count: int = 2, height: int = 33, width: int = 36, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize("net", NETS)
@torch.no_grad()
def test_agreement_with_torchmetrics(net: str, oracles, states) -> None:
    x, y = pixels(seed=0), pixels(seed=1)
    expected = oracles[net](x, y).flatten()
    torch.testing.assert_close(product.lpips(states[net], net, x, y), expected, rtol=1e-5, atol=0)
    assert expected.min() > 1e-3  # the comparison says something


@pytest.mark.parametrize("net", NETS)
@torch.no_grad()
def test_map_agrees_with_torchmetrics(net: str, oracles, states) -> None:
    x, y = pixels(1, seed=0), pixels(1, seed=1)
    oracle = oracles[net]
    oracle.spatial = True
    expected = oracle(x, y)[:, 0]
    oracle.spatial = False
    found = product.lpips(states[net], net, x, y, spatial=True)
    assert found.shape == (1, 33, 36)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_published_figure(assets) -> None:
    state = product.prepare(read_tensors(assets / "models" / "lpips_squeeze.safetensors"))
    generator = torch.Generator().manual_seed(123)
    x, y = (torch.rand(10, 3, 100, 100, generator=generator) * 2 - 1 for _ in range(2))
    mean = product.lpips(state, product.net_of(state), x, y).mean().item()
    assert round(mean, 4) == 0.1008


@pytest.mark.parametrize("net", NETS)
def test_identical_pictures_have_no_distance_and_a_finite_gradient(net: str, states) -> None:
    x = pixels().requires_grad_()
    distance = product.lpips(states[net], net, x, x.detach().clone())
    distance.sum().backward()
    assert distance.tolist() == [0.0, 0.0]
    assert x.grad.isfinite().all()


def test_features_of_length_zero_have_a_finite_gradient() -> None:
    """Without the epsilon inside its root, the gradient of a length is NaN at zero."""
    h = torch.zeros(1, 4, 2, 2, requires_grad=True)
    product.unit_length(h).sum().backward()
    assert h.grad.isfinite().all()
    assert (product.unit_length(h) == 0).all()


@pytest.mark.parametrize("net", NETS)
@torch.no_grad()
def test_symmetry_and_batch(net: str, states) -> None:
    x, y = pixels(seed=0), pixels(seed=1)
    forth = product.lpips(states[net], net, x, y)
    torch.testing.assert_close(forth, product.lpips(states[net], net, y, x))
    items = [product.lpips(states[net], net, x[i : i + 1], y[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(forth, torch.cat(items))


@pytest.mark.parametrize("net", NETS)
def test_gradient_reaches_x_alone(net: str, states) -> None:
    x, y = pixels(1, seed=0).requires_grad_(), pixels(1, seed=1).requires_grad_()
    product.lpips(states[net], net, x, y).sum().backward()
    assert x.grad.abs().sum() > 0
    assert y.grad is None
    assert not any(tensor.requires_grad for tensor in states[net].values())


@torch.no_grad()
def test_values_beyond_the_range_are_not_clamped(states) -> None:
    y = pixels(1)
    white, beyond = torch.ones(1, 3, 33, 36), torch.full((1, 3, 33, 36), 1.5)
    first, second = (product.lpips(states["squeeze"], "squeeze", x, y) for x in (white, beyond))
    assert not torch.allclose(first, second)


def test_target_features_once_give_the_same(states) -> None:
    x, y = pixels(seed=0).requires_grad_(), pixels(seed=1).requires_grad_()
    target = product.target_features(states["alex"], "alex", y)
    assert not any(feature.requires_grad for feature in target)
    found = product.lpips_from_features(states["alex"], "alex", x, target)
    assert torch.equal(found, product.lpips(states["alex"], "alex", x, y))
    assert found.requires_grad


@pytest.mark.parametrize("spatial", [False, True])
def test_autocast_changes_nothing(states, spatial: bool) -> None:
    x, y = pixels(seed=0), pixels(seed=1)
    expected = product.lpips(states["squeeze"], "squeeze", x, y, spatial)
    with torch.autocast("cpu", torch.bfloat16):
        found = product.lpips(states["squeeze"], "squeeze", x, y, spatial)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@torch.no_grad()
def test_half_precision_pixels_are_widened(states) -> None:
    x, y = pixels(seed=0).bfloat16(), pixels(seed=1).bfloat16()
    found = product.lpips(states["alex"], "alex", x, y)
    assert torch.equal(found, product.lpips(states["alex"], "alex", x.float(), y.float()))


@pytest.mark.parametrize("net", NETS)
@torch.no_grad()
def test_smallest_side(net: str, states) -> None:
    side = product.SMALLEST_SIDE[net]
    x, y = pixels(1, side, side, seed=0), pixels(1, side, side, seed=1)
    assert product.lpips(states[net], net, x, y).isfinite().all()
    message = f"at least {side} x {side} pixels for LPIPS '{net}', got {side} x {side - 1}"
    with pytest.raises(ValueError, match=message):
        product.lpips(states[net], net, x[:, :, 1:], y[:, :, 1:])
    with pytest.raises(RuntimeError):  # the limit is where torch itself gives up, or LPIPS does
        product_without_limit(states[net], net, x[:, :, 1:], y[:, :, 1:])


def product_without_limit(state, net: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(product.SMALLEST_SIDE, net, 0)
        return product.lpips(state, net, x, y)


def test_shapes_that_differ_are_both_named(states) -> None:
    with pytest.raises(ValueError, match=r"\[2, 3, 33, 36\] and \[1, 3, 33, 36\]"):
        product.lpips(states["alex"], "alex", pixels(2), pixels(1))


def test_grey_pictures_are_refused(states) -> None:
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\].*\[2, 1, 33, 36\]"):
        product.lpips(states["alex"], "alex", pixels()[:, :1], pixels()[:, :1])


def test_unknown_net_is_refused(states) -> None:
    with pytest.raises(ValueError, match="vgg, alex, squeeze, got 'resnet'"):
        product.lpips(states["alex"], "resnet", pixels(), pixels())


# The weights


@pytest.mark.parametrize("net", NETS)
def test_needed_tensors_are_those_of_torchvision(net: str, oracles) -> None:
    """Exactly the backbone's tensors up to the last layer that is looked at, and the heads."""
    theirs = {k: tuple(v.shape) for k, v in torchvision_state(net, oracles[net]).items()}
    assert weight_shapes(net) == theirs


@pytest.mark.parametrize("net", NETS)
def test_net_is_known_from_its_tensors(net: str, states) -> None:
    assert product.net_of(states[net]) == net


def test_prepare_widens_detaches_and_drops_the_rest(states) -> None:
    state = {name: tensor.half() for name, tensor in states["alex"].items()}
    state["features.0.weight"].requires_grad_()
    state["classifier.1.weight"] = torch.zeros(4, 4)
    prepared = product.prepare(state)
    assert set(prepared) == set(weight_shapes("alex"))
    assert {tensor.dtype for tensor in prepared.values()} == {torch.float32}
    assert not any(tensor.requires_grad for tensor in prepared.values())


def test_missing_tensors_are_named(states) -> None:
    state = dict(states["squeeze"])
    del state["lin6.model.1.weight"], state["features.12.squeeze.bias"]
    with pytest.raises(
        ValueError, match="'squeeze'.*2 are missing: features.12.squeeze.bias, lin6"
    ):
        product.check_weights("squeeze", state)


def test_many_missing_tensors_are_counted() -> None:
    with pytest.raises(ValueError, match="'vgg'.*31 are missing: .* and 28 more"):
        product.check_weights("vgg", {})


def test_wrong_shape_is_named(states) -> None:
    state = dict(states["alex"]) | {"lin0.model.1.weight": torch.zeros(1, 63, 1, 1)}
    with pytest.raises(ValueError, match=r"lin0.model.1.weight of shape \[1, 64, 1, 1\].*63"):
        product.prepare(state)


def test_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="vgg, alex or squeeze.*decoder.conv_in.weight"):
        product.net_of({"decoder.conv_in.weight": torch.zeros(1)})
