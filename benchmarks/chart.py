"""Horizontal bar charts in SVG, with one group for each case. Readable on light and dark backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from attrs import frozen

LABELS, BARS, NUMBERS, ROW, GAP, MARGIN = 230, 380, 90, 20, 46, 20
STYLE = """
  text { font: 12px sans-serif; fill: #222 } .case { font-weight: bold; font-size: 13px } .unit { fill: #666 }
  .page { fill: #fff } .bar { fill: #9db4cc } .highlighted { fill: #34608c } .label { text-anchor: end }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .unit { fill: #999 } .page { fill: #16181c } .bar { fill: #4d6075 } .highlighted { fill: #7fb2e5 }
  }
"""


@frozen
class Bar:
    """The bar of one contender."""

    label: str
    value: float
    highlighted: bool


@frozen
class Group:
    """The bars of one case."""

    title: str
    unit: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return GAP + ROW * len(self.bars)

    def draw(self, top: int) -> str:
        """Return the SVG elements of the group, placed at ``top``."""
        longest = max(bar.value for bar in self.bars)
        title = f'<text class="case" x="{MARGIN}" y="{top + 24}">{escape(self.title)}'
        lines = [f'{title} <tspan class="unit" font-weight="normal">{escape(self.unit)}</tspan></text>']
        for number, bar in enumerate(self.bars):
            y, width = top + 34 + ROW * number, max(1.0, BARS * bar.value / longest)
            style = "highlighted" if bar.highlighted else "bar"
            lines += [
                f'<text class="label" x="{MARGIN + LABELS}" y="{y + 13}">{escape(bar.label)}</text>',
                f'<rect class="{style}" x="{MARGIN + LABELS + 8}" y="{y + 2}" width="{width:.1f}" height="{ROW - 5}"/>',
                f'<text x="{MARGIN + LABELS + 14 + width:.1f}" y="{y + 13}">{format_number(bar.value)}</text>',
            ]
        return "\n".join(lines)


def format_number(value: float) -> str:
    """Return a number with three significant digits, and with commas between thousands."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def draw(title: str, groups: Sequence[Group]) -> str:
    """Return the SVG document."""
    width, top, parts = 2 * MARGIN + LABELS + BARS + NUMBERS, MARGIN // 2, []
    for group in groups:
        parts.append(group.draw(top))
        top += group.height
    height = top + MARGIN
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f"<style>{STYLE}</style><title>{escape(title)}</title>",
            f'<rect class="page" width="{width}" height="{height}"/>',
            *parts,
            "</svg>\n",
        )
    )
