"""The findings as text and JSON: what is not known is said, never 0."""

import json
import math

import numpy as np
import pytest
import torch

from vae_core.inspect import inspection
from vae_core.inspect.compression import Row, table
from vae_core.inspect.latent_report import Divergence, Findings, as_json, as_text, lost_in_words


def found(z: torch.Tensor, kl: float = math.nan, **changes) -> Findings:
    percents = (1, 50, 99)
    findings = Findings(
        shape=list(z.shape),
        dtype="float32",
        space="raw latent",
        parts=inspection.moments(z),
        percentiles=dict(zip(percents, inspection.percentiles(z, percents), strict=True)),
        divergence=Divergence([kl] * len(z), z[0].numel(), "no posterior was given"),
        rows=table(8, 4),
        ratio="ratio 8",
        pictures=["RGB: by components."],
        warnings=[],
    )
    return findings._replace(**changes)


def latent(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def test_json_agrees_with_numpy_per_item_and_channel() -> None:
    z = latent(2, 4, 3, 5)
    got = json.loads(as_json(found(z)))
    array = z.double().numpy()
    assert got["batch"]["std"] == pytest.approx(array.std(), rel=1e-12)
    assert got["items"][1]["mean"] == pytest.approx(array[1].mean(), rel=1e-12)
    assert got["channels"][2]["maximum"] == pytest.approx(array[:, 2].max(), rel=1e-12)
    assert got["items"][1]["channels"][3]["std"] == pytest.approx(array[1, 3].std(), rel=1e-12)
    assert got["percentiles"]["99"] == pytest.approx(np.percentile(array, 99), rel=1e-12)
    assert got["sizes"][1] == {
        "picture": "512 x 512 px",
        "pixel_bytes": 786432,
        "latent_values": 16384,
        "fp32_bytes": 65536,
        "fp16_bytes": 32768,
        "values_ratio": 48,
        "fp32_ratio": 12,
        "fp16_ratio": 24,
    }


def test_what_is_not_known_is_null_and_said() -> None:
    z = torch.full((1, 2, 2, 2), math.nan)
    findings = found(z, rows=[Row("this latent", None, 8)])
    got = json.loads(as_json(findings))
    assert got["batch"]["mean"] is None and got["batch"]["kl"] is None
    assert got["batch"]["non_finite"] == 8
    assert got["sizes"][0]["values_ratio"] is None
    text = as_text(findings)
    assert "mean not known" in text and "Not finite: 8 of 8 values" in text
    assert "KL from N(0, I): not known: no posterior was given" in text
    assert "nan" not in text.lower().replace("nan or", "")


def test_text_names_everything() -> None:
    z = latent(2, 4, 3, 3, 5)
    text = as_text(found(z, kl=36.0, warnings=["looks already scaled"]))
    for part in (
        "2 items of 4 channels and 3 frames, 5 x 3 cells",
        "WARNING: looks already scaled",
        "Item 1: mean",
        "Channel 3: mean",
        "36 nats an item, 0.2 a value",
        "16,384 (48x)",
        "65,536 (12x)",
    ):
        assert part in text


def test_long_lists_are_cut_with_a_word() -> None:
    z = latent(1, 100, 1, 1)
    text = as_text(found(z))
    assert "Channel 31:" in text and "Channel 32:" not in text
    assert "and 68 more, in the JSON" in text
    got = json.loads(as_json(found(latent(50, 100, 1, 1))))
    assert len(got["items"]) == 50 and "channels" not in got["items"][0]


def test_a_warning_counts_what_is_lost() -> None:
    z = latent(1, 1, 64, 64)
    assert lost_in_words(inspection.summary(z)) == []
    z[0, 0, 0, :3] = math.nan
    assert lost_in_words(inspection.summary(z)) == ["NaN or infinite: 3 of 4,096 values"]
