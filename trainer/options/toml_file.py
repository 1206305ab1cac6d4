"""Read and write the options of a run as TOML: strict types, names checked, UTF-8.

TOML has no null, so an option without a value is written, and read, as the text "none".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomllib

from trainer.errors import UserError
from trainer.options.config import TrainConfig, options
from trainer.options.fields import NOT_SET, Option, check_value, nearest, shown

VERSIONS = "versions"
LARGEST = 1_000_000  # bytes; an options file has a few thousand


def from_toml(path: str | Path) -> dict[str, Any]:
    """Read the options a TOML file gives, by field name, checked one by one.

    Dashes and underscores in names are the same; the table `[versions]` is ignored. Raises
    UserError, naming the file, for what cannot be read, is no option, or has the wrong type.
    """
    path = Path(path)
    table = _parse(_read(path), path.name)
    if isinstance(table.get(VERSIONS), dict):
        del table[VERSIONS]
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = _option_named(key, path.name)
        if option.name in values:
            raise UserError(
                f"Expected {option.name} once in {path.name}, but it stands there with a dash and "
                "with an underscore: remove one."
            )
        values[option.name] = _value(option, value, path.name)
    return values


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"Expected --config to be a TOML file, but {shown(str(path))} cannot be read "
            f"({reason}): check the path."
        ) from error
    if len(content) > LARGEST:
        raise UserError(
            f"Expected a TOML file of options, but {path.name} is larger than 1 MB: is it another "
            "file?"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"Expected {path.name} to be UTF-8, but its byte {error.start} is not: save it as "
            "UTF-8 text."
        ) from error


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else error
        raise UserError(
            f"Expected TOML in {name}, but it does not read ({reason}): write lines such as "
            'batch_size = 4 or data = "photos", with Windows paths in single quotes.'
        ) from error


def _option_named(key: str, file_name: str) -> Option:
    option = options().get(key.replace("-", "_"))
    if option is None:
        raise UserError(
            f"Expected only options in {file_name}, but {shown(key)} is none: did you mean "
            f"{_nearest_option(key)}?"
        )
    if option.command_line_only:
        raise UserError(
            f"Expected {option.flag} on the command line, but it stands in {file_name}: remove it "
            "there."
        )
    return option


def _nearest_option(key: str) -> str:
    allowed = [option for option in options().values() if not option.command_line_only]
    return nearest_of(key, allowed)


def nearest_of(name: str, allowed: list[Option]) -> str:
    """Name the option that is nearest to a wrong name, also by other trainers' names for it."""
    known = {other: option.name for option in allowed for other in (*option.also, option.name)}
    return known[nearest(name.strip("-").replace("-", "_"), known)]


def _value(option: Option, value: object, file_name: str) -> Any:
    if value == NOT_SET and option.optional:
        return None
    return check_value(option, value, f"{option.name} in {file_name}")


# Writing


def to_toml(config: TrainConfig, versions: Mapping[str, str]) -> str:
    """Write every option as resolved, but for those of the command line alone, and versions."""
    kept = [option for option in options().values() if not option.command_line_only]
    lines = [f"{option.name} = {_literal(getattr(config, option.name))}" for option in kept]
    lines += ["", f"[{VERSIONS}]"]
    lines += [f"{_quoted(name)} = {_quoted(number)}" for name, number in versions.items()]
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    if value is None:
        return _quoted(NOT_SET)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """Write a TOML basic string; control characters are escaped."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if ord(letter) < 32 or ord(letter) == 127 else letter
