"""The command line of the trainer: flags made from the fields of TrainConfig.

Flags beat the TOML file of --config, which beats --preset, which beats the defaults.
"""

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.options.config import TrainConfig, options
from trainer.options.fields import NOT_SET, Option, check_value, shown
from trainer.options.toml_file import from_toml, nearest_of

PRESETS = Path(__file__).resolve().parents[1] / "configs"
EXAMPLES = {"vae": "org/name", "data": "photos", "output": "runs/first"}


def parse_command_line(argv: Sequence[str]) -> TrainConfig:
    """Read the options of a run from the arguments after the program's name.

    Raises UserError for every wrong flag, value or file: a mistake of usage, exit code 2.
    `--help` prints and raises SystemExit(0).
    """
    flags = read_flags(argv)
    return TrainConfig(**_complete(resolve(flags)))


def resolve(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Merge flags over the TOML file over the preset, by field name.

    A preset's val_data goes with the preset's own data: it is dropped where data is replaced.
    A run that is resumed without a TOML file takes the one it wrote itself.
    """
    path = flags.get("config") or _own_file(flags)
    file = from_toml(path) if path else {}
    given = file | dict(flags)
    preset = read_preset(given.get("preset"))
    if "data" in given:
        preset.pop("val_data", None)
    return preset | given


def _own_file(flags: Mapping[str, Any]) -> Path | None:
    """Find the config.toml that a run to be resumed wrote, if there is one."""
    if not flags.get("resume") or not flags.get("output"):
        return None
    path = Path(flags["output"]) / "config.toml"
    return path if path.is_file() else None


def read_preset(name: str | None) -> dict[str, Any]:
    """Read the options of a preset by its name; none for None."""
    return {} if name is None else from_toml(PRESETS / f"{name}.toml")


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    missing = [o for o in options().values() if o.required and values.get(o.name) is None]
    if missing:
        flags = " ".join(f"{option.flag} {EXAMPLES[option.name]}" for option in missing)
        raise UserError(
            f"Expected {' and '.join(option.flag for option in missing)}, but nothing gives a "
            f"value: add {flags}, or try --preset demo --output runs/demo."
        )
    return values


# Flags


def read_flags(argv: Sequence[str]) -> dict[str, Any]:
    """Read the flags that were given, by field name, each value checked."""
    parser = build_parser()
    try:
        found, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UserError(_misuse(error)) from error
    if rest:
        raise UserError(_unknown(rest))
    return {name: _converted(options()[name], value) for name, value in vars(found).items()}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser: a flag per option, no abbreviations, nothing where a flag is absent."""
    parser = argparse.ArgumentParser(
        prog="finetune_decoder.py",
        description="Fine-tune a VAE decoder on photos.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
    )
    groups: dict[str, Any] = {}
    for option in options().values():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        groups[option.group].add_argument(option.flag, dest=option.name, **_arguments(option))
    return parser


def _arguments(option: Option) -> dict[str, Any]:
    help_text = f"{option.help} ({default_text(option)})".replace("%", "%%")
    if option.kind is bool:
        return {"action": argparse.BooleanOptionalAction, "help": help_text}
    metavar = "{" + ",".join(option.choices) + "}" if option.choices else _metavar(option)
    return {"metavar": metavar, "help": help_text}


def _metavar(option: Option) -> str:
    return {int: "N", float: "X", str: "TEXT"}[option.kind]


def default_text(option: Option) -> str:
    """Say what holds where a flag is not given."""
    if option.required:
        return "required"
    if option.kind is bool:
        return f"default: {str(option.default).lower()}"
    return f"default: {NOT_SET if option.default is None else option.default}"


def _converted(option: Option, value: Any) -> Any:
    """Turn a flag's text into the option's type; `none` unsets an optional one."""
    if value == NOT_SET and option.optional:
        return None
    if option.kind in (int, float):
        with contextlib.suppress(ValueError):  # text that is no number is refused below
            value = option.kind(value)
    return check_value(option, value)


# Mistakes


def _misuse(error: argparse.ArgumentError) -> str:
    flag = (error.argument_name or "the flag").split(",")[0].split("/")[0]
    if error.message.startswith("ignored explicit argument"):
        return (
            f"Expected {flag} without a value, but {error.message.split()[-1]} came: write "
            f"{flag} or --no-{flag[2:]}."
        )
    return (
        f"Expected one value after {flag}, but none came: write {flag} VALUE, or {flag}=VALUE "
        "where the value begins with a dash."
    )


def _unknown(rest: Sequence[str]) -> str:
    flag = next((text for text in rest if text.startswith("-")), None)
    if flag is None:
        return (
            f"Expected flags such as --data photos, but {shown(rest[0])} came without one before "
            "it: name the flag, and quote values with spaces."
        )
    flag = flag.split("=")[0]
    right = options()[nearest_of(flag, list(options().values()))]
    off = "--no-" if right.kind is bool and flag.startswith("--no-") else "--"
    return f"Expected a known flag, but {shown(flag)} is none: did you mean {off}{right.flag[2:]}?"
