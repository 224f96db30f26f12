"""DSN, RFC 3461: which reports the sender wants, about which recipients, and how it will know them again.

Not in `STANDARD`: whoever advertises it promises to send such reports, and to pass the wishes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, TypeVar

from .. import syntax
from ..commands import Mail, Rcpt
from ..extension import CommandParams, Extension
from ..params import Param

T = TypeVar("T")

ENVID_OCTETS, ORCPT_OCTETS = 100, 500  # RFC 3461 4.4 and 4.2: of the value as it is sent

RETS = frozenset({"FULL", "HDRS"})
NOTIFICATIONS = ("SUCCESS", "FAILURE", "DELAY")
NEVER = frozenset({"NEVER"})

# RFC 3461 4.2 and 4.4: what is encoded is printable ASCII, "graphic and white space".
PRINTABLE = re.compile(r"[\t -~]+")
# atom of RFC 822 3.3
ADDR_TYPE = re.compile(r"[!#-'*+/-9=?A-Z^-~-]+")
# RFC 6533 3: an address in UTF-8 has an encoding of its own in ORCPT, and no xtext. It may be ASCII or UTF-8 on the wire.
UNITEXT = re.compile(rf"(?:[^\0-\x20+=\\{syntax.C1}]|\\x\{{(?:[0-9A-Fa-f]{{2,5}}|10[0-9A-Fa-f]{{4}})\}})+")
UNITEXT_HEX = re.compile(r"\\x\{([^}]+)\}")
UNITEXT_SPECIAL = re.compile(r"[^!-*,-<>-\[\]-~]")
#: Printable too, in Unicode: no control characters, no line breaks, no halves of a surrogate pair.
PRINTABLE_UTF8 = re.compile(r"[^\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def _ret(value: str | None) -> str | None:
    return value.upper() if value is not None and value.isascii() and value.upper() in RETS else None


def _envid(value: str | None) -> str | None:
    envid = syntax.decode_xtext(value) if value is not None and len(value) <= ENVID_OCTETS else None
    return envid if envid is not None and PRINTABLE.fullmatch(envid) else None


def _notify(value: str | None) -> frozenset[str] | None:
    words = value.upper().split(",") if value is not None and value.isascii() else []
    notify = frozenset(words)
    # RFC 3461 4.1 a: NEVER stands alone.
    known = notify == NEVER or notify.issubset(NOTIFICATIONS)
    return notify if words and known and len(words) == len(notify) else None


def _notify_text(notify: frozenset[str]) -> str:
    return ",".join(word for word in ("NEVER", *NOTIFICATIONS) if word in notify)


def _orcpt(value: str | None) -> str | None:
    if value is None or len(value.encode()) > ORCPT_OCTETS:
        return None
    kind, _, text = value.partition(";")
    if ADDR_TYPE.fullmatch(kind) is None:
        return None
    if kind.lower() == "utf-8":
        address = UNITEXT_HEX.sub(lambda match: chr(int(match[1], 16)), text) if UNITEXT.fullmatch(text) else None
        printable = PRINTABLE_UTF8
    else:
        address, printable = syntax.decode_xtext(text), PRINTABLE
    return f"{kind};{address}" if address is not None and printable.fullmatch(address) else None


def _orcpt_text(orcpt: str) -> str:
    kind, _, address = orcpt.partition(";")
    if kind.lower() == "utf-8":
        # RFC 6533 3: the ASCII form, which every server with DSN takes, whether it has SMTPUTF8 or not.
        return f"{kind};" + UNITEXT_SPECIAL.sub(lambda match: rf"\x{{{ord(match[0]):02X}}}", address)
    return f"{kind};{syntax.encode_xtext(address)}"


def _strictly(keyword: str, parse: Callable[[str | None], T | None], text: Callable[[T], str]) -> Callable[[T], str]:
    """The way back, which raises ValueError for a value that no server could read: nothing else ends up in a command."""

    def checked(value: T) -> str:
        written = text(value)
        if parse(written) != value:
            raise ValueError(f"{keyword} cannot be {value!a} (RFC 3461 4)")
        return written

    return checked


# The rooms are those of RFC 3461 5.4, with " ENVID=" and " ORCPT=".

#: MAIL FROM:<…> RET=FULL | HDRS: how much of the message a report shall hold (RFC 3461 4.3).
RET: Param[str] = Param("RET", _ret, _strictly("RET", _ret, str), extra_octets=8)
#: MAIL FROM:<…> ENVID=xtext: what the sender will know the message by (RFC 3461 4.4). Printable ASCII.
ENVID: Param[str] = Param("ENVID", _envid, _strictly("ENVID", _envid, syntax.encode_xtext), extra_octets=107)
#: RCPT TO:<…> NOTIFY=NEVER | a list of SUCCESS, FAILURE and DELAY (RFC 3461 4.1): the words as a set.
NOTIFY: Param[frozenset[str]] = Param("NOTIFY", _notify, _strictly("NOTIFY", _notify, _notify_text), extra_octets=28)
#: RCPT TO:<…> ORCPT=type;address: whom the mail was for at first (RFC 3461 4.2): ``rfc822;fred@example.org``, decoded.
ORCPT: Param[str] = Param("ORCPT", _orcpt, _strictly("ORCPT", _orcpt, _orcpt_text), extra_octets=507)


class Dsn(Extension):
    """Delivery status notifications (RFC 3461). Not in `STANDARD`: the application must act on what the parameters ask for."""

    keyword = "DSN"
    params: ClassVar[CommandParams] = {Mail: (RET, ENVID), Rcpt: (NOTIFY, ORCPT)}
