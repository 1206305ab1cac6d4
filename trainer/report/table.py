"""The table before / after for the terminal."""

from collections.abc import Sequence

from trainer.report.figures import GROUP_TITLES, Block, Cell, Report, blocks, groups, labels
from trainer.report.verdict import verdict

LONGEST_NAME = 24


def print_table(report: Report) -> str:
    """Lay the figures out in columns of fixed width, ASCII alone, verdict last."""
    names = [_short(label) for label in labels(report).values()]
    lines = []
    for group in groups(report):
        lines += [GROUP_TITLES[group], *_table(names, blocks(report, group)), ""]
    found = verdict(report)
    return "\n".join([*lines, found.headline, *found.details])


def _table(names: Sequence[str], parts: Sequence[Block]) -> list[str]:
    header = ["", *_spread(names, [""] + ["change"] * (len(names) - 1))]
    rows = [[f"    {row.label}", *_texts(row.cells)] for part in parts for row in part.rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines, left = [_line(header, widths)], iter(rows)
    for part in parts:
        lines.append(f"  {part.title}: {part.count}")
        lines += [_line(next(left), widths) for _ in part.rows]
    return lines


def _texts(cells: Sequence[Cell]) -> list[str]:
    changes = [
        " ".join(part for part in (cell.change, cell.interval, cell.tone, gained(cell)) if part)
        for cell in cells
    ]
    return _spread([cell.value for cell in cells], changes)


def gained(cell: Cell) -> str:
    """Say how many photos gained, where an interval stands beside it; of few it says little."""
    return f"({cell.gained})" if cell.interval else ""


def _spread(values: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Put the change behind each value but the first, which has none."""
    pairs = zip(values[1:], changes[1:], strict=True)
    return [values[0], *(text for pair in pairs for text in pair)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Align the label left, numbers right, and changes left."""
    aligned = [
        cell.ljust(width) if i == 0 or (i > 1 and i % 2) else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _short(name: str) -> str:
    """Cut a model's name to its end, where names of files differ; only ASCII is left."""
    plain = name.encode("ascii", "backslashreplace").decode()
    return plain if len(plain) <= LONGEST_NAME else "..." + plain[3 - LONGEST_NAME :]
