"""ENHANCEDSTATUSCODES, RFC 2034: replies begin with a code of RFC 3463, such as 5.1.1.

Every `Reply` has one; without this extension it is left out when the reply is printed.
"""

from __future__ import annotations

from ..extension import Extension


class EnhancedStatusCodes(Extension):
    """Replies carry an enhanced status code (RFC 2034)."""

    keyword = "ENHANCEDSTATUSCODES"
