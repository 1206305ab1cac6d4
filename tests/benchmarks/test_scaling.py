"""The arithmetic of many cards: against counts, sums made by hand, and the page that shows it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import bandwidth, forecast
from benchmarks.scaling_model import (
    GRADIENT_BYTES,
    Assumptions,
    crop_bytes,
    exchange_seconds,
    flops,
    foretell,
    step_seconds,
    table,
)
from tests.trainer.test_memory import SD
from trainer.options.config import TrainConfig
from trainer.training.memory import planned_model


def test_a_step_is_counted_as_it_computes() -> None:
    assert flops(256, cached=False) == pytest.approx(2260e9, rel=1e-3)  # counted elsewhere
    assert flops(256, cached=False) - flops(256, cached=True) == 273e9


def test_gradients_are_those_of_the_decoder() -> None:
    vae = planned_model(TrainConfig(vae="x", data="x", output="x"), SD)
    trained = [p.numel() for p in vae.parameters() if p.requires_grad]
    assert 4 * sum(trained) == GRADIENT_BYTES


def test_a_ring_passes_each_gradient_nearly_twice() -> None:
    assert exchange_seconds(1, 100.0, 10.0) == 0.0
    assert exchange_seconds(2, 100.0, 10.0) == 10.0
    assert exchange_seconds(4, 100.0, 10.0) == 15.0
    assert exchange_seconds(1000, 100.0, 10.0) == pytest.approx(20.0, rel=2e-3)


def test_a_step_waits_for_the_slower_and_for_what_shows() -> None:
    assert step_seconds(2.0, 0.5, 0.25) == 2.25
    assert step_seconds(0.5, 2.0, 0.25) == 2.25
    assert step_seconds(2.0, 0.0, 1.5, hidden=0.5) == 2.5
    assert step_seconds(2.0, 0.0, 0.5, hidden=0.5) == 2.0


def test_a_cached_crop_is_its_pixels_and_two_moments() -> None:
    assert crop_bytes(256) == 196_608 + 16_384
    assert crop_bytes(512) == 786_432 + 65_536


def test_many_cards_cost_more_and_take_as_long() -> None:
    given = Assumptions(peak=100e12, utilisation=0.5, photos=1e9, within=1e9, between=1e8)
    one, two, sixteen = (foretell(cards, given) for cards in (1, 2, 16))
    compute = 4 * flops(512, cached=True) / 50e12
    assert one.step == pytest.approx(compute) and one.efficiency == 1
    assert two.step == pytest.approx(compute + GRADIENT_BYTES / 1e9)
    assert sixteen.step == pytest.approx(compute + 2 * 15 / 16 * GRADIENT_BYTES / 1e8)
    assert sixteen.images == pytest.approx(64 / sixteen.step)
    assert sixteen.card_hours == pytest.approx(16 * sixteen.hours)
    starved = foretell(1, Assumptions(photos=2.0))
    assert starved.step == 2.0


def test_two_are_foretold_from_one_and_from_an_exchange() -> None:
    assert forecast(2, compute=0.4, exchange=0.1) == 0.5
    assert forecast(1, compute=0.4, exchange=0.1) == 0.4
    assert bandwidth(2, 0.1, 1000) == 10_000 and bandwidth(4, 0.1, 1000) == 15_000
    assert bandwidth(1, 0.1, 1000) is None


def test_the_page_shows_what_the_model_says(project: Path) -> None:
    page = (project / "docs" / "scaling.md").read_text("utf-8")
    assert table(Assumptions()) in page
    assert table(Assumptions(resolution=256, batch_size=16)) in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "rows"),
    [
        ("scaling", "--resolution 32 --processes 1 2 --rounds 1 --steps 1", 2),
        ("input", "--resolution 64 --workers 0 1 --rounds 1 --seconds 0.3 --step 0.05", 4),
    ],
)
def test_a_benchmark_prints_a_table_and_writes_it(name, flags, rows, project, tmp_path) -> None:
    script, file = project / "benchmarks" / f"{name}.py", tmp_path / "figures.json"
    command = [sys.executable, script, *flags.split(), "--json", file]
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(file.read_text())["rows"]
    assert len(found) == rows
    assert ended.stdout.count("%") >= rows
