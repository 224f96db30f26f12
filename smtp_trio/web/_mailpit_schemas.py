"""The JSON of Mailpit's API v1, and the parameters that several of its operations have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ._operation import Operation, Parameter, Schema
from ._schemas import STRING, TIME, array, record, ref

NUMBER: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
ADDRESSES = array(ref("MailpitAddress"))
ATTACHMENTS = array(ref("MailpitAttachment"))

COMMON: Mapping[str, Schema] = {
    "ID": STRING,
    "MessageID": STRING,
    "Read": FLAG,
    "From": ref("MailpitAddress"),
    "To": ADDRESSES,
    "Cc": ADDRESSES,
    "Bcc": ADDRESSES,
    "ReplyTo": ADDRESSES,
    "Subject": STRING,
    "Username": STRING,
    "Tags": array(STRING),
    "Size": NUMBER,
}
UNSUBSCRIBE: Mapping[str, Schema] = {"Header": STRING, "HeaderPost": STRING, "Links": array(STRING), "Errors": STRING}
SCHEMAS: Mapping[str, Schema] = {
    "MailpitAddress": record({"Name": STRING, "Address": STRING}),
    "MailpitAttachment": record(
        {
            "PartID": STRING,
            "FileName": STRING,
            "ContentType": STRING,
            "ContentID": STRING,
            "Size": NUMBER,
            "Checksums": record({"MD5": STRING, "SHA1": STRING, "SHA256": STRING}),
        }
    ),
    "MailpitSummary": record({**COMMON, "Created": TIME, "Attachments": NUMBER, "Snippet": STRING}),
    "MailpitMessage": record(
        {
            **COMMON,
            "ReturnPath": STRING,
            "ListUnsubscribe": record(UNSUBSCRIBE),
            "Date": TIME,
            "Text": STRING,
            "HTML": STRING,
            "Inline": ATTACHMENTS,
            "Attachments": ATTACHMENTS,
        }
    ),
    "MailpitMessages": record(
        {
            **dict.fromkeys(("total", "unread", "count", "messages_count", "messages_unread", "start"), NUMBER),
            "tags": array(STRING),
            "messages": array(ref("MailpitSummary")),
        }
    ),
}

ID = Parameter(
    name="id", place="path", required=True, description='The id of a message, or "latest" for the newest one'
)
PART = Parameter(name="part", place="path", required=True, description="The PartID of a part")
LATEST_OF = Parameter(name="query", description='With the id "latest": the newest message that this search finds')
ZONE = Parameter(name="tz", description="The time zone of dates without an offset in the search, such as Europe/Vienna")
QUERY = Parameter(name="query", required=True, description="A search in the syntax of Mailpit")

MESSAGES: Mapping[int, tuple[str, Schema]] = {200: ("The messages", ref("MailpitMessages"))}
NOT_FOUND: Mapping[int, tuple[str, Schema]] = {404: ("There is no such message", ref("Error"))}
OK: Mapping[int, tuple[str, str]] = {200: ('The text "ok"', "text/plain")}

#: An operation of Mailpit, which ignores unknown parameters.
mailpit_operation = partial(Operation, strict=False)
