"""Numbers as JSON can say them."""

import math
from typing import Any


def finite_or_none(value: Any) -> Any:
    """Replace what JSON cannot say (NaN, infinities) by null, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_or_none(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(entry) for entry in value]
    return value
