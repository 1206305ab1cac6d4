"""--compile: the same training under the same names, and a sentence where it cannot be."""

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.runs import losses
from trainer.options.config import TrainConfig
from trainer.training import compiling
from trainer.training.memory import planned_model


def test_without_a_compiler_the_run_ends_before_training(train, tmp_path, monkeypatch, capsys):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    torch.compiler.reset()
    assert train(tmp_path / "run", "--compile") == 1
    err = capsys.readouterr().err
    assert "Expected a C++ compiler (g++, clang or MSVC) for --compile" in err
    assert "train without --compile" in err and "Traceback" not in err
    assert not (tmp_path / "run" / "config.toml").exists()


def test_names_of_weights_stay(tiny_vae, monkeypatch):
    monkeypatch.setattr(compiling, "_require_compiler", lambda device: None)
    before = list(tiny_vae.state_dict()), [name for name, _ in tiny_vae.named_parameters()]
    compiling.compile_decoder(tiny_vae, torch.device("cpu"))
    after = list(tiny_vae.state_dict()), [name for name, _ in tiny_vae.named_parameters()]
    assert after == before
    assert tiny_vae.decoder._compiled_call_impl is not None


def test_the_count_of_memory_compiles_nothing():
    config = TrainConfig(vae="x", data="y", output="z", compile=True)
    architecture = {"_class_name": "AutoencoderKL", "block_out_channels": (32,)}
    assert planned_model(config, architecture).decoder._compiled_call_impl is None


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--lora-rank", 2), ("--activation-memory", "checkpoint")])
def test_a_compiled_run_is_the_same_run(train, tmp_path, more):
    assert train(tmp_path / "eager", *more) == 0
    assert train(tmp_path / "compiled", "--compile", "--eval-every", 2, *more) == 0
    # the order of sums differs, so equality is to float32 rounding
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)
    for file in ("weights.safetensors", "training.safetensors"):
        place = f"checkpoints/step_000004/{file}"
        a, b = (load_file(tmp_path / run / place) for run in ("eager", "compiled"))
        assert a.keys() == b.keys() and not [name for name in b if "_orig_mod" in name]
    exports = [sorted(load_file(p)) for p in tmp_path.glob("*/export/vae.safetensors")]
    assert len(exports) == 2 and exports[0] == exports[1]
