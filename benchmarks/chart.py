"""A picture of the fan-out results: bars, as an SVG that reads well on light and dark pages."""

from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.lib.table import Cell

WIDTH, LABEL, BAR, ROW, TOP = 900, 275, 195, 24, 92
GAP = 20
STYLE = """
  svg { font-family: system-ui, sans-serif; font-size: 13px }
  .ground { fill: #f6f8f9 } .title { font-size: 17px; font-weight: 600; fill: #1d2a31 }
  .head { font-weight: 600; fill: #1d2a31 } .note { fill: #51636e; font-size: 12px } text { fill: #1d2a31 }
  .rail { fill: #e4eaed } .bridge { fill: #12708f } .bare { fill: #8b9aa3 } .peer { fill: #c0662b }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #151c20 } .title, .head, text { fill: #e3eaee } .note { fill: #9fb0ba }
    .rail { fill: #263138 } .bridge { fill: #3aa7cb } .bare { fill: #75858f } .peer { fill: #e08a4f }
  }
""".rstrip()


def spoken(value: float) -> str:
    """A rate in few characters: 23.2 M, 128 k, 950."""
    for limit, unit in ((1e6, " M"), (1e3, " k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.3g}{unit}"
    return f"{value:.0f}"


def bars(title: str, panels: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Cell]], note: str) -> str:
    """One line for each row (`system`, `kind`), one bar for each panel (column, its heading)."""
    said = escape(title)
    height = TOP + ROW * len(rows) + 34
    most = {column: max((_number(row, column) for row in rows), default=0.0) or 1.0 for column, _ in panels}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{said}">',
        f"<style>{STYLE}\n</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="10"/>',
        f'<text class="title" x="20" y="34">{said}</text>',
    ]
    for index, (_, heading) in enumerate(panels):
        lines.append(f'<text class="head" x="{_left(index)}" y="{TOP - 20}">{escape(heading)}</text>')
    for number, row in enumerate(rows):
        y = TOP + ROW * number
        lines.append(f'<text x="{LABEL}" y="{y + 12}" text-anchor="end">{escape(str(row["system"]))}</text>')
        for index, (column, _) in enumerate(panels):
            x, value = _left(index), _number(row, column)
            width = max(1.0, BAR * value / most[column])
            place = f'x="{x}" y="{y}" height="15"'
            lines += [
                f'<rect class="rail" {place} width="{BAR}" rx="3"/>',
                f'<rect class="{row["kind"]}" {place} width="{width:.1f}" rx="{min(3, width / 2):g}"/>',
                f'<text x="{x + BAR + 8}" y="{y + 12}">{spoken(value)}</text>',
            ]
    lines += [f'<text class="note" x="20" y="{height - 14}">{escape(note)}</text>', "</svg>"]
    return "\n".join(lines) + "\n"


def _left(index: int) -> int:
    return LABEL + GAP + index * (BAR + 95)


def _number(row: Mapping[str, Cell], column: str) -> float:
    value = row.get(column)
    return float(value) if isinstance(value, (int, float)) else 0.0
