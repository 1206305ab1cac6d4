"""Anomalies: whether a model that saw digits alone reconstructs other shapes worse."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.textbook_vae.drawings import Row, sheet
from trainer.textbook_vae.network import MlpVae
from trainer.textbook_vae.settings import every_variant
from trainer.textbook_vae.shapes import SHAPES, draw_shapes
from trainer.textbook_vae.shelf import Shelf


def anomalies(shelf: Shelf) -> tuple[Image.Image, list[str]]:
    """Draw shapes over their reconstructions, and measure how well the error tells them apart."""
    digits = shelf.digits.held_out.pictures
    shapes, kinds = draw_shapes(digits, shelf.digits.native_side)
    model = shelf.model()
    first = shapes[: len(SHAPES)]
    rows = [Row("no digits", first), Row("reconstruction", model.reconstruct(first))]
    lines = [
        f"AUROC, {len(digits):,} held-out digits against as many shapes",
        f"ink alone, no model: {auroc(digits.mean(1), shapes.mean(1)):.3f}",
    ]
    for settings in every_variant(shelf.settings):
        errors = [squared_error(shelf.model(settings), seen) for seen in (digits, shapes)]
        lines.append(f"{settings.words}: {auroc(*errors):.3f}")
    return sheet(rows), lines + _by_kind(shelf, digits, shapes, kinds)


def _by_kind(shelf: Shelf, digits: Tensor, shapes: Tensor, kinds: list[str]) -> list[str]:
    """Say which kind of shape passes most easily for a digit."""
    normal = squared_error(shelf.model(), digits)
    error = squared_error(shelf.model(), shapes)
    found = {kind: error[torch.tensor([k == kind for k in kinds])] for kind in SHAPES}
    listed = ", ".join(f"{kind} {auroc(normal, some):.2f}" for kind, some in found.items())
    return [f"by kind, {shelf.settings.words}: {listed}"]


def squared_error(model: MlpVae, pictures: Tensor) -> Tensor:
    """Measure each picture's reconstruction through the mode: Σ(x - x̂)² over pixels, [N]."""
    return (model.reconstruct(pictures) - pictures).square().sum(1)


def auroc(normal: Tensor, strange: Tensor) -> float:
    """Give the chance that a strange picture scores above a normal one (½: no better than a coin).

    The area under the ROC curve, by scikit-learn.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    labels = np.repeat([0, 1], [len(normal), len(strange)])
    return float(roc_auc_score(labels, torch.cat([normal, strange]).numpy()))
