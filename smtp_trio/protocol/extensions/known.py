"""`KNOWN`, the extensions that a client supports by default: all but LMTP."""

from __future__ import annotations

from ..extension import Extension
from .atrn import AtrnExtension
from .burl import BurlExtension
from .chunking import BinaryMime
from .defaults import STANDARD
from .deliverby import DeliverBy
from .etrn import EtrnExtension
from .futurerelease import FutureRelease
from .limits import LimitsExtension
from .mt_priority import MtPriority
from .mtrk import MessageTracking
from .no_soliciting import NoSoliciting
from .requiretls import RequireTls
from .rrvs import RequireRecipientValidSince
from .xclient import Xclient
from .xforward import Xforward

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
