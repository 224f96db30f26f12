"""Write ``api.inc``, the reference of the JSON API, from the same operations as its OpenAPI description.

python docs/describe_api.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smtp_trio.web._app import description

PAGE = Path(__file__).with_name("api.inc")
BEGIN = ".. Written by ``python docs/describe_api.py``.\n\n"
TABLE = ".. list-table::\n   :header-rows: 1\n   :widths: {}\n\n"
#: The operations that other programs define. They are listed, and not described.
OTHERS = ("/api/v1/", "/view/")

Json = Mapping[str, Any]


def table(widths: str, rows: list[list[str]]) -> str:
    """Return a table whose first row is its header."""
    lines = [f"   {'  ' if i else '* '}- {cell}".rstrip() for row in rows for i, cell in enumerate(row)]
    return TABLE.format(widths) + "\n".join(lines) + "\n"


def type_of(schema: Json) -> str:
    """Return the type of a value in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"`{name}`_" if name != "Error" else "object"
    kind = schema.get("type", "any value")
    kinds = kind if isinstance(kind, list) else [kind]
    if "enum" in schema:
        return " or ".join(f'``"{value}"``' for value in schema["enum"])
    if "const" in schema:
        return f"``{schema['const']!r}``"
    text = " or ".join(kinds)
    if "array" in kinds and "items" in schema:
        text = text.replace("array", f"array of {type_of(schema['items'])}")
    if "array" in kinds and "prefixItems" in schema:
        text = text.replace("array", f"array of {len(schema['prefixItems'])} strings")
    if schema.get("format") == "date-time":
        text = text.replace("string", "time (ISO 8601)")
    return text


def range_of(schema: Json) -> str:
    """Return the limits and the default of a parameter in words, each after a comma."""
    low, high = schema.get("minimum"), schema.get("maximum")
    text = f", {low} to {high}" if high is not None else f", at least {low}" if low is not None else ""
    return text + (f"; default: ``{str(schema['default']).lower()}``" if "default" in schema else "")


def sentence(text: str) -> str:
    """Return a text with a full stop."""
    return text if text.endswith((".", ":")) or not text else f"{text}."


def members(schema: Json) -> str:
    """Return the table of the members of an object."""
    required = schema.get("required", [])
    rows = [["Member", "Type", "Meaning"]]
    for name, value in schema["properties"].items():
        optional = "" if name in required else " It may be absent."
        rows.append([f"``{name}``", type_of(value), sentence(value.get("description", "")) + optional])
    return table("20 25 55", rows)


def operation(method: str, path: str, found: Json) -> Iterator[str]:
    """Iterate over the paragraphs about an operation."""
    title = f"``{method.upper()} {path}``"
    yield f"{title}\n{'~' * len(title)}\n"
    yield " ".join(filter(None, (sentence(found["summary"]), found.get("description", "")))) + "\n"
    if "parameters" in found:
        rows = [["Parameter", "Type", "Meaning"]]
        for each in found["parameters"]:
            kind = type_of(each["schema"]) + range_of(each["schema"])
            note = " In the path." if each["in"] == "path" else " Required." if each["required"] else ""
            rows.append([f"``{each['name']}``", kind, sentence(each["description"]) + note])
        yield table("20 25 55", rows)
    if "requestBody" in found:
        schema = found["requestBody"]["content"]["application/json"]["schema"]
        yield "The body is JSON:\n"
        yield members(schema) if "properties" in schema else f"   {type_of(schema)}\n"
    for status, response in found["responses"].items():
        if status != "default":
            yield from answer(status, response)


def answer(status: str, response: Json) -> Iterator[str]:
    """Iterate over the paragraphs about a response."""
    text = response["description"]
    [(media_type, content)] = (response.get("content") or {"": {}}).items()
    schema = content.get("schema", {})
    is_error = int(status) >= 400
    kind = ""
    if media_type not in ("", "application/json"):
        kind = f" (``{media_type}``)"
    elif "$ref" in schema and not is_error:
        kind = f" ({type_of(schema)})"
    yield f"**{status}**: {sentence(text + kind)}\n"
    if "properties" in schema and set(schema["properties"]) != {"error"}:
        yield members(schema)


def page() -> str:
    """Return the reference."""
    found = description()
    parts, others = ["Operations\n----------\n"], [["Operation", "Purpose"]]
    for path, methods in found["paths"].items():
        for method, each in methods.items():
            if path.startswith(OTHERS):
                others.append([f"``{method.upper()} {path}``", sentence(each["summary"])])
            else:
                parts += operation(method, path, each)
    parts.append("Objects\n-------\n")
    for name, schema in found["components"]["schemas"].items():
        if used(found, name) and "properties" in schema:
            parts += [f"{name}\n{'~' * len(name)}\n", members(schema)]
    parts += ["Mailpit's API v1\n----------------\n", table("45 55", others)]
    return BEGIN + "\n".join(parts)


def used(found: Json, name: str) -> bool:
    """Return whether an operation that is described refers to a named schema, or one of those schemas does."""
    own = {path: methods for path, methods in found["paths"].items() if not path.startswith(OTHERS)}
    seen: set[str] = set()
    queue = refs(own)
    while queue:
        each = queue.pop()
        if each not in seen:
            seen.add(each)
            queue |= refs(found["components"]["schemas"][each])
    return name in seen and name != "Error"


def refs(value: object) -> set[str]:
    """Return the names of the schemas that a description refers to."""
    if isinstance(value, Mapping):
        own = {value["$ref"].rpartition("/")[2]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(refs, value.values()))
    return set().union(*map(refs, value)) if isinstance(value, list | tuple) else set()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
