"""The tables of extensions in README.md and docs/extensions.rst are those of the extensions themselves."""

from __future__ import annotations

from test_docs import load

from smtp_trio.protocol.extensions import KNOWN

tables = load("list_extensions")


def test_tables_are_up_to_date() -> None:
    for file, text in tables.pages().items():
        assert file.read_text(encoding="utf-8") == text, "run python docs/list_extensions.py"


def test_each_extension_has_an_rfc_and_a_title() -> None:
    for row in map(tables.row, KNOWN):
        assert row.rfc or row.keyword in ("XCLIENT", "XFORWARD"), row.keyword
        assert 5 < len(row.title) < 60, row.keyword


def test_table_shows_what_is_default() -> None:
    defaults = {row.keyword: row.default for row in map(tables.row, KNOWN)}
    assert defaults["SIZE"]
    assert not defaults["BINARYMIME"]
