"""The server information of Mailpit's API v1, and the operations that are not supported."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from ._mailpit_mailbox import totals
from ._mailpit_schemas import FLAG, ID, NUMBER, PART, mailpit_operation
from ._operation import ApiError, Json, Operation, Parameter
from ._schemas import STRING, array, record, ref

if TYPE_CHECKING:
    from ._context import Context
    from ._operation import Method

#: The value of Mailpit's version. A version of this package would be compared with those of Mailpit.
VERSION = "smtp-trio"
COUNTS = ("Uptime", "Memory", "MessagesDeleted", "SMTPAccepted", "SMTPAcceptedSize", "SMTPRejected", "SMTPIgnored")
SWITCHES = ("SpamAssassin", "ChaosEnabled", "DuplicatesIgnored", "HideDeleteAllButton")
RELAY = {
    "Enabled": False,
    "SMTPServer": "",
    "ReturnPath": "",
    "AllowedRecipients": "",
    "BlockedRecipients": "",
    "OverrideFrom": "",
    "PreserveMessageIDs": False,
}


async def get_info(context: Context, request: Request) -> Response:
    """Return the number of messages, and counters of the server."""
    total, unread = await totals(context)
    statistics = (await context.measure()).statistics
    counts = dict.fromkeys(COUNTS, 0) | {
        "Uptime": int(time.monotonic() - context.began),
        "Memory": statistics.memory,
        "SMTPAccepted": statistics.messages,
        "SMTPAcceptedSize": statistics.bytes,
        "SMTPRejected": statistics.refused,
    }
    return Json(
        {
            "Version": VERSION,
            "LatestVersion": VERSION,
            "Database": getattr(context.store, "url", ""),
            "DatabaseSize": 0,
            "Messages": total,
            "Unread": unread,
            "Tags": {},
            "RuntimeStats": counts,
        }
    )


async def get_configuration(context: Context, request: Request) -> Response:
    """Return the configuration of Mailpit's page."""
    return Json(
        {
            "Label": "",
            "MessageRelay": RELAY,
            **dict.fromkeys(SWITCHES, False),
            "ChaosEnabled": context.faults is not None,
        }
    )


async def list_tags(context: Context, request: Request) -> Response:
    """Return an empty list: tags are not supported."""
    return Json([])


async def refuse(reason: str, context: Context, request: Request) -> Response:
    """Respond to an operation that is not supported."""
    raise ApiError(501, reason)


def unsupported(name: str, method: Method, path: str, reason: str, *parameters: Parameter) -> Operation:
    """Return an operation of Mailpit that is not supported."""
    return mailpit_operation(
        id=f"mailpit{name}",
        method=method,
        path=path,
        handler=partial(refuse, reason),
        summary="Mailpit: not supported",
        parameters=parameters,
        responses={501: (reason, ref("Error"))},
    )


MESSAGE = "/api/v1/message/{id}"
NO_CHECKS = "checks of the content of messages are not supported"
NO_TAGS = "tags are not supported"
TAG = Parameter(name="tag", place="path", required=True, description="The name of a tag")
OPERATIONS = (
    mailpit_operation(
        id="mailpitInfo",
        method="GET",
        path="/api/v1/info",
        handler=get_info,
        summary="Mailpit: return the number of messages, and counters of the server",
        responses={
            200: (
                "The numbers",
                record(
                    {
                        "Version": STRING,
                        "LatestVersion": STRING,
                        "Database": STRING,
                        "DatabaseSize": NUMBER,
                        "Messages": NUMBER,
                        "Unread": NUMBER,
                        "Tags": {"type": "object"},
                        "RuntimeStats": record(dict.fromkeys(COUNTS, NUMBER)),
                    }
                ),
            )
        },
    ),
    mailpit_operation(
        id="mailpitConfiguration",
        method="GET",
        path="/api/v1/webui",
        handler=get_configuration,
        summary="Mailpit: return the configuration of its page",
        responses={
            200: (
                "The configuration",
                record(
                    {
                        "Label": STRING,
                        "MessageRelay": {"type": "object"},
                        **dict.fromkeys(SWITCHES, FLAG),
                    }
                ),
            )
        },
    ),
    mailpit_operation(
        id="mailpitListTags",
        method="GET",
        path="/api/v1/tags",
        handler=list_tags,
        summary="Mailpit: return an empty list of tags",
        responses={200: ("No tags", array(STRING))},
    ),
    unsupported("SetTags", "PUT", "/api/v1/tags", NO_TAGS),
    unsupported("RenameTag", "PUT", "/api/v1/tags/{tag}", NO_TAGS, TAG),
    unsupported("DeleteTag", "DELETE", "/api/v1/tags/{tag}", NO_TAGS, TAG),
    unsupported("HtmlCheck", "GET", f"{MESSAGE}/html-check", NO_CHECKS, ID),
    unsupported("LinkCheck", "GET", f"{MESSAGE}/link-check", NO_CHECKS, ID),
    unsupported("SpamCheck", "GET", f"{MESSAGE}/sa-check", NO_CHECKS, ID),
    unsupported("Thumbnail", "GET", f"{MESSAGE}/part/{{part}}/thumb", "thumbnails are not supported", ID, PART),
    unsupported("Release", "POST", f"{MESSAGE}/release", "releasing messages is not supported", ID),
    unsupported("Send", "POST", "/api/v1/send", "send messages with SMTP; this API only reads and deletes them"),
)
