"""The picture in the documentation is that of the table."""

from __future__ import annotations

from test_docs import load

drawing = load("draw_dialogue")


def test_the_picture_is_what_the_table_gives() -> None:
    assert drawing.FILE.read_text(encoding="utf-8") == drawing.draw(), "run python docs/draw_dialogue.py"


def test_every_phase_has_a_place_of_its_own() -> None:
    assert set(drawing.phases()) == set(drawing.PLACES)
    assert len(set(drawing.PLACES.values())) == len(drawing.PLACES)
