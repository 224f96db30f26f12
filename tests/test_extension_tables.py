"""The tables of extensions in README.md and docs/extensions.rst are those of the extensions themselves."""

from __future__ import annotations

import re

from test_docs import DOCS, load

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


def test_omissions_are_not_implemented() -> None:
    """No extension has a keyword that docs/omissions.rst lists, and each RFC whose parts it lists has an extension."""
    page = (DOCS / "omissions.rst").read_text(encoding="utf-8")
    parts, _, keywords = page.partition("\nExtensions\n----------\n")
    omitted = [word for row in re.findall(r"^   \* - ([A-Z].*)", keywords, re.MULTILINE) for word in row.split(", ")]
    known = {row.keyword for row in map(tables.row, KNOWN)}
    assert {"CHECKPOINT", "TURN"} < set(omitted)
    assert known & set(omitted) == set()
    named = {
        word
        for row in re.findall(r"^   \* - (:rfc.*)", parts, re.MULTILINE)
        for word in re.findall(r"\(([A-Z0-9-]+)\)", row)
    }
    assert named - {"SMTP", "SCRAM"} <= known
