"""Clusters: whether k-means on latents, which saw no class, finds the classes."""

import numpy as np
from torch import Tensor

from trainer.textbook_vae.settings import every_variant
from trainer.textbook_vae.shelf import Shelf

CLASSES = 10


def clusters(shelf: Shelf) -> list[str]:
    """Measure the purity of k-means on pixels, and on every variant's latents."""
    held_out = shelf.digits.held_out
    lines = [f"pixels: {purity_of(held_out.pictures, held_out.classes):.0%}"]
    for settings in every_variant(shelf.settings):
        mean, _ = shelf.model(settings).encode(held_out.pictures)
        lines.append(f"{settings.words}: {purity_of(mean, held_out.classes):.0%}")
    return [f"purity of 10 clusters of {len(held_out.classes):,} held-out digits", *lines]


def purity_of(points: Tensor, classes: Tensor) -> float:
    """Cluster points [N, D] by k-means, the best of ten starts, and measure the purity."""
    from sklearn.cluster import KMeans  # slow to import

    means = KMeans(CLASSES, n_init=10, random_state=0).fit(points.numpy())
    return purity(means.labels_, classes.numpy())


def purity(clusters: np.ndarray, classes: np.ndarray) -> float:
    """Give the share of points [N] that belong to the commonest class of their cluster.

    Manning, Raghavan, Schütze (2008), section 16.3. A cluster per point would be pure: figures
    compare at one number of clusters alone.
    """
    common = sum(np.bincount(classes[clusters == one]).max() for one in np.unique(clusters))
    return float(common / len(classes))
