"""metrics.jsonl: one JSON object a line, appended; the last line of a step holds."""

import json
from pathlib import Path
from typing import Any

from trainer.numbers import finite_or_none
from vae_core.files import replace_file


class MetricsLog:
    """Append lines to metrics.jsonl, each in one write so that two never merge."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Write one record as one line."""
        line = json.dumps(finite_or_none(record), allow_nan=False) + "\n"
        with self.path.open("ab") as handle:
            handle.write(line.encode())

    def rewind(self, step: int) -> None:
        """Drop a torn last line and all that lies beyond `step`, before a resumed run appends."""
        kept = [record for record in self.read() if record.get("step", 0) <= step]
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept)
        replace_file(self.path, lambda handle: handle.write(text.encode()))

    def read(self) -> list[dict[str, Any]]:
        """Return the whole records; a line cut short by a crash is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line.strip()]
