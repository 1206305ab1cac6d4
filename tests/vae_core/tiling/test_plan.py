"""Memory planned against memory used, counted storage by storage; budgets, progress, cancelling."""

import gc
import re

import pytest
import torch
from diffusers import AutoencoderKL

from trainer.training.live_bytes import LiveBytes
from vae_core.tiling import (
    TooLittleMemory,
    decode,
    encode,
    plan_decode,
    plan_encode,
    read_network,
    untiled_bytes,
)

LATENT, PIXELS = (1, 4, 48, 32), (1, 3, 192, 128)
ALL = 2**40  # a budget in which all rests


@pytest.fixture
def network(built):
    return read_network(built("sd"))


def planned(network, shape, budget=None, rows=None, rest_on=None):
    plan_of = plan_decode if shape[1] == 4 else plan_encode
    return plan_of(network, shape, torch.float32, budget, rows, rest_on)


def used(network, given, plan) -> int:
    with LiveBytes() as live:
        (decode if given.shape[1] == 4 else encode)(network, given, plan)
    return live.peak


@pytest.mark.parametrize("shape", [LATENT, PIXELS])
@pytest.mark.parametrize("rows", [2, 4, 8])
def test_a_plan_says_what_is_used(network, drawn, shape, rows):
    plan = planned(network, shape, rows=rows)
    assert 0.85 < used(network, drawn(*shape), plan) / plan.peak_bytes < 1.02


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (1, 3, 32, 32)])
@pytest.mark.parametrize("budget", [None, ALL])
def test_wide_layers_on_few_pixels_count_their_weights_too(shape, budget):
    types = {"down_block_types": ("DownEncoderBlock2D",) * 4}
    types |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **types)
    vae.to_empty(device="cpu")
    for weight in vae.parameters():
        weight.data.zero_()
    network = read_network(vae)
    plan = planned(network, shape, budget)
    assert 0.7 < used(network, torch.zeros(shape), plan) / plan.peak_bytes < 1.02


@pytest.mark.parametrize(("shape", "kib"), [(LATENT, (8000, 6000, 5120)), (PIXELS, (8000, 4000))])
def test_a_budget_is_kept(network, drawn, shape, kib):
    for budget in (each * 1024 for each in kib):
        plan = planned(network, shape, budget)
        assert plan.fits and plan.peak_bytes <= budget
        assert used(network, drawn(*shape), plan) <= 1.02 * budget


def test_less_memory_costs_more_multiplications(network):
    all_rests, default = planned(network, LATENT, ALL), planned(network, LATENT)
    least = planned(network, LATENT, least_of(network, LATENT))
    assert all_rests.recomputed == 0 < default.recomputed < least.recomputed
    assert all_rests.macs < default.macs < least.macs < 2 * all_rests.macs
    assert all_rests.peak_bytes > default.peak_bytes > least.peak_bytes


def least_of(network, shape) -> int:
    with pytest.raises(TooLittleMemory) as refused:
        planned(network, shape, 0)
    return refused.value.least


def test_a_budget_below_the_least_is_refused_and_the_least_is_enough(network):
    with pytest.raises(ValueError, match="at least") as refused:
        planned(network, LATENT, 2**20)
    least = int(re.search(r"at least (\d+) MiB", str(refused.value))[1])
    assert planned(network, LATENT, least * 2**20).fits


def test_given_rows_are_refused_with_their_own_least(network):
    """Strips of many rows take more than the least of all; what is said is theirs, and enough."""
    with pytest.raises(
        TooLittleMemory, match=r"at least \d+ MiB .* in strips of 64 rows"
    ) as refused:
        planned(network, LATENT, 0, rows=64)
    assert "leave the rows to the plan" in str(refused.value)
    assert refused.value.least > 1.1 * least_of(network, LATENT)
    plan = planned(network, LATENT, refused.value.least, rows=64)
    assert plan.fits and {step.rows for step in plan.steps} <= {48, 64}


def test_what_is_told_never_reads_as_enough(network):
    """Between whole MiB: what is there is rounded down, what is needed up."""
    with pytest.raises(TooLittleMemory) as refused:
        planned(network, LATENT, least_of(network, LATENT) - 1)
    least, got = map(int, re.findall(r"(\d+) MiB", str(refused.value)))
    assert least > got


def test_what_rests_elsewhere_is_not_counted_against_the_budget(network, drawn):
    small = 3 * 2**20
    with pytest.raises(ValueError, match="at least"):
        planned(network, LATENT, small)
    plan = planned(network, LATENT, small, rest_on=torch.device("cpu"))
    assert plan.peak_bytes > small
    there = decode(network, drawn(*LATENT), planned(network, LATENT))
    torch.testing.assert_close(decode(network, drawn(*LATENT), plan), there, atol=5e-5, rtol=0)


def test_work_grows_with_the_width_and_rest_with_the_pixels(network):
    once, wide, tall = (
        planned(network, (1, 4, *size), ALL, rows=8) for size in ((64, 64), (64, 128), (128, 64))
    )
    assert wide.resting_bytes == tall.resting_bytes == 2 * once.resting_bytes
    assert tall.work_bytes < 1.1 * once.work_bytes < wide.work_bytes


@pytest.mark.parametrize("shape", [LATENT, PIXELS])
def test_the_untiled_pass_is_foretold(built, network, drawn, shape):
    vae, given = built("sd"), drawn(*shape)
    with LiveBytes() as live:
        vae.decode(given) if shape[1] == 4 else vae.encode(given)
    expected = untiled_bytes(network, shape, torch.float32, "decode" if shape[1] == 4 else "encode")
    assert 0.95 < live.peak / expected < 1.05


def test_shapes_that_do_not_fit_are_refused(network, drawn):
    plan = planned(network, LATENT)
    for run in (
        lambda: planned(network, (1, 4, 0, 8)),
        lambda: planned(network, (1, 3, 3, 64)),
        lambda: plan_decode(network, (1, 16, 8, 8), torch.float32, None),
        lambda: decode(network, drawn(1, 4, 8, 8), plan),
    ):
        with pytest.raises(ValueError, match="^Expected"):
            run()


@pytest.mark.parametrize("shape", [(2, 4, 12, 8), (2, 3, 48, 32)])
def test_progress_rises_to_its_end(network, drawn, shape):
    seen = []
    run = decode if shape[1] == 4 else encode
    plan = planned(network, shape, rows=4)
    run(network, drawn(*shape), plan, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {plan.macs}
    assert seen[-1] == (plan.macs, plan.macs)
    assert len(seen) > 2 * len(plan.steps)


def test_an_exception_in_progress_stops_at_once_and_frees_all(network, drawn):
    class Stop(Exception):
        pass

    calls = []

    def cancel(done, total):
        calls.append(done)
        if len(calls) == 40:
            raise Stop

    latent = drawn(*LATENT)
    with LiveBytes() as live:
        with pytest.raises(Stop):
            decode(network, latent, planned(network, LATENT, rows=4), cancel)
        gc.collect()
    assert len(calls) == 40
    assert live.now == 0
