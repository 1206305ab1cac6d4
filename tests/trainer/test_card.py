"""The model card: what the hub reads, what people read, and names that try to be either."""

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from trainer.judge.perceptual import Perceptual
from trainer.judge.scores import PhotoScore
from trainer.report.card import model_card
from trainer.report.report_data import build_report

OUR_KEYS = {
    "license", "license_name", "library_name", "tags", "base_model", "base_model_relation",
}  # fmt: skip
LPIPS = Perceptual("lpips-vgg", True, 16, lambda x, y: (x - y).abs().mean((1, 2, 3)))


def card(
    config: dict[str, Any] | None = None, run: dict[str, Any] | None = None, **base: Any
) -> str:
    """A card of a run on two photos."""
    first = [PhotoScore(str(i), f"{i}.png", psnr=20.0 + i, lpips=0.2, faces=0) for i in range(2)]
    second = [PhotoScore(str(i), f"{i}.png", psnr=22.0 + i, lpips=0.1, faces=0) for i in range(2)]
    facts = {
        "base": base or {"name": "kl-f8-small"},
        "run": run or {"steps": 1500, "images": 12000, "trained": "decoder"},
        "data": {"train": {"photos": 1200, "skipped": {"damaged": 2}}, "val": {"photos": 2}},
    }
    models = {"base": {"val": first}, "tuned": {"val": second}}
    report = build_report(models, LPIPS, eval_resolution=512, facts=facts)
    return model_card(report, config)


def front(text: str) -> dict[str, Any]:
    """Parse the front matter as YAML readers do: what stands between the first two dash lines."""
    _, matter, _ = text.split("---\n", 2)
    return yaml.safe_load(matter)


def test_the_hub_reads_the_front_matter() -> None:
    data = ModelCard(card(name="x", family="sdxl", hub_id="org/name:vae")).data.to_dict()
    assert data["base_model"] == "org/name"
    assert data["base_model_relation"] == "finetune"
    assert data["library_name"] == "diffusers"
    assert data["license"] == "other"
    assert "stable-diffusion-xl" in data["tags"]


def test_a_base_that_is_no_hub_id_is_not_named_as_one() -> None:
    assert "base_model" not in front(card(name="my_vae", hub_id=None))


@pytest.mark.parametrize(
    "name",
    ["x\n---\nlicense: mit", "x\r\n---\r\nlicense: mit\r\n---", "---", "x: [", "&a *b !!c", "'\"#"],
)
def test_no_name_adds_a_key_to_the_front_matter(name: str) -> None:
    text = card(name=name, family=name, hub_id=f"o/{name}")
    assert set(front(text)) <= OUR_KEYS
    assert front(text)["license"] == "other"
    assert set(ModelCard(text).data.to_dict()) <= OUR_KEYS
    assert "\nlicense: mit" not in text


def test_names_in_the_body_stay_names() -> None:
    text = card(name="a|b`c</b><script>alert(1)</script>[x](http://y)")
    body = text.split("---\n", 2)[2]
    assert "<script" not in body and "</b>" not in body
    assert "# a\\|b\\`c&lt;/b&gt;" in body
    assert "[x]" not in body


def test_it_tells_figures_data_training_and_limits_without_places() -> None:
    config = {"data": "/home/alice/photos", "rec_loss": "mse", "learning_rate": 1e-4}
    text = card(config)
    assert "| PSNR (dB) | 20.50 | 22.50 (+2.00) |" in text
    assert "| LPIPS (vgg) | 0.2000 | 0.1000 (−50.0 %) |" in text
    assert "Better: +2.00 dB on 2 photos, 2 of 2 better" in text
    assert "Trained on: 1,200 photos, 2 left out" in text and "Steps: 1,500" in text
    assert "`rec_loss` mse, `learning_rate` 0.0001" in text
    assert "## Limits" in text and "The encoder is the base's own" in text
    assert "alice" not in text


def test_every_table_row_has_the_columns_of_its_head() -> None:
    rows = [line for line in card(name="a|b").splitlines() if line.startswith("|")]
    assert len(rows) > 4
    assert {row.replace("\\|", "").count("|") for row in rows} == {4}


def test_a_trained_encoder_is_among_the_limits() -> None:
    assert "The encoder was trained too" in card(run={"steps": 1, "trained": "all"})


@pytest.mark.parametrize(
    ("architecture", "said", "unsaid"),
    [
        ({"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]},
         "SD VAE", "any size"),
        ({"_class_name": "AutoencoderKL", "block_out_channels": [32, 64, 96, 128]},
         "any size", "SD VAE"),
        ({"_class_name": "AutoencoderTiny", "block_out_channels": [64, 64, 64, 64]},
         "import AutoencoderTiny", "AutoencoderKL"),
    ],
)  # fmt: skip
def test_how_to_use_it_depends_on_the_architecture(
    architecture: dict[str, Any], said: str, unsaid: str
) -> None:
    text = card(name="x", architecture=architecture)
    assert said in text and unsaid not in text
    assert "export/vae.safetensors" in text


def test_it_can_be_written_from_figures_alone() -> None:
    first = [PhotoScore("a", "a", psnr=20.0)]
    models = {"base": {"val": first}, "tuned": {"val": first}}
    assert model_card(build_report(models, None, eval_resolution=64)).startswith("---\nlicense:")
