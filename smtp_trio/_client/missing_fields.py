"""The fields Date and Message-ID of email messages that have none."""

from __future__ import annotations

import copy
import email.message
from contextlib import suppress

from .addresses import ORIGINATORS, field_addresses, parse_mailbox, reparse, set_fields
from .threads import run_for


async def complete_message(message: email.message.Message, sender: str) -> email.message.Message:
    """Return `add_missing_fields` of these arguments, computed in a worker thread if the message is large.

    That takes long if the message has to be parsed anew, or if it has very many fields.
    """
    return await run_for(message, add_missing_fields, message, sender)


def add_missing_fields(message: email.message.Message, sender: str) -> email.message.Message:
    """Return the message with Date and Message-ID: itself if it has both, or else a copy that shares its content.

    RFC 5322 3.6 requires Date and recommends Message-ID, and RFC 6409 8.2 and 8.3 let a submission server add them.
    Many servers only relay, and a message without them is likely to be taken for spam.

    The domain of the Message-ID is that of the sender, or else that of an address in Sender or From. The host name is
    not used, because to find it may block, and it would disclose the name.

    Raises ValueError and TypeError for an invalid ``sender``.
    """
    if "Date" in message and "Message-ID" in message:
        return message
    from email.utils import formatdate, make_msgid  # imported here because programs that send bytes do not need it

    message = reparse(message)
    fields = list(message.raw_items())
    if "Date" not in message:
        fields.append(("Date", formatdate(localtime=True)))
    if "Message-ID" not in message:
        domain = parse_mailbox(sender, "sender", null=True).domain or _origin(message) or "localhost"
        fields.append(("Message-ID", make_msgid(domain=domain)))
    message = copy.copy(message)
    del message["Date"]  # a deletion, of a missing field too, gives the copy a list of fields of its own
    set_fields(message, fields)
    return message


def _origin(message: email.message.Message) -> str | None:
    """Return the domain of an address in Sender or From."""
    for name in ORIGINATORS:
        for addresses, _ in field_addresses(message, name):
            for address in addresses or ():
                with suppress(ValueError):
                    if domain := parse_mailbox(address, name).domain:
                        return domain
    return None
