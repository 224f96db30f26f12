"""HELP and EXPN, RFC 5321 4.1.1.8 and 4.1.1.7: what is shown of them in the answer to EHLO.

HELP is always there. EXPN is an option of the application, and MUST be listed when it is there (RFC 5321 3.5.2).
"""

from __future__ import annotations

from .. import replies
from ..extension import Extension
from ..replies import Reply
from ..session_state import SessionState


class HelpExtension(Extension):
    """HELP (RFC 5321 4.1.1.8)."""

    keyword = "HELP"


class ExpnExtension(Extension):
    """EXPN, when the application answers it (RFC 5321 3.5.2)."""

    keyword = "EXPN"

    def advertise(self, state: SessionState) -> str | None:
        return "EXPN" if "EXPN" in state.optional_verbs else None

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        return replies.NOT_IMPLEMENTED if verb == "EXPN" and "EXPN" not in state.optional_verbs else None
