"""docs/dialogue.svg shows the state table."""

from __future__ import annotations

from test_docs import load

drawing = load("draw_dialogue")


def test_diagram_is_up_to_date() -> None:
    assert drawing.FILE.read_text(encoding="utf-8") == drawing.draw(), "run python docs/draw_dialogue.py"


def test_every_phase_has_its_own_place() -> None:
    assert set(drawing.phases()) == set(drawing.PLACES)
    assert len(set(drawing.PLACES.values())) == len(drawing.PLACES)
