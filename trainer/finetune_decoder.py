"""Fine-tune a VAE decoder on photos: the entry that `accelerate launch` starts.

accelerate launch trainer/finetune_decoder.py --vae BASE --data DATA --output RUN
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: import from the project's root, not from trainer/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer.errors import UserError, sentence
from trainer.options.command_line import parse_command_line
from trainer.training.distributed import lost_contact
from trainer.training.guard import NothingKept
from trainer.training.interrupts import Interrupted, Interrupts
from trainer.training.out_of_memory import UNCOUNTED, is_out_of_memory
from trainer.training.session import run_session
from vae_core.checkpoint import CheckpointError

FAILED, MISUSED, WORSE = 1, 2, 3


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the process's exit code."""
    try:
        config = parse_command_line(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        return _complain(error, MISUSED)
    interrupts = Interrupts()
    interrupts.listen()
    try:
        run_session(config, interrupts)
    except Interrupted as stop:
        return 128 + stop.signal
    except NothingKept as verdict:
        return _complain(verdict, WORSE)
    except (UserError, CheckpointError, OSError) as error:
        return _complain(error, FAILED)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return _complain(UserError(UNCOUNTED), FAILED)
        if not lost_contact(error):
            raise
        return _complain(UserError(LOST_CONTACT), FAILED)
    return 0


LOST_CONTACT = (
    "another process of this run has ended, and what it said tells why; the last complete "
    "checkpoint stands: go on by --resume"
)


def _complain(error: Exception, code: int) -> int:
    print(f"finetune_decoder: {sentence(error)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
