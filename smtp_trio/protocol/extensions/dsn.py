"""DSN, RFC 3461: the sender requests delivery status notifications, and gives them an identifier of the message.

Adds its EHLO keyword, the parameters ``RET`` and ``ENVID`` of MAIL, and ``NOTIFY`` and ``ORCPT`` of RCPT. A server that
offers it promises to send the notifications, or to pass the parameters on (RFC 3461 4 and 5). That is the work of the
application, which has the parameters in the envelope, and in every store; `smtp_trio.dsn` builds the notifications.

Values are decoded here: xtext (RFC 3461 4) and, for addresses in UTF-8, the encodings of RFC 6533 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, TypeVar

from .. import syntax
from ..commands import Mail, Rcpt
from ..extension import CommandParams, Extension
from ..lazy import lazy_pattern
from ..params import Param

T = TypeVar("T")

# RFC 3461 4.4 and 4.2: the longest values, in octets as they are sent.
MAX_ENVID, MAX_ORCPT = 100, 500

RET_VALUES = frozenset({"FULL", "HDRS"})
NOTIFICATIONS = ("SUCCESS", "FAILURE", "DELAY")
NEVER = frozenset({"NEVER"})

# A value is decoded when the command is parsed, so that an application compares and stores what the sender meant, and
# is encoded again when the message is passed on. The server must not change it (RFC 3461 5.2.1), so decoding has to
# lose nothing:
#
# * xtext (RFC 3461 4) writes an octet as "+" and two upper-case hexadecimal digits. The result is text. Anything else,
#   such as a control character that a later log or notification would contain, is refused with 501.
# * NOTIFY is a set. The order of its values means nothing, and `_format_notify` always writes the same one.
# * ORCPT keeps its type in front of the address, because the type decides how the address is encoded.
#
# A client checks what it encodes: `_param` decodes the text again and raises ValueError if the result differs.

# RFC 3461 4.4: the decoded value of ENVID is printable ASCII, "graphic and white space".
PRINTABLE = lazy_pattern(r"[\t -~]+")
# addr-type is an atom of RFC 822 3.3.
ADDR_TYPE = lazy_pattern(r"[!#-'*+/-9=?A-Z^-~-]+")
# RFC 6533 3: an address of type utf-8 is not xtext. It has two encodings, utf-8-addr-xtext, which is ASCII with \x{HEX}
# for other characters, and utf-8-addr-unitext, which is UTF-8. Both are accepted.
UNITEXT = lazy_pattern(rf"(?:[^\0-\x20+=\\{syntax.C1}]|\\x\{{(?:[0-9A-Fa-f]{{2,5}}|10[0-9A-Fa-f]{{4}})\}})+")
UNITEXT_HEX = lazy_pattern(r"\\x\{([^}]+)\}")
UNITEXT_SPECIAL = lazy_pattern(rf"[\0-\x20+=\\{syntax.C1}]")
#: What utf-8-addr-xtext has to write as \x{HEX}: the same, and all that is not ASCII.
XTEXT_SPECIAL = lazy_pattern(r"[^!-*,-<>-\[\]-~]")
#: `PRINTABLE` for addresses in UTF-8: no control characters, no line breaks, no surrogates.
PRINTABLE_UTF8 = lazy_pattern(r"[^\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
#: The same for an address in xtext. RFC 3461 4.2 has printable ASCII only, but Postfix sends each recipient of a message with
#: SMTPUTF8 as "rfc822;" and its UTF-8 in xtext, and would return the message if that were refused.
PRINTABLE_XTEXT = lazy_pattern(r"[^\0-\x08\n-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def _parse_ret(value: str | None) -> str | None:
    return value.upper() if value is not None and value.isascii() and value.upper() in RET_VALUES else None


def _parse_envid(value: str | None) -> str | None:
    envid = syntax.decode_xtext(value) if value is not None and len(value) <= MAX_ENVID else None
    return envid if envid is not None and PRINTABLE.fullmatch(envid) else None


def _parse_notify(value: str | None) -> frozenset[str] | None:
    words = value.upper().split(",") if value is not None and value.isascii() else []
    notify = frozenset(words)
    # RFC 3461 4.1 (a): NEVER must be the only value. A value that is given twice is invalid too.
    valid = notify == NEVER or notify.issubset(NOTIFICATIONS)
    return notify if words and valid and len(words) == len(notify) else None


def _format_notify(notify: frozenset[str]) -> str:
    return ",".join(word for word in ("NEVER", *NOTIFICATIONS) if word in notify)


def _parse_orcpt(value: str | None) -> str | None:
    if value is None or len(value.encode()) > MAX_ORCPT:
        return None
    kind, _, text = value.partition(";")
    if ADDR_TYPE.fullmatch(kind) is None:
        return None
    if kind.lower() == "utf-8":
        address = UNITEXT_HEX.sub(lambda match: chr(int(match[1], 16)), text) if UNITEXT.fullmatch(text) else None
        printable = PRINTABLE_UTF8
    else:
        address, printable = syntax.decode_xtext(text), PRINTABLE_XTEXT
    return f"{kind};{address}" if address is not None and printable.fullmatch(address) else None


def _escape(special: re.Pattern[str], address: str) -> str:
    return special.sub(lambda match: rf"\x{{{ord(match[0]):02X}}}", address)


def encode_utf8_address(address: str) -> str:
    """Return an address of type utf-8 in ASCII: utf-8-addr-xtext (RFC 6533 3)."""
    return _escape(XTEXT_SPECIAL, address)


def _format_orcpt(orcpt: str) -> str:
    kind, _, address = orcpt.partition(";")
    if kind.lower() == "utf-8":
        # RFC 6533 3: the ASCII form, which a server with DSN accepts whether it offers SMTPUTF8 or not. It is up to four
        # times as long. An address for which it is too long can be passed on as UTF-8 only, as it came.
        ascii_only = f"{kind};{encode_utf8_address(address)}"
        return ascii_only if len(ascii_only) <= MAX_ORCPT else f"{kind};{_escape(UNITEXT_SPECIAL, address)}"
    return f"{kind};{syntax.encode_xtext(address)}"


def _param(
    keyword: str, parse: Callable[[str | None], T | None], encode: Callable[[T], str], *, extra_octets: int
) -> Param[T]:
    """Return a `Param` whose ``format`` raises ValueError for a value that ``parse`` would not return.

    A client could otherwise send a value that no server accepts, or that a server reads as a different one.
    """

    def format_checked(value: T) -> str:
        text = encode(value)
        if parse(text) != value:
            raise ValueError(f"{keyword} cannot be {value!a} (RFC 3461 4)")
        return text

    # RFC 3461 5.2.2 (a): a server without DSN must not be sent them.
    return Param(keyword, parse, format_checked, extra_octets=extra_octets, passed_on="if offered")


# RFC 3461 5.4 has the octets that the parameters add to a command line, without " ENVID=" and " ORCPT=", which are
# counted here.

#: MAIL FROM:<...> RET=FULL | HDRS: how much of the message a notification should contain (RFC 3461 4.3).
RET: Param[str] = _param("RET", _parse_ret, str, extra_octets=8)
#: MAIL FROM:<...> ENVID=xtext: the sender's identifier of the message, printable ASCII (RFC 3461 4.4).
ENVID: Param[str] = _param("ENVID", _parse_envid, syntax.encode_xtext, extra_octets=107)
#: RCPT TO:<...> NOTIFY=NEVER, or a list of SUCCESS, FAILURE and DELAY (RFC 3461 4.1), as a set.
NOTIFY: Param[frozenset[str]] = _param("NOTIFY", _parse_notify, _format_notify, extra_octets=28)
#: RCPT TO:<...> ORCPT=type;address: the original recipient (RFC 3461 4.2), decoded: ``rfc822;fred@example.org``.
ORCPT: Param[str] = _param("ORCPT", _parse_orcpt, _format_orcpt, extra_octets=507)


class Dsn(Extension):
    """Delivery status notifications (RFC 3461)."""

    keyword = "DSN"
    rfc = 3461
    params: ClassVar[CommandParams] = {Mail: (RET, ENVID), Rcpt: (NOTIFY, ORCPT)}
