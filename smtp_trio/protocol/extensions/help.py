"""HELP and EXPN, RFC 5321 4.1.1.8 and 4.1.1.7: their lines in the reply to EHLO.

The commands are in `smtp_trio.protocol.commands`. HELP is always served. EXPN is optional, and RFC 5321 3.5.2 requires
a server that supports it to list it as an extension.
"""

from __future__ import annotations

from typing import ClassVar

from ..commands import Expn, Help
from ..extension import Commands, Extension


class HelpExtension(Extension):
    """The EHLO keyword HELP (RFC 5321 4.1.1.8)."""

    keyword = "HELP"
    verbs: ClassVar[Commands] = (Help,)


class ExpnExtension(Extension):
    """The EHLO keyword EXPN, shown when the application has a hook for it (RFC 5321 3.5.2)."""

    keyword = "EXPN"
    verbs: ClassVar[Commands] = (Expn,)
