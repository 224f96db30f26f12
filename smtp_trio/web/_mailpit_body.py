"""Request bodies of Mailpit's API v1."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ._operation import ApiError, parse_json, read_body

if TYPE_CHECKING:
    from starlette.requests import Request

#: The maximum number of octets of a body, enough for the ids of 100,000 messages.
MAX_BODY = 8 << 20
FORM = "application/x-www-form-urlencoded"
SURROGATE = re.compile("[\ud800-\udfff]")


async def read_object(request: Request) -> dict[str, Any]:
    """Return the fields of a JSON object or a form by their names in lower case; an empty dict for an empty body.

    Mailpit ignores the case of the names. The client mailpit-api-client sends forms.
    """
    body = await read_body(request, MAX_BODY)
    if not body.strip():
        return {}
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == FORM:
        return read_form(body)
    value = parse_json(body)
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    return {name.lower(): item for name, item in value.items()}


def read_form(body: bytes) -> dict[str, Any]:
    """Parse a form into the fields of a JSON object: ids become a list, and "true" becomes True."""
    try:
        fields = {name.lower(): values for name, values in parse_qs(body.decode("ascii")).items()}
    except ValueError as error:
        raise ApiError(400, f"the body is not a form: {error}") from None
    flags = {"true": True, "false": False}
    return {
        name: values if name == "ids" else flags.get(values[-1].lower(), values[-1]) for name, values in fields.items()
    }


def is_text(value: object) -> bool:
    """Return whether a JSON value is a string that UTF-8 can encode. JSON strings can contain lone surrogates."""
    return isinstance(value, str) and not SURROGATE.search(value)


def ids_in(fields: dict[str, Any]) -> list[str]:
    """Return the distinct ids in a body."""
    ids = fields.get("ids", [])
    if not isinstance(ids, list) or not all(map(is_text, ids)):
        raise ApiError(400, "IDs must be an array of strings")
    return list(dict.fromkeys(ids))


def flag_in(fields: dict[str, Any], name: str) -> bool:
    """Return the value of a boolean field, or False if it is absent."""
    value = fields.get(name.lower(), False)
    if not isinstance(value, bool):
        raise ApiError(400, f"{name} must be true or false")
    return value


def text_in(fields: dict[str, Any], name: str) -> str:
    """Return the value of a string field, or "" if it is absent."""
    value = fields.get(name.lower(), "")
    if not is_text(value):
        raise ApiError(400, f"{name} must be a string")
    return str(value)
