"""Make names from outside safe to show: in a terminal, a page, a spreadsheet.

A file name may hold escape codes that drive a terminal, marks that turn the text around, bytes
that are no text at all, or a formula. Whatever comes from outside passes through here first.
"""

import unicodedata

# Cc control, Cf format (bidi marks, zero-width), Cs lone surrogates, Co private, Cn unassigned,
# Zl and Zp line and paragraph separators: none of them shows itself.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")


def printable(text: str) -> str:
    """Return the text with every character that does not show written as an escape.

    An undecodable byte, which Python keeps as a lone surrogate, becomes `\\xff` again.
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def spreadsheet_cell(text: str) -> str:
    """Return the text so that a spreadsheet shows it instead of computing it.

    Source: OWASP ASVS 4.0.3, 5.2.x / 5.0, 1.2.10 (CSV and formula injection).
    """
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
