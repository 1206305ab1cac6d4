"""Print docs/options.md: `python -m trainer.options > docs/options.md`."""

import sys

from trainer.options.command_line import default_text
from trainer.options.config import options
from trainer.options.fields import Option


def options_page() -> str:
    """Write docs/options.md: a table per group of options, made from the fields."""
    lines = ["# Options", "", *_INTRODUCTION]
    for group in dict.fromkeys(option.group for option in options().values()):
        lines += ["", f"## {group}", "", *_TABLE_HEAD]
        lines += [_row(option) for option in options().values() if option.group == group]
    return "\n".join(lines) + "\n"


_TABLE_HEAD = ["| flag | value | default | meaning |", "|---|---|---|---|"]
_INTRODUCTION = [
    "Made by `python -m trainer.options > docs/options.md`; do not edit.",
    "",
    "Flags beat the TOML file of `--config`, which beats `--preset`, which beats the defaults",
    "below. A TOML key is the flag without its dashes (`batch_size = 4`); true and false stand",
    "for `--flip` and `--no-flip`. The word `none` unsets an option without a default; a folder",
    "of that name is written `./none`. A preset's `val_data` belongs to the preset's `data`:",
    "with other data, a share of those is held out. `--output RUN --resume` is enough to go on:",
    "the options come from RUN/config.toml.",
]


def _row(option: Option) -> str:
    flag = f"`{option.flag}`"
    if option.kind is bool:
        flag += f", `--no-{option.flag[2:]}`"
    notes = " (command line only)" if option.command_line_only else ""
    default = default_text(option).removeprefix("default: ")
    return f"| {flag} | {option.expected} | {default} | {option.help}{notes} |"


if __name__ == "__main__":
    sys.stdout.write(options_page())
