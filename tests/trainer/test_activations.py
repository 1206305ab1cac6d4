"""--activation-memory auto: the first way that fits, by count."""

import pytest

from trainer.options.toml_file import from_toml
from trainer.training import activations, batch_size
from trainer.training.memory import Memory


@pytest.fixture
def needs(monkeypatch):
    """Let 100 bytes be free, 85 of them for use, and say how much each way would take."""

    def set_needs(**bytes_of: int) -> None:
        def expected(config, *_) -> Memory:
            return Memory({"all": bytes_of[config.activation_memory]}, {}, {})

        monkeypatch.setattr(activations, "free_memory", lambda device: 100)
        monkeypatch.setattr(activations, "expected_memory", expected)

    return set_needs


@pytest.mark.parametrize(
    ("needed", "chosen"),
    [
        ({"eager": 85}, "eager"),
        ({"eager": 86, "fused": 85}, "fused"),
        ({"eager": 900, "fused": 200, "checkpoint": 50}, "checkpoint"),
        ({"eager": 900, "fused": 200, "checkpoint": 150}, "checkpoint"),
        ({"eager": 900, "fused": 150, "checkpoint": 200}, "fused"),
    ],
)
def test_the_fastest_that_fits_is_taken_and_kept(train, needs, tmp_path, capsys, needed, chosen):
    needs(**needed)
    assert train(tmp_path / "run", "--activation-memory", "auto", "--max-steps", 1) == 0
    assert from_toml(tmp_path / "run" / "config.toml")["activation_memory"] == chosen
    assert f"{chosen} by count: eager would take" in capsys.readouterr().out


def test_it_is_counted_on_the_real_thing(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--activation-memory", "auto", "--dry-run") == 0
    assert "eager by count" in capsys.readouterr().out


def test_a_batch_that_grows_takes_fused(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batch_size, "CANDIDATES", (1, 2))
    flags = ("--activation-memory", "auto", "--batch-size", "auto", "--max-steps", 1)
    assert train(tmp_path / "run", *flags) == 0
    assert from_toml(tmp_path / "run" / "config.toml")["activation_memory"] == "fused"
