"""The ESMTP extensions, one file each. `STANDARD` is what a server has when nobody says otherwise."""

from __future__ import annotations

from ..extension import Extension
from .auth import Auth
from .chunking import BinaryMime, Chunking
from .dsn import Dsn
from .eightbitmime import EightBitMime
from .enhanced_status import EnhancedStatusCodes
from .help import ExpnExtension, HelpExtension
from .limits import LimitsExtension
from .pipelining import Pipelining
from .size import Size
from .smtputf8 import SmtpUtf8
from .starttls import StartTls

#: In the order in which EHLO shows them. BINARYMIME is left out, since a message in it can be sent on to few;
#: DSN and LIMITS are, since the application must act on them.
STANDARD: tuple[Extension, ...] = (
    Pipelining(),
    Size(),
    EightBitMime(),
    SmtpUtf8(),
    EnhancedStatusCodes(),
    StartTls(),
    Auth(),
    Chunking(),
    ExpnExtension(),
    HelpExtension(),
)


#: What a client understands.
KNOWN: tuple[Extension, ...] = (*STANDARD, BinaryMime(), Dsn(), LimitsExtension())


def standard(*others: Extension, without: tuple[type[Extension], ...] = ()) -> tuple[Extension, ...]:
    """`STANDARD` with these in place of their namesakes, or behind them, and ``without`` those: a server's ``extensions``."""
    ours = {extension.keyword: extension for extension in STANDARD if not isinstance(extension, without)}
    ours.update((extension.keyword, extension) for extension in others)
    return tuple(ours.values())


__all__ = [
    "KNOWN",
    "STANDARD",
    "Auth",
    "BinaryMime",
    "Chunking",
    "Dsn",
    "EightBitMime",
    "EnhancedStatusCodes",
    "ExpnExtension",
    "HelpExtension",
    "LimitsExtension",
    "Pipelining",
    "Size",
    "SmtpUtf8",
    "StartTls",
    "standard",
]
