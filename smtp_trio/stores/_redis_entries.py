"""The fields of an entry in the stream of a `Redis` store; `redis.py` describes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ._entry import Entry, parse_time, read_header
from ._errors import MessageNotFoundError, UnusableStoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "1"
#: The latest time that a datetime can have, in seconds.
LATEST = int(datetime.max.replace(tzinfo=UTC).timestamp()) - 1


class InvalidEntryError(MessageNotFoundError):
    """An entry is not a message: another program has added it."""

    def __init__(self, uid: str) -> None:
        super().__init__(f"entry {uid} was written by another program, or is damaged")


#: Made once: with these settings `json.dumps` would make an encoder for each message.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def format_entry(entry: Entry) -> list[object]:
    """Return the fields of an entry, each followed by its value, without those of its octets."""
    fields: list[object] = [
        "v",
        VERSION,
        "id",
        entry.id,
        "received_at",
        entry.received_at,
        "sender",
        entry.sender,
        "recipients",
        to_json(list(zip(entry.recipients, entry.rcpt_params, strict=True))),
        "mail_params",
        entry.mail_params,
    ]
    for name in ("peer", "helo", "protocol", "tls", "auth"):
        value = getattr(entry, name)
        if value is not None:
            fields += name, value
    return fields


def pairs(values: Sequence[bytes]) -> dict[str, bytes]:
    """Return the fields of an entry by name."""
    return {values[n].decode("utf-8", "replace"): values[n + 1] for n in range(0, len(values), 2)}


def check_version(uid: str, values: dict[str, bytes]) -> None:
    """Raise UnusableStoreError unless this version can read an entry."""
    version = values.get("v", b"").decode("utf-8", "replace")
    if version != VERSION:
        raise UnusableStoreError(
            f"entry {uid} has v={version}, and this version of smtp_trio reads v={VERSION}"
            if version
            else f"entry {uid} was written by another program"
        )


def entry_fields(uid: str, values: dict[str, bytes]) -> dict[str, Any]:
    """Return the attributes of an `Entry`. ``message`` has at least the header of the message.

    Raises UnusableStoreError for an entry of another version, and `InvalidEntryError`.
    """
    if values.get("v"):
        check_version(uid, values)
    try:
        return _entry_fields(uid, values)
    except (LookupError, ValueError, TypeError):
        raise InvalidEntryError(uid) from None


def body_parts(uid: str, values: dict[str, bytes]) -> tuple[str, int, bytes, int]:
    """Return the key of the chunks of an entry and their number, the last octets of its message, and the size of that.

    Without chunks the first two are "" and 0.

    Raises `InvalidEntryError`.
    """
    try:
        chunks = int(values["chunks"]) if "key" in values else 0
        tail, size = values["message"], int(values["size"])
    except (LookupError, ValueError):
        entry_fields(uid, values)  # raises the error for another version, or for the first field that is missing
        raise InvalidEntryError(uid) from None
    return values.get("key", b"").decode("utf-8", "replace"), chunks, tail, size


def _entry_fields(uid: str, values: dict[str, bytes]) -> dict[str, Any]:
    texts = {name: value.decode() for name, value in values.items() if name != "message"}
    recipients = json.loads(texts["recipients"])
    subject, date = read_header(values["message"])
    return {
        "id": uid,
        "received": parse_time(texts["received_at"]),
        "sender": texts["sender"],
        "recipients": tuple(address for address, _ in recipients),
        "rcpt_params": tuple(params for _, params in recipients),
        "size": int(texts["size"]),
        "subject": subject,
        "date": date,
        **{name: texts.get(name) for name in ("peer", "helo", "protocol", "tls", "auth")},
        "mail_params": texts["mail_params"],
    }


def listed_entry(uid: str, values: dict[str, bytes]) -> Entry:
    """Return an entry for a list. If it is not a message, the subject is the reason, so that it can be found and removed."""
    try:
        return Entry(**entry_fields(uid, values))
    except InvalidEntryError as error:
        return Entry(
            id=uid,
            received=datetime.fromtimestamp(min(entry_number(uid.encode())[0] // 1000, LATEST), UTC),
            sender="",
            recipients=(),
            mail_params="",
            rcpt_params=(),
            size=0,
            subject=str(error),
        )


def entry_number(uid: bytes) -> tuple[int, int]:
    """Return the id of an entry as numbers, which have its order."""
    time, _, number = uid.partition(b"-")
    return int(time), int(number)


def chunks_key(stream: str, key: str) -> str:
    """Return the key of the chunks of a message."""
    return f"{{{stream}}}:chunks:{key}"
