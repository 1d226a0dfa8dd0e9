"""Rows as a table, for the terminal and for Markdown."""

from collections.abc import Mapping, Sequence

Cell = str | int | float | None


def shown(cell: Cell) -> str:
    """Three digits that mean something, thousands apart; nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, (str, bool)):
        return str(cell)
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"


def terminal(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str] | None = None) -> str:
    """Columns side by side: text to the left, numbers to the right. Default: all columns that any row has."""
    names, cells = _cells(rows, columns)
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    right = [all(not isinstance(row.get(name), str) for row in rows) for name in names]
    lines = [
        "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in columns_of_one)
        for columns_of_one in (list(zip(line, widths, right, strict=True)) for line in (names, *cells))
    ]
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str] | None = None) -> str:
    """The same as a Markdown table."""
    names, cells = _cells(rows, columns)
    right = [all(not isinstance(row.get(name), str) for row in rows) for name in names]
    rule = ["--:" if to_right else "---" for to_right in right]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (names, rule, *cells)
    )


def _cells(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str] | None) -> tuple[list[str], list[list[str]]]:
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    return names, [[shown(row.get(name)) for name in names] for row in rows]
