"""The one place where text becomes HTML, JSON inside HTML, or Markdown.

A page is built from `element` alone: what is not `Markup` is escaped there, so a photo's name
can hold any text and stay a text.
"""

import html
import json
import re
from collections.abc import Iterable
from typing import Any

from trainer.names import printable
from trainer.numbers import finite_or_none

_VOID = {"meta", "img", "input", "br", "hr", "col"}
# A name or value could otherwise end a script, open a comment, or end a line in old parsers.
_JSON_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]|~$])")


class Markup(str):
    """HTML that is already escaped: made by `element`, `join` and `verbatim` only."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escape a value for HTML, in content and in quoted attributes; control signs are shown."""
    return value if isinstance(value, Markup) else Markup(html.escape(printable(str(value))))


def join(children: Any) -> Markup:
    """Concatenate children, escaping those that are no Markup; None vanishes, lists are opened."""
    if children is None:
        return Markup()
    if isinstance(children, Iterable) and not isinstance(children, str):
        return Markup("".join(join(child) for child in children))
    return text(children)


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Build one element; `class_` and `data_x` stand for class and data-x, None leaves out."""
    opening = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{join(children)}</{name}>")


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'


def verbatim(source: str) -> Markup:
    """Take text of our own files (style, script, data from `json_text`) as it stands."""
    return Markup(source)


def json_text(value: Any) -> str:
    """Write JSON that may stand inside a script element; NaN and infinities become null."""
    plain = json.dumps(finite_or_none(value), allow_nan=False, ensure_ascii=False)
    return plain.translate(_JSON_ESCAPES)


def markdown(value: object) -> str:
    """Escape a value for inside a line of Markdown, in a table cell too: it stays what it says."""
    return html.escape(_MARKDOWN_SIGNS.sub(r"\\\1", printable(str(value))), quote=False)
