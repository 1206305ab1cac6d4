"""Adapters begin without effect, train alone, and merge exactly."""

import torch

from trainer.vae.lora import add_adapters, merged_state

NAMES = ("lora_A", "lora_B")


def adapted(vae):
    vae.requires_grad_(False)
    add_adapters(vae, rank=3, alpha=6.0, seed=1)
    return vae


def shake(vae) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in vae.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def latents() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def test_fresh_adapters_change_nothing_and_keep_every_name(tiny_vae):
    before, state = tiny_vae.decode(latents()).sample, tiny_vae.state_dict()
    merged = merged_state(adapted(tiny_vae))
    assert torch.equal(tiny_vae.decode(latents()).sample, before)
    assert merged.keys() == state.keys()
    assert all(torch.equal(merged[name], state[name]) for name in state)


def test_only_adapters_of_the_decoder_train(tiny_vae):
    trained = [name for name, p in adapted(tiny_vae).named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("decoder.") for name in trained)
    assert all(any(part in name for part in NAMES) for name in trained)


def test_merged_weights_decode_as_the_adapted_model_does(tiny_vae):
    plain = type(tiny_vae)(**tiny_vae.config)
    shake(adapted(tiny_vae))
    plain.load_state_dict(merged_state(tiny_vae))
    live, merged = tiny_vae.decode(latents()).sample, plain.decode(latents()).sample
    assert not torch.allclose(merged, type(tiny_vae)(**tiny_vae.config).decode(latents()).sample)
    # adding B A to W first, or after the convolution, differs by float32 rounding alone
    assert (live - merged).abs().max() < 1e-5 * live.abs().max()


def test_same_seed_same_adapters_and_no_global_draw(tiny_vae):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = {n: p.clone() for n, p in adapted(tiny_vae).named_parameters() if "lora_A" in n}
    assert torch.equal(torch.rand(1), expected)
    again = adapted(type(tiny_vae)(**tiny_vae.config)).named_parameters()
    assert all(torch.equal(p, first[n]) for n, p in again if "lora_A" in n)
