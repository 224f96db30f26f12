"""HELP and EXPN, RFC 5321 4.1.1.8 and 4.1.1.7: their lines in the reply to EHLO.

The commands are in `smtp_trio.protocol.commands`. HELP is always served. EXPN is optional, and RFC 5321 3.5.2 requires
a server that supports it to list it as an extension.
"""

from __future__ import annotations

from typing import ClassVar

from ..commands import Expn, Help
from ..extension import Commands, Extension


class HelpExtension(Extension):
    """Help on the commands (RFC 5321 4.1.1.8)."""

    keyword = "HELP"
    rfc = 5321
    verbs: ClassVar[Commands] = (Help,)


class ExpnExtension(Extension):
    """Members of mailing lists (RFC 5321 3.5.2). Offered when the application has a hook for it."""

    keyword = "EXPN"
    rfc = 5321
    verbs: ClassVar[Commands] = (Expn,)
