"""The ESMTP extensions, one file for each RFC. `STANDARD` is the default of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .atrn import AtrnExtension as AtrnExtension
    from .auth import Auth as Auth
    from .burl import BurlExtension as BurlExtension
    from .chunking import BinaryMime as BinaryMime, Chunking as Chunking
    from .defaults import STANDARD as STANDARD, standard as standard
    from .deliverby import DeliverBy as DeliverBy
    from .dsn import Dsn as Dsn
    from .eightbitmime import EightBitMime as EightBitMime
    from .enhanced_status import EnhancedStatusCodes as EnhancedStatusCodes
    from .etrn import EtrnExtension as EtrnExtension
    from .futurerelease import FutureRelease as FutureRelease
    from .help import ExpnExtension as ExpnExtension, HelpExtension as HelpExtension
    from .known import KNOWN as KNOWN
    from .limits import LimitsExtension as LimitsExtension
    from .lmtp import Lmtp as Lmtp
    from .mt_priority import MtPriority as MtPriority
    from .mtrk import MessageTracking as MessageTracking
    from .no_soliciting import NoSoliciting as NoSoliciting
    from .pipelining import Pipelining as Pipelining
    from .requiretls import RequireTls as RequireTls
    from .rrvs import RequireRecipientValidSince as RequireRecipientValidSince
    from .size import Size as Size
    from .smtputf8 import SmtpUtf8 as SmtpUtf8
    from .starttls import StartTls as StartTls
    from .xclient import Xclient as Xclient
    from .xforward import Xforward as Xforward

#: The public names, by module; see `lazy_names`.
_MODULES = {
    "atrn": "AtrnExtension",
    "auth": "Auth",
    "burl": "BurlExtension",
    "chunking": "BinaryMime Chunking",
    "defaults": "STANDARD standard",
    "deliverby": "DeliverBy",
    "dsn": "Dsn",
    "eightbitmime": "EightBitMime",
    "enhanced_status": "EnhancedStatusCodes",
    "etrn": "EtrnExtension",
    "futurerelease": "FutureRelease",
    "help": "ExpnExtension HelpExtension",
    "known": "KNOWN",
    "limits": "LimitsExtension",
    "lmtp": "Lmtp",
    "mt_priority": "MtPriority",
    "mtrk": "MessageTracking",
    "no_soliciting": "NoSoliciting",
    "pipelining": "Pipelining",
    "requiretls": "RequireTls",
    "rrvs": "RequireRecipientValidSince",
    "size": "Size",
    "smtputf8": "SmtpUtf8",
    "starttls": "StartTls",
    "xclient": "Xclient",
    "xforward": "Xforward",
}

__all__ = [name for names in _MODULES.values() for name in names.split()]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
