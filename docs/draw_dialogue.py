"""Draw ``dialogue.svg`` from the table of the dialogue itself: what may be said when, and where it leads.

    python docs/draw_dialogue.py            # writes docs/dialogue.svg

A box is a phase, with the commands that change nothing there; an arrow is what an answer leads to. What leads to one phase from
nearly everywhere has no arrows: QUIT goes without saying, EHLO, HELO and RSET stand in the boxes.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from smtp_trio.protocol import Command, Ehlo, Grammar, Helo, Phase, Quit, Rset
from smtp_trio.protocol.extensions import STANDARD
from smtp_trio.protocol.extensions.chunking import BdatLast

FILE = Path(__file__).with_name("dialogue.svg")
WIDTH, HEIGHT, COLUMN, ROW, MARGIN = 210, 68, 420, 128, 30

#: Where the boxes stand: column, row. The transaction runs down the middle.
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
    "An arrow is what an answer leads to: black words for yes (2yz, 3yz), red ones for no (4yz, 5yz).",
    "In a box stands what changes nothing there.",
    "QUIT leads to CLOSED wherever it may be given.",
)
STYLE = """
  text { font: 12px sans-serif; fill: #222 } .name { font-weight: bold; font-size: 13px } .small { font-size: 10px; fill: #555 }
  rect { fill: #f4f7fb; stroke: #34608c } path { fill: none; stroke: #34608c } .no { stroke: #b3402a; stroke-dasharray: 5 4 }
  .halo { fill: #fff; stroke: #fff; stroke-width: 8px } .refusal { fill: #b3402a }
"""
HEAD = """<marker id="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto">\
<path d="M0,0 L8,4 L0,8 z" style="fill:{};stroke:none"/></marker>"""

Words = dict[str, None]  # in order, each once


def steps() -> Iterator[tuple[type[Command], enum.Enum, enum.Enum, bool]]:
    """The table, row by row: a command, from where to where, and whether the answer is a yes."""
    table = Grammar(STANDARD).table
    for rows, yes in ((table.accepted, True), (table.proceed, True), (table.refused, False)):
        for command, leads in rows.items():
            for source, target in leads.items():
                yield command, source, target, yes


def phases() -> dict[str, enum.Enum]:
    """All that there are, by name."""
    return {phase.name: phase for _, source, target, _ in steps() for phase in (source, target)}


def centre(name: str) -> tuple[float, float]:
    """The middle of a phase's box."""
    column, row = PLACES[name]
    return MARGIN + WIDTH / 2 + column * COLUMN, MARGIN + HEIGHT / 2 + row * ROW


def texts(x: float, y: float, lines: Iterable[tuple[str, str]], anchor: str = "middle") -> str:
    """Lines of text, each with its style, one under the other."""
    return "".join(
        f'<text class="{style}" x="{x:g}" y="{y + 14 * n:g}" text-anchor="{anchor}">{escape(text)}</text>'
        for n, (style, text) in enumerate(lines)
    )


def box(phase: enum.Enum, loops: Words, home: Words) -> str:
    """A phase."""
    x, y = centre(phase.name)
    words = list(loops)
    lines = [("name", phase.name), ("small", str(phase.value))]
    lines += [("small", " ".join(words[start : start + 5])) for start in range(0, len(words), 5)]
    lines += [("small", f"{' '.join(home)} \N{RIGHTWARDS ARROW} READY")] if home else []
    rect = f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
    return rect + texts(x, y - 15, lines)


def arrow(source: str, target: str, yes: Words, no: Words) -> tuple[str, str]:
    """An arrow and its words: straight, or around what stands between in a column."""
    (x1, y1), (x2, y2) = centre(source), centre(target)
    right, down = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
    bend = 0.0
    if not right:  # in a column
        y1, y2 = y1 + down * HEIGHT / 2, y2 - down * HEIGHT / 2
        if abs(y2 - y1) > ROW:
            x1, x2, bend = x1 + WIDTH * 0.4, x2 + WIDTH * 0.4, WIDTH * 0.5
    elif not down:  # in a row: there and back
        x1, x2, y1, y2 = x1 + right * WIDTH / 2, x2 - right * WIDTH / 2, y1 + right * 16, y2 + right * 16
    else:
        y1, x2, y2 = y1 + down * HEIGHT / 2, x2 - right * WIDTH / 2, y2 - down * HEIGHT * 0.4
    x, y = (x1 + x2) / 2 + bend * 0.75, (y1 + y2) / 2  # of the words: in the middle, or outside of the curve
    style, head = ("", "yes") if yes else ("no", "no")
    curve = f"Q{x1 + bend:g},{y:g} " if bend else "L"
    path = f'<path class="{style}" marker-end="url(#{head})" d="M{x1:g},{y1:g} {curve}{x2:g},{y2:g}"/>'
    lines = [(kind, ", ".join(words)) for kind, words in (("", yes), ("refusal", no)) if words]
    y += 4 - 7 * (len(lines) - 1)
    return path, texts(x, y, [("halo", text) for _, text in lines]) + texts(x, y, lines)


def draw() -> str:
    """The whole picture, as SVG."""
    loops, home = defaultdict[str, Words](dict), defaultdict[str, Words](dict)
    arrows = defaultdict[tuple[str, str], dict[bool, Words]](lambda: {True: {}, False: {}})
    for command, source, target, yes in steps():
        verb = "BDAT LAST" if command is BdatLast else command.verb
        if source is target:
            loops[source.name][verb] = None
        elif command in (Ehlo, Helo, Rset) and source is not Phase.GREETED:
            home[source.name][verb] = None
        elif command is not Quit:
            arrows[source.name, target.name][yes][verb] = None
    columns, rows = (max(place[axis] for place in PLACES.values()) for axis in (0, 1))
    width, height = 2 * MARGIN + WIDTH + columns * COLUMN, 2 * MARGIN + HEIGHT + rows * ROW
    lines, words = zip(*(arrow(*ends, kinds[True], kinds[False]) for ends, kinds in arrows.items()), strict=True)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            f"<style>{STYLE}</style><title>The dialogue: phases, and what each answer leads to</title>",
            f"<defs>{HEAD.format('yes', '#34608c')}{HEAD.format('no', '#b3402a')}</defs>",
            f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            *lines,
            *words,
            *(box(phase, loops[name], home[name]) for name, phase in phases().items()),
            texts(MARGIN, height - MARGIN - 28, [("small", line) for line in LEGEND], anchor="start"),
            "</svg>\n",
        )
    )


if __name__ == "__main__":
    FILE.write_text(draw(), encoding="utf-8")
