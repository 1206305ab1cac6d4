"""Stopping in good order: Ctrl-C, SIGTERM, and a launcher that died."""

import os
import signal
import sys
from types import FrameType

from accelerate import Accelerator

from trainer.training.host_group import highest

# Set by `accelerate launch` and by torchrun for the processes that they start.
_LAUNCHER_MARKS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")


def launched() -> bool:
    """Tell whether `accelerate launch` or torchrun started this process."""
    return any(mark in os.environ for mark in _LAUNCHER_MARKS)


class Interrupted(Exception):
    """The run was asked to stop; `signal` is the number to report as exit code 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.signal = number


class Interrupts:
    """A flag that the first signal sets and that the run reads between units of work."""

    def __init__(self) -> None:
        self.signal = 0
        self._launcher = os.getppid() if launched() else 0

    def listen(self) -> None:
        """Take over Ctrl-C and SIGTERM; a second one ends the process at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        # os.write, as a signal may arrive inside a buffered print
        os.write(sys.__stderr__.fileno(), b"\nstopping: finishing the step, then saving\n")

    def requested(self) -> bool:
        """Tell whether this process should stop.

        One process under `accelerate launch` is not told when its launcher is ended, so a change
        of parent counts as SIGTERM; without a launcher it does not (a shell may close over nohup).
        """
        if not self.signal and self._launcher and os.getppid() != self._launcher:
            self.signal = signal.SIGTERM
        return self.signal != 0

    def agreed(self, accelerator: Accelerator) -> bool:
        """Tell whether any process should stop: to be called by all of them at the same place."""
        self.requested()
        agreed = highest(accelerator, self.signal)
        if agreed:  # else a signal that came while they spoke is kept, for the next time
            self.signal = agreed
        return agreed != 0

    def leave(self, accelerator: Accelerator) -> None:
        """Raise `Interrupted` on all processes if any should stop; for all, at the same place."""
        if self.agreed(accelerator):
            raise Interrupted(self.signal)

    def check(self) -> None:
        """Raise `Interrupted` if this process should stop: where there is nothing yet to save."""
        if self.requested():
            raise Interrupted(self.signal)
