"""PIPELINING, RFC 2920: the client may send commands without waiting for the answers.

The core can always do it, since it takes commands from a buffer and not from packets; this says so.
"""

from __future__ import annotations

from ..extension import Extension


class Pipelining(Extension):
    """Commands may be sent in groups (RFC 2920)."""

    keyword = "PIPELINING"
