"""The schemas of messages in the JSON API, and the parameters that several operations have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._operation import Parameter, Schema

#: The id of a message. No store has longer ones.
MESSAGE_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
TIME: Schema = {"type": "string", "format": "date-time"}
STRING: Schema = {"type": "string"}


def described(schema: Schema, description: str) -> Schema:
    """Return a schema with a description."""
    return {**schema, "description": description}


def optional(schema: Schema) -> Schema:
    """Return the schema of a value that can be null."""
    return {**schema, "type": [schema["type"], "null"]}


def array(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def record(properties: Mapping[str, Schema]) -> Schema:
    """Return the schema of an object with exactly these members."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def ref(name: str) -> Schema:
    """Return a reference to one of the named schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


INDEXED = described(
    optional({"type": "number", "minimum": 0, "maximum": 1}),
    "The share of the messages that the search index has; searches are slow until it is 1; null without an index",
)
#: The members of an entry: the fields of `stores.Entry` and the read mark.
ENTRY: Mapping[str, Schema] = {
    "id": described(STRING, "The store's id of the message"),
    "received": described(TIME, "The time at which the server received the message"),
    "sender": described(STRING, 'The mailbox of MAIL; "" for the null reverse-path'),
    "recipients": described(array(STRING), "The mailboxes of the accepted RCPT commands in their order"),
    "size": described({"type": "integer", "minimum": 0}, "The number of octets of the message"),
    "mail_params": described(STRING, "The parameters of MAIL"),
    "rcpt_params": described(array(STRING), "The parameters of the RCPT command of each recipient"),
    "peer": described(optional(STRING), "The address of the client"),
    "helo": described(optional(STRING), "The name that the client gave in EHLO, HELO or LHLO"),
    "protocol": described(optional(STRING), 'The protocol, such as "ESMTPS" (RFC 3848)'),
    "tls": described(optional(STRING), "The version and cipher of TLS"),
    "auth": described(optional(STRING), "The user that the client logged in as"),
    "subject": described(optional(STRING), "The decoded subject"),
    "date": described(optional(TIME), "The time in the field Date"),
    "read": described({"type": "boolean"}, "True if the message was marked as read"),
}
PART: Mapping[str, Schema] = {
    "number": described({"type": "integer", "minimum": 1}, "The number of the part in the message"),
    "type": described(STRING, "The content type, without parameters"),
    "role": described(
        {"type": "string", "enum": ["text", "html", "inline", "attachment"]},
        "The purpose of the part; an inline part, such as an image, is displayed with the text",
    ),
    "disposition": described(
        {"type": "string", "enum": ["", "inline", "attachment"]},
        "The content disposition; empty for any other value",
    ),
    "filename": described(STRING, "The untrusted file name from the message, decoded"),
    "safe_filename": described(STRING, "A name that is safe for a file"),
    "content_id": described(STRING, "The content id, without angle brackets"),
    "charset": described(STRING, "The charset of a text"),
    "size": described({"type": "integer", "minimum": 0}, "The number of octets, without the transfer encoding"),
}
MESSAGE: Mapping[str, Schema] = {
    **ENTRY,
    "header": described(
        array({"type": "array", "prefixItems": [STRING, STRING], "minItems": 2, "maxItems": 2}),
        "The names and the decoded values of the fields, in their order",
    ),
    "text": described(STRING, "The plain text, or the text of the HTML if the message has no plain text"),
    "html": described(STRING, "The HTML as the sender wrote it; it is not sanitised"),
    "parts": described(array(ref("Part")), "The parts without subparts"),
    "truncated": described(
        array({"type": "string", "enum": ["header", "text", "html", "parts"]}),
        "The members that are incomplete because the message exceeds a limit",
    ),
}
SCHEMAS: Mapping[str, Schema] = {"Entry": record(ENTRY), "Message": record(MESSAGE), "Part": record(PART)}

ID = Parameter(
    name="id",
    place="path",
    description="The store's id of the message, percent-encoded",
    schema=MESSAGE_ID,
    required=True,
)
QUERY = Parameter(
    name="query",
    description="A query in the syntax of ``smtp-trio mail search``",
    schema={"type": "string"},
)
NOT_FOUND: tuple[str, Any] = ("The store has no such message", ref("Error"))
