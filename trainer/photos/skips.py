"""Why a photo is left out: one exception, one record, a fixed set of short reasons."""

from typing import NamedTuple

from trainer.names import printable

_LONGEST_DETAIL = 200


class SkippedPhoto(Exception):
    """A photo that cannot be used: `reason` is a short fixed phrase to count by, `detail` prose."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = printable(detail)[:_LONGEST_DETAIL]

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class Skip(NamedTuple):
    """One photo left out: its printable name, the reason to count by, and what was seen."""

    name: str
    reason: str
    detail: str
