"""The ESMTP extensions, one file for each RFC. `STANDARD` is the default of a server."""

from __future__ import annotations

from collections.abc import Iterable

from ..arguments import check_items
from ..extension import Extension
from .atrn import AtrnExtension
from .auth import Auth
from .burl import BurlExtension
from .chunking import BinaryMime, Chunking
from .deliverby import DeliverBy
from .dsn import Dsn
from .eightbitmime import EightBitMime
from .enhanced_status import EnhancedStatusCodes
from .etrn import EtrnExtension
from .futurerelease import FutureRelease
from .help import ExpnExtension, HelpExtension
from .limits import LimitsExtension
from .lmtp import Lmtp
from .mt_priority import MtPriority
from .mtrk import MessageTracking
from .no_soliciting import NoSoliciting
from .pipelining import Pipelining
from .requiretls import RequireTls
from .rrvs import RequireRecipientValidSince
from .size import Size
from .smtputf8 import SmtpUtf8
from .starttls import StartTls
from .xclient import Xclient
from .xforward import Xforward

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


#: The extensions that a client supports by default.
KNOWN: tuple[Extension, ...] = (
    *STANDARD,
    BinaryMime(),
    LimitsExtension(),
    RequireTls(),
    DeliverBy(),
    FutureRelease(),
    MtPriority(),
    RequireRecipientValidSince(),
    NoSoliciting(),
    MessageTracking(),
    EtrnExtension(),
    AtrnExtension(),
    BurlExtension(),
    Xclient(),
    Xforward(),
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
    return merge_extensions((Lmtp(), Pipelining(), EnhancedStatusCodes()), extensions)


__all__ = [
    "KNOWN",
    "STANDARD",
    "AtrnExtension",
    "Auth",
    "BinaryMime",
    "BurlExtension",
    "Chunking",
    "DeliverBy",
    "Dsn",
    "EightBitMime",
    "EnhancedStatusCodes",
    "EtrnExtension",
    "ExpnExtension",
    "FutureRelease",
    "HelpExtension",
    "LimitsExtension",
    "Lmtp",
    "MessageTracking",
    "MtPriority",
    "NoSoliciting",
    "Pipelining",
    "RequireRecipientValidSince",
    "RequireTls",
    "Size",
    "SmtpUtf8",
    "StartTls",
    "Xclient",
    "Xforward",
    "standard",
]
