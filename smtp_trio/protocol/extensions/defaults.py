"""`STANDARD`, the extensions that a server has by default, and functions that change this list."""

from __future__ import annotations

from collections.abc import Iterable

from ..arguments import check_items
from ..extension import Extension
from .auth import Auth
from .chunking import Chunking
from .dsn import Dsn
from .eightbitmime import EightBitMime
from .enhanced_status import EnhancedStatusCodes
from .help import ExpnExtension, HelpExtension
from .pipelining import Pipelining
from .size import Size
from .smtputf8 import SmtpUtf8
from .starttls import StartTls

#: The default extensions of a server, in the order in which EHLO shows them. BINARYMIME is not among them, because few
#: servers would accept such a message from a relay; all extensions for the delivery of a message but DSN are not, because
#: the application has to act on them. LIMITS is not, because by default it has no limit to announce.
STANDARD: tuple[Extension, ...] = (
    Pipelining(),
    Size(),
    EightBitMime(),
    SmtpUtf8(),
    EnhancedStatusCodes(),
    StartTls(),
    Auth(),
    Chunking(),
    Dsn(),
    ExpnExtension(),
    HelpExtension(),
)


def merge_extensions(extensions: tuple[Extension, ...], others: Iterable[Extension]) -> tuple[Extension, ...]:
    """Return ``extensions`` with each of ``others`` in place of the one with its keyword, or added at the end."""
    by_keyword = {extension.keyword: extension for extension in (*extensions, *others)}
    return tuple(by_keyword.values())


def standard(*others: Extension, without: tuple[type[Extension], ...] = ()) -> tuple[Extension, ...]:
    """Return `STANDARD` with changes, for a server's ``extensions``.

    Each of ``others`` replaces the extension that has its keyword, or is added at the end. ``without`` are classes to
    leave out.
    """
    without = check_items([without] if isinstance(without, type) else without, "without", type)
    others = check_items(others, "extensions", Extension)
    return merge_extensions(tuple(extension for extension in STANDARD if not isinstance(extension, without)), others)


def with_lmtp(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
    """Return ``extensions`` with LMTP, and with the extensions that it requires (RFC 2033 5)."""
    from .lmtp import Lmtp  # needed here only

    return merge_extensions((Lmtp(), Pipelining(), EnhancedStatusCodes()), extensions)
