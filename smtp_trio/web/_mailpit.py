"""The parts of Mailpit's API v1 that tests use (mailpit.axllent.org/docs/api-v1), for the clients of that API.

Tests in many languages are written for it. The operations that read, search, mark and delete messages are complete, and so
are the chaos triggers. docs/mailpit.rst lists the differences.
"""

from __future__ import annotations

from . import _mailpit_chaos, _mailpit_info, _mailpit_mailbox, _mailpit_message, _mailpit_schemas

__all__ = ["OPERATIONS", "SCHEMAS"]

OPERATIONS = (
    *_mailpit_mailbox.OPERATIONS,
    *_mailpit_message.OPERATIONS,
    *_mailpit_chaos.OPERATIONS,
    *_mailpit_info.OPERATIONS,
)
SCHEMAS = {**_mailpit_schemas.SCHEMAS, **_mailpit_chaos.SCHEMAS}
