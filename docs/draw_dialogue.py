"""Draw ``dialogue.svg`` from the table of the dialogue itself: what may be said when, and where it leads.

    python docs/draw_dialogue.py            # writes docs/dialogue.svg

A box is a phase, with the commands that change nothing there; an arrow is what an answer leads to: a full line for yes (2yz, 3yz), a
dashed one for no (4yz, 5yz). QUIT ends every phase, so it has no arrows.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

from smtp_trio.protocol import Command, Grammar, Phase, Quit
from smtp_trio.protocol.extensions import STANDARD

WIDTH, HEIGHT, COLUMN, ROW, MARGIN = 210, 66, 330, 132, 40

#: Where the boxes stand: column, row. The transaction runs down the middle.
PLACES = {
    "CONNECTED": (1, 0),
    "REJECTED": (0, 0),
    "GREETED": (1, 1),
    "HANDSHAKE": (2, 1.5),
    "READY": (1, 2),
    "EXCHANGE": (0, 2),
    "SENDER": (1, 3),
    "RECIPIENT": (1, 4),
    "BODY": (0, 4),
    "CHUNKS": (2, 4),
    "SPOILT": (2, 3),
    "CLOSED": (0, 1),
}
STYLE = """
  text { font: 12px sans-serif; fill: #222 } .name { font-weight: bold; font-size: 13px } .small { font-size: 10px; fill: #555 }
  rect { fill: #f4f7fb; stroke: #34608c } path { fill: none; stroke: #34608c } .no { stroke: #b3402a; stroke-dasharray: 5 4 }
  .label { font-size: 11px } .refusal { fill: #b3402a } .halo { font-size: 11px; fill: #fff; stroke: #fff; stroke-width: 5px }
"""

Edge = tuple[str, str, bool]


def verb(command: type[Command]) -> str:
    """How a command is called on an arrow."""
    return "BDAT LAST" if command.__name__ == "BdatLast" else command.verb


def edges() -> tuple[dict[Edge, list[str]], dict[str, list[str]]]:
    """The arrows (from, to, whether it is a yes) with their commands, and by phase the commands that change nothing."""
    table = Grammar(STANDARD).table
    arrows: dict[Edge, list[str]] = defaultdict(list)
    loops: dict[str, list[str]] = defaultdict(list)
    for rows, yes in ((table.accepted, True), (table.proceed, True), (table.refused, False)):
        for command, leads in rows.items():
            for phase, target in leads.items():
                if command is Quit:
                    continue
                if phase is target:
                    if verb(command) not in loops[phase.name]:
                        loops[phase.name].append(verb(command))
                else:
                    arrows[phase.name, target.name, yes].append(verb(command))
    return arrows, loops


def centre(name: str) -> tuple[float, float]:
    """The middle of a phase's box."""
    column, row = PLACES[name]
    return MARGIN + WIDTH / 2 + column * COLUMN, MARGIN + HEIGHT / 2 + row * ROW


def box(phase: enum.Enum, loops: list[str]) -> str:
    """A phase."""
    x, y = centre(phase.name)
    lines = [("name", phase.name), ("small", str(phase.value))]
    for start in range(0, len(loops), 5):
        lines.append(("small", " ".join(loops[start : start + 5])))
    texts = "".join(
        f'<text class="{style}" x="{x:g}" y="{y - 15 + 14 * n:g}" text-anchor="middle">{escape(text)}</text>'
        for n, (style, text) in enumerate(lines)
    )
    return f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>{texts}'


def arrow(edge: Edge, commands: list[str]) -> str:
    """An arrow: straight to a neighbour, around what stands between otherwise; arrows back keep to the right."""
    source, target, yes = edge
    (x1, y1), (x2, y2) = centre(source), centre(target)
    if x1 == x2:
        down = y2 > y1
        far = abs(y2 - y1) > ROW * 1.1
        shift = 0 if yes and down else 60 if yes else -70
        bend = (WIDTH * 0.75 if far else 0) + (0 if down else 30)
        x1, x2 = x1 + shift, x2 + shift
        y1, y2 = y1 + (HEIGHT / 2 if down else -HEIGHT / 2), y2 - (HEIGHT / 2 if down else -HEIGHT / 2)
        middle = (x1 + (bend if yes else -bend), (y1 + y2) / 2)
    else:
        right = x2 > x1
        rise = 16 if yes == (source in ("READY", "RECIPIENT")) else -16
        x1, x2 = x1 + (WIDTH / 2 if right else -WIDTH / 2), x2 - (WIDTH / 2 if right else -WIDTH / 2)
        y1, y2 = y1 + rise, y2 + rise
        middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    style, label, t = ("", "label", 0.5) if yes else ("no", "label refusal", 0.36)
    mx, my = middle
    x = (1 - t) ** 2 * x1 + 2 * t * (1 - t) * mx + t**2 * x2
    y = (1 - t) ** 2 * y1 + 2 * t * (1 - t) * my + t**2 * y2 + 4
    words = escape(" ".join(dict.fromkeys(commands)))
    path = f'<path class="{style}" marker-end="url(#head)" d="M{x1:g},{y1:g} Q{mx:g},{my:g} {x2:g},{y2:g}"/>'
    halo, text = (
        f'<text class="{name}" x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{words}</text>' for name in ("halo", label)
    )
    return path + halo + text


def draw() -> str:
    """The whole picture, as SVG."""
    arrows, loops = edges()
    phases: dict[str, enum.Enum] = {phase.name: phase for phase in Phase}
    for rows in Grammar(STANDARD).table.legal.values():
        phases.update((phase.name, phase) for phase in rows)
    for (_, target, _), _ in arrows.items():
        assert target in PLACES, f"{target} has no place in the picture yet"
    table = Grammar(STANDARD).table
    for rows in (*table.accepted.values(), *table.proceed.values(), *table.refused.values()):  # type: ignore[assignment]
        phases.update((phase.name, phase) for phase in rows.values())  # type: ignore[attr-defined]
    width, height = 2 * MARGIN + WIDTH + 2 * COLUMN, 2 * MARGIN + HEIGHT + 4 * ROW
    parts = [arrow(edge, commands) for edge, commands in arrows.items()]
    parts += [box(phase, loops[name]) for name, phase in phases.items()]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{STYLE}</style><title>The dialogue: phases, and what each answer leads to</title>"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" style="fill:#34608c;stroke:none"/></marker></defs>'
        f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>'
    )
    return head + "\n" + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    Path(__file__).with_name("dialogue.svg").write_text(draw())
