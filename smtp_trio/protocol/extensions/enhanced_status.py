"""ENHANCEDSTATUSCODES, RFC 2034: the text of a reply begins with a status code of RFC 3463, such as 5.1.1.

Adds its EHLO keyword. A `Reply` has such a status in any case; without this extension it is not sent.
"""

from __future__ import annotations

from ..extension import Extension


class EnhancedStatusCodes(Extension):
    """Replies with an enhanced status code (RFC 2034)."""

    keyword = "ENHANCEDSTATUSCODES"
    rfc = 2034
