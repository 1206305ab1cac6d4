"""What a run says while it trains: the progress bar, metrics.jsonl, TensorBoard or W&B.

All processes call it at the same places; the main process alone writes and shows.
"""

import sys
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from trainer.options.config import TrainConfig
from trainer.training.distributed import on_all
from trainer.training.metrics_log import MetricsLog
from trainer.training.run import State
from trainer.training.schedule import progress, seconds_left
from trainer.training.waiting import WORTH_SHOWING

ONE_TERM = ("loss", "lpips", "distance")
BOTH_TERMS = ("loss", "rec", "kl", "lpips", "distance")  # KL trains with the encoder alone


def refresh_seconds() -> float:
    """Return how often a bar is drawn: seldom where it goes to a file, which keeps every line."""
    return 0.5 if sys.stderr.isatty() else 30.0


class Meter:
    """Progress of a run, shown and logged."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, log: MetricsLog, state: State
    ) -> None:
        self._config, self._accelerator, self._log = config, accelerator, log
        self._first = (state.step, state.elapsed)
        self._shown: dict[str, str] = {}
        self._bar = tqdm(
            total=1.0,
            initial=progress(config, state.step, state.elapsed),
            disable=not accelerator.is_main_process,
            bar_format="{percentage:3.0f}%|{bar}| {postfix}",
            mininterval=refresh_seconds(),
        )

    def advance(self, state: State) -> None:
        """Move the bar to where the run is now."""
        pace = max(1e-9, state.elapsed - self._first[1])
        left = int(seconds_left(self._config, self._first, state.step, state.elapsed))
        images = (state.step - self._first[0]) * self._images_per_step()
        self._bar.set_postfix(
            {
                "step": f"{state.step}/{self._config.max_steps}",
                **self._shown,
                "img/s": f"{images / pace:.1f}",
                "left": f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}",
            },
            refresh=False,
        )
        self._bar.update(progress(self._config, state.step, state.elapsed) - self._bar.n)

    def log(self, state: State, values: dict[str, float]) -> None:
        """Log one step: to metrics.jsonl, to the trackers, and beside the bar."""
        names = BOTH_TERMS if self._config.trains_encoder else ONE_TERM
        self._shown = {name: f"{values[name]:.4f}" for name in names if name in values}
        if values.get("wait", 0.0) > WORTH_SHOWING:
            self._shown["wait"] = f"{values['wait']:.0%}"
        record = {
            "step": state.step,
            "images": state.position,
            "seconds": round(state.elapsed, 3),
            **dict.fromkeys(("loss", "rec", "lpips", "kl")),  # null where there is none
            **values,
        }
        on_all(self._accelerator, lambda: self._write(record, values))
        self.advance(state)

    def log_evaluation(self, step: int, summaries: dict[str, Any]) -> None:
        """Log one evaluation, base beside tuned."""
        everywhere = summaries["tuned"]["val"].get("all", {})
        numbers = {f"val/{k}": v for k, v in everywhere.items() if isinstance(v, int | float)}
        on_all(self._accelerator, lambda: self._write({"step": step, "eval": summaries}, numbers))

    def _write(self, record: dict[str, Any], numbers: dict[str, float]) -> None:
        """Write to metrics.jsonl and to the trackers, both on the main process."""
        if self._accelerator.is_main_process:
            self._log.append(record)
        self._accelerator.log(numbers, step=record["step"])

    def say(self, text: str) -> None:
        """Print lines above the bar."""
        if self._accelerator.is_main_process:
            self._bar.write(text, file=sys.stdout)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def _images_per_step(self) -> int:
        config = self._config
        return (
            config.batch_size * config.gradient_accumulation_steps * self._accelerator.num_processes
        )
