"""The tables of docs/faults.rst are those of the grammar of rules."""

from __future__ import annotations

from test_docs import load


def test_tables_are_up_to_date() -> None:
    for file, text in load("list_faults").pages().items():
        assert file.read_text(encoding="utf-8") == text, "run python docs/list_faults.py"
