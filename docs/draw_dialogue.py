"""Draw ``dialogue.svg``, a diagram of the state table.

    python docs/draw_dialogue.py            # writes docs/dialogue.svg

A box is a phase, with the commands that do not change it. An arrow is a reply that leads to another phase. Commands
that lead to one phase from nearly all others have no arrows: QUIT leads to CLOSED, and EHLO, HELO and RSET are in the boxes.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from smtp_trio.protocol import Command, Ehlo, Helo, Phase, Quit, Rset
from smtp_trio.protocol.extensions import STANDARD
from smtp_trio.protocol.extensions.chunking import BdatLast
from smtp_trio.protocol.grammar import Grammar

FILE = Path(__file__).with_name("dialogue.svg")
# The diagram is shown at the width of the text, about 750 px, so it is drawn in that size: boxes of WIDTH x HEIGHT, in
# columns and rows of the given distance.
WIDTH, HEIGHT, COLUMN, ROW, MARGIN = 186, 94, 296, 150, 8
LINE_HEIGHT = 15
VERBS_PER_LINE = 3

#: The column and row of each phase. The transaction is the middle column.
PLACES = {
    "REJECTED": (0, 0),
    "CONNECTED": (1, 0),
    "CLOSED": (0, 1),
    "GREETED": (1, 1),
    "EXCHANGE": (0, 2),
    "READY": (1, 2),
    "HANDSHAKE": (2, 2),
    "SENDER": (1, 3),
    "MESSAGE": (0, 4),
    "RECIPIENT": (1, 4),
    "CHUNKS": (2, 4),
    "CHUNK_REFUSED": (2, 5),
}
LEGEND = (
    "Arrows: a positive reply (2yz, 3yz; solid) or a refusal (4yz, 5yz; dashed, red).",
    "The commands in a box do not change the phase, or lead to READY.",
    "QUIT leads to CLOSED wherever it is allowed.",
)
STYLE = """
  text { font: 13px sans-serif; fill: #222 } .name { font-weight: bold; font-size: 14px } .small { font-size: 12px; fill: #444 }
  rect { fill: #f4f7fb; stroke: #34608c } path { fill: none; stroke: #34608c } .no { stroke: #b3402a; stroke-dasharray: 5 4 }
  .halo { fill: #fff; stroke: #fff; stroke-width: 8px } .refusal { fill: #b3402a }
"""
MARKER = """<marker id="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto">\
<path d="M0,0 L8,4 L0,8 z" style="fill:{};stroke:none"/></marker>"""

Verbs = dict[str, None]  # an ordered set


def steps() -> Iterator[tuple[type[Command], enum.Enum, enum.Enum, bool]]:
    """Yield the rows of the table: command, phase before, phase after, and whether the reply is positive."""
    table = Grammar(STANDARD).table
    for rows, positive in ((table.accepted, True), (table.proceed, True), (table.refused, False)):
        for command, targets in rows.items():
            for source, target in targets.items():
                yield command, source, target, positive


def phases() -> dict[str, enum.Enum]:
    """Return all phases by name."""
    return {phase.name: phase for _, source, target, _ in steps() for phase in (source, target)}


def centre(name: str) -> tuple[float, float]:
    """Return the centre of a phase's box."""
    column, row = PLACES[name]
    return MARGIN + WIDTH / 2 + column * COLUMN, MARGIN + HEIGHT / 2 + row * ROW


def texts(x: float, y: float, lines: Iterable[tuple[str, str]], anchor: str = "middle") -> str:
    """Return SVG for lines of text, each with its CSS class."""
    return "".join(
        f'<text class="{style}" x="{x:g}" y="{y + LINE_HEIGHT * n:g}" text-anchor="{anchor}">{escape(text)}</text>'
        for n, (style, text) in enumerate(lines)
    )


def box(phase: enum.Enum, loops: Verbs, to_ready: Verbs) -> str:
    """Return SVG for a phase, with the verbs that do not change it and those that lead to READY."""
    x, y = centre(phase.name)
    verbs = list(loops)
    lines = [("name", phase.name), ("small", str(phase.value))]
    lines += [
        ("small", " ".join(verbs[start : start + VERBS_PER_LINE])) for start in range(0, len(verbs), VERBS_PER_LINE)
    ]
    lines += [("small", f"{' '.join(to_ready)} \N{RIGHTWARDS ARROW} READY")] if to_ready else []
    rect = f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
    return rect + texts(x, y + 5 - LINE_HEIGHT * (len(lines) - 1) / 2, lines)


def arrow(source: str, target: str, positive: Verbs, negative: Verbs) -> tuple[str, str]:
    """Return SVG for an arrow and its verbs: straight, or curved around the boxes between its ends."""
    (x1, y1), (x2, y2) = centre(source), centre(target)
    right, down = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
    bend = 0.0
    if not right:  # within a column
        y1, y2 = y1 + down * HEIGHT / 2, y2 - down * HEIGHT / 2
        if abs(y2 - y1) > ROW:
            x1, x2, bend = x1 + WIDTH * 0.4, x2 + WIDTH * 0.4, WIDTH * 0.55
    elif not down:  # within a row; the two directions are drawn side by side
        x1, x2, y1, y2 = x1 + right * WIDTH / 2, x2 - right * WIDTH / 2, y1 + right * 20, y2 + right * 20
    else:
        y1, x2, y2 = y1 + down * HEIGHT / 2, x2 - right * WIDTH / 2, y2 - down * HEIGHT * 0.35
    # The text is in the middle of a line, and at the lower end of a curve.
    x, y = (x1 + x2) / 2 + bend * 0.6, (y1 + y2) / 2 + bend * 0.62
    style, head = ("", "yes") if positive else ("no", "no")
    curve = f"Q{x1 + bend:g},{y:g} " if bend else "L"
    path = f'<path class="{style}" marker-end="url(#{head})" d="M{x1:g},{y1:g} {curve}{x2:g},{y2:g}"/>'
    separator = " " if right and not down else ", "
    lines = [
        (kind, line)
        for kind, verbs in (("", positive), ("refusal", negative))
        for line in (verbs if separator == " " else [", ".join(verbs)] if verbs else [])
    ]
    y += 4 - LINE_HEIGHT / 2 * (len(lines) - 1)
    return path, texts(x, y, [("halo", text) for _, text in lines]) + texts(x, y, lines)


def draw() -> str:
    """Return the diagram as SVG."""
    loops, to_ready = defaultdict[str, Verbs](dict), defaultdict[str, Verbs](dict)
    arrows = defaultdict[tuple[str, str], dict[bool, Verbs]](lambda: {True: {}, False: {}})
    for command, source, target, positive in steps():
        verb = "BDAT LAST" if command is BdatLast else command.verb
        if source is target:
            loops[source.name][verb] = None
        elif command in (Ehlo, Helo, Rset) and source is not Phase.GREETED:
            to_ready[source.name][verb] = None
        elif command is not Quit:
            arrows[source.name, target.name][positive][verb] = None
    columns, rows = (max(place[axis] for place in PLACES.values()) for axis in (0, 1))
    width, height = 2 * MARGIN + WIDTH + columns * COLUMN, 2 * MARGIN + HEIGHT + rows * ROW
    lines, labels = zip(*(arrow(*ends, kinds[True], kinds[False]) for ends, kinds in arrows.items()), strict=True)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            f"<style>{STYLE}</style><title>The phases of a session and the replies that lead from one to the next</title>",
            f"<defs>{MARKER.format('yes', '#34608c')}{MARKER.format('no', '#b3402a')}</defs>",
            f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            *lines,
            *labels,
            *(box(phase, loops[name], to_ready[name]) for name, phase in phases().items()),
            texts(MARGIN, height - MARGIN - 40, [("small", line) for line in LEGEND], anchor="start"),
            "</svg>\n",
        )
    )


if __name__ == "__main__":
    FILE.write_text(draw(), encoding="utf-8")
