"""Delivery status notifications: the reports about a message that a mail system sends to its sender (RFC 3461, 3464).

`Original` is the message with its envelope, `RecipientStatus` what happened for one recipient, and `build_report` makes
the `Report`, or returns None where the sender must not get one. `report_statuses` makes the statuses from the result of
a client.
"""

from __future__ import annotations

from ._original import Original
from ._report import Report, build_report
from ._status import Action, RecipientStatus, is_requested, report_statuses

__all__ = ["Action", "Original", "RecipientStatus", "Report", "build_report", "is_requested", "report_statuses"]
