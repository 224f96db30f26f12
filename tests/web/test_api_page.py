"""docs/api.inc is what the operations say, and describes each of them."""

from __future__ import annotations

from test_docs import DOCS, load

from smtp_trio.web._app import description

page = load("describe_api")


def test_page_is_up_to_date() -> None:
    assert (DOCS / "api.inc").read_text(encoding="utf-8") == page.page(), "run python docs/describe_api.py"


def test_page_has_each_operation() -> None:
    text = page.page()
    for path, methods in description()["paths"].items():
        for method in methods:
            assert f"``{method.upper()} {path}``" in text


def test_operations_have_different_ids_and_sentences_without_a_full_stop() -> None:
    operations = [each for methods in description()["paths"].values() for each in methods.values()]
    ids = [each["operationId"] for each in operations]
    assert len(set(ids)) == len(ids)
    assert [each["operationId"] for each in operations if each["summary"].endswith(".")] == []
