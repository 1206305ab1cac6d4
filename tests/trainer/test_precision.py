"""The precision that --mixed-precision auto comes to."""

from pathlib import Path

import pytest
import torch

from trainer.options.toml_file import from_toml
from trainer.training.precision import suitable_precision

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPUINFO.exists(), reason="only Linux tells what its processor can do")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without a GPU")
def test_bf16_is_taken_where_the_processor_computes_in_it():
    flags = set(CPUINFO.read_text().split())
    computes = {"avx512_bf16", "amx_bf16"} & flags
    assert suitable_precision() == ("bf16" if computes else "no")


def test_a_run_writes_down_what_auto_came_to(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--mixed-precision", "auto") == 0
    assert from_toml(tmp_path / "run" / "config.toml")["mixed_precision"] == suitable_precision()
    said = {"no": "fp32", "bf16": "bf16 over fp32", "fp16": "fp16 over fp32"}[suitable_precision()]
    assert f"{said}" in capsys.readouterr().out
