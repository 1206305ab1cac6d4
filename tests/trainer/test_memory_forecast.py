"""Memory foretold is near what real steps add to a process: the benchmark's own cases, run anew."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "memory_forecast.py"
MARK = 0.2


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells the peak")
@pytest.mark.parametrize("case", ["small, 256 px, batch 2, fp32", "SD, 128 px, batch 1, fp32"])
def test_the_forecast_is_within_a_fifth(case: str, tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARK, "--only", case, "--json", tmp_path / "found.json"]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert found["expected"] == pytest.approx(found["taken"], rel=MARK)
