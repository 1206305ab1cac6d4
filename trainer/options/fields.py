"""How one option is described, and how a value is checked against that description.

An option is a field of a dataclass: its annotation gives the type and the choices, its
metadata the help and the limits. Flags, TOML keys, validation and documentation read the
same `Option`.
"""

import dataclasses
import datetime
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from trainer.errors import UserError

NOT_SET = "none"  # how a flag or a TOML key says "no value": TOML has no null
KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
LIMIT_NAMES = {
    "at_least": "at least {}",
    "above": "above {}",
    "at_most": "at most {}",
    "below": "below {}",
    "multiple_of": "a multiple of {}",
}


class Option(NamedTuple):
    """One option, as flags, TOML, validation and documentation see it."""

    name: str
    kind: type
    optional: bool
    choices: tuple[str, ...]
    default: Any
    required: bool
    group: str
    help: str
    limits: Mapping[str, float]
    also: tuple[str, ...]
    command_line_only: bool
    recipe: bool
    word: str | None  # that may stand in a number's place

    @property
    def flag(self) -> str:
        """The option's name on the command line, such as `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """What a value must be, in words: "a whole number, at least 1"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        limits = [LIMIT_NAMES[key].format(number) for key, number in self.limits.items()]
        words = ", ".join([KIND_NAMES[self.kind], *limits])
        return f"{words}, or {self.word}" if self.word else words


def option(
    group: str,
    default: Any,
    help: str,
    *,
    also: tuple[str, ...] = (),
    command_line_only: bool = False,
    recipe: bool = True,
    **limits: float,
) -> Any:
    """Declare a dataclass field as an option; `...` as the default makes it required.

    `also` are names other trainers use, for suggestions; `recipe` is false where the option
    cannot change the trained weights or names a place on this machine; `limits` are the keys
    of `LIMIT_NAMES`.
    """
    metadata = {
        "group": group,
        "help": help,
        "limits": limits,
        "also": also,
        "command_line_only": command_line_only,
        "recipe": recipe,
    }
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(config_class: type) -> dict[str, Option]:
    """List the options a dataclass declares, by name, in their order."""
    hints = get_type_hints(config_class)
    return {f.name: _option_of(f, hints[f.name]) for f in dataclasses.fields(config_class)}


def _option_of(field: dataclasses.Field, hint: Any) -> Option:
    kind, optional, choices, word = _read_hint(hint)
    required = field.default is dataclasses.MISSING
    return Option(
        name=field.name,
        kind=kind,
        optional=optional,
        choices=choices,
        default=None if required else field.default,
        required=required,
        word=word,
        **field.metadata,
    )


def _read_hint(hint: Any) -> tuple[type, bool, tuple[str, ...], str | None]:
    """Split an annotation into type, whether None is allowed, choices, and the word beside it."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kind, *others = (part for part in parts if part is not type(None))
    optional = type(None) in parts
    if get_origin(kind) is Literal:
        return str, optional, get_args(kind), None
    return kind, optional, (), get_args(others[0])[0] if others else None


# Values


def check_value(option: Option, value: object, where: str | None = None) -> Any:
    """Return the value in the option's own type, or raise UserError.

    Strict: true is no number, a whole number may stand for a float, and floats are finite.
    `where` names the place the value came from, such as a key in a file.
    """
    if value is None and option.optional:
        return None
    if option.word and value == option.word:
        return value
    if option.kind is float and type(value) is int:
        value = _to_float(value)
    if type(value) is not option.kind or not _fits(option, value):
        raise UserError(_mismatch(option, value, where or option.flag))
    if option.kind is str:
        _check_text(value, where or option.flag)
    return value


def _to_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _fits(option: Option, value: Any) -> bool:
    if option.choices:
        return value in option.choices
    if option.kind is float and not math.isfinite(value):
        return False
    return all(_within(limit, value, number) for limit, number in option.limits.items())


def _within(limit: str, value: float, number: float) -> bool:
    match limit:
        case "at_least":
            return value >= number
        case "above":
            return value > number
        case "at_most":
            return value <= number
        case "below":
            return value < number
        case "multiple_of":
            return value % number == 0
    raise ValueError(f"expected a limit out of {sorted(LIMIT_NAMES)}, but came {limit!r}")


def _check_text(text: str, where: str) -> None:
    if not text.strip():
        raise UserError(f"Expected a value for {where}, but an empty text came: fill it in.")
    if "\0" in text:
        raise UserError(
            f"Expected {where} without NUL characters, but {shown(text)} has one: remove it."
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(
            f"Expected {where} to be UTF-8, but {shown(text)} is not: rename it, or reach it "
            "through a link with a plain name."
        )


def _mismatch(option: Option, value: object, where: str) -> str:
    sentence = f"Expected {where} to be {option.expected}, but got {shown(value)}"
    if option.choices and isinstance(value, str):
        return f"{sentence}: did you mean {nearest(value, option.choices)}?"
    if option.default is None:
        return f"{sentence}: give such a value, or leave it out."
    return f"{sentence}: try {_as_text(option.default)}."


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: object) -> str:
    """Show a value in a message: escaped, short, and in words where its code would confuse."""
    if isinstance(value, bool):
        return _as_text(value)
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, datetime.date | datetime.time):
        return f"the date or time {value}"
    text = repr(value) if isinstance(value, str) else _number_text(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _number_text(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an int beyond Python's own limit for printing
        return "a number of thousands of digits"


def nearest(name: str, names: Iterable[str]) -> str:
    """Name the right name that is nearest to a wrong one."""
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]
