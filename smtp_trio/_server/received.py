"""The ``Received:`` trace field that a server adds at the top of each message it accepts (RFC 5321 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol.lazy import lazy_pattern

if TYPE_CHECKING:
    from datetime import datetime

    from .._types import Envelope, Peer
    from ..protocol import Hello

#: Everything but the characters of a domain or an address literal.
UNSAFE = lazy_pattern(r"[^A-Za-z0-9.:_\[\]-]")

#: The beginning of a header field (RFC 5322 2.2; 4.5.8 for the space before the colon).
FIELD_START = lazy_pattern(rb"[!-9;-~]+[ \t]*:")
#: The beginning of a line that may become the beginning of a field.
FIELD_NAME = lazy_pattern(rb"[!-9;-~]*[ \t]*")
#: The longest name of a field in octets, by the limit of a line (RFC 5322 2.1.1).
FIELD_NAME_OCTETS = 998


# The field is read by people who trace a message and by filters that trust the part of it that this server has written.
# So everything that comes from outside is restricted to harmless characters: the client chooses its name in HELO, and
# the owner of its network the name of the peer in the DNS. A CR, LF or parenthesis in either could end the field, and
# begin one that looks like a trace of another server. The address comes from the kernel, or from a stream that provides
# its own, so it is restricted as well. Mailboxes have been parsed, and are safe.
#
# The message that follows is chosen by the client, too. If its first line is not a field but begins with white space, a
# parser takes it for a continuation of the last field before it (RFC 5322 2.2.3), so that a client could extend this
# server's own trace. Therefore an empty line, the end of the header, is put before a first line that is not a field.
# Then the whole message is text, which is also right for one that has no header.
#
# RFC 8314 4.3 defines a "tls" clause with the cipher for submission servers. It is left out: "with ESMTPS" states that
# TLS was in use, and a hook that needs the details has them in ``session.tls``.


def protocol_name(hello: Hello | None, envelope: Envelope | None, *, tls: bool, user: bool, lmtp: bool = False) -> str:
    """Return the "with" protocol type of RFC 3848 and RFC 6531 4.3: ``ESMTPSA`` is ESMTP with TLS (S) and AUTH (A).

    The suffixes are defined for ESMTP and LMTP only, so a client that sent HELO is ``SMTP`` in any case.
    """
    plain, utf8 = ("LMTP", "UTF8LMTP") if lmtp else ("ESMTP", "UTF8SMTP")
    if hello is None or not hello.extended:
        return "LMTP" if lmtp else "SMTP"
    base = utf8 if envelope is not None and envelope.smtputf8 else plain
    return base + ("S" if tls else "") + ("A" if user else "")


def begins_with_field(start: bytes) -> bool | None:
    """Return whether a message that begins with ``start`` begins with a header field; None if that is not known yet."""
    start = start[: FIELD_NAME_OCTETS + 1]
    if FIELD_START.match(start):
        return True
    return None if len(start) <= FIELD_NAME_OCTETS and FIELD_NAME.fullmatch(start) else False


def restrict_name(name: str) -> str:
    """Return a name or address with the characters of a domain or an address literal only."""
    return UNSAFE.sub("?", name)[:255]


def date_time(now: datetime) -> str:
    """Return a date and time in the format of RFC 5322 3.3.

    `email.utils` could do it, but importing it loads most of `email`.
    """
    weekday, month = now.ctime().split()[:2]  # ctime is English in every locale, strftime is not
    return f"{weekday}, {now:%d} {month} {now:%Y %H:%M:%S %z}"


def received_field(
    *, server: str, protocol: str, hello: Hello | None, peer: Peer, envelope: Envelope | None, now: datetime
) -> bytes:
    """Return ``Received: from ... by ... with ... id ... for ...; date``, folded, with its CRLF (RFC 5321 4.4).

    The "for" clause is only present for a single recipient: several would reveal blind copies (RFC 5321 7.2).

    :param server: the server's own name, for "by".
    :param protocol: what `protocol_name` returned, for "with".
    """
    # An IPv6 zone has a meaning on this host only, and is not part of an address literal (RFC 5321 4.1.3).
    host = peer.host.partition("%")[0]
    literal = f"IPv6:{host}" if ":" in host else host
    comment = f"{restrict_name(peer.name or 'unknown')} [{restrict_name(literal)}]" if peer.kind == "tcp" else peer.kind
    # A client without a name is named by its address, as Extended-Domain of RFC 5321 4.4 allows. Only a device that a
    # lenient server accepts has none.
    no_name = f"[{literal}]" if peer.kind == "tcp" else "unknown"
    name = restrict_name(hello.domain) if hello is not None and hello.domain else no_name
    lines = [f"Received: from {name} ({comment})", f"by {server} with {protocol}"]
    if envelope is not None:
        lines[1] += f" id {envelope.id}"
        if len(envelope.rcpts) == 1:
            lines.append(f"for <{envelope.rcpts[0].recipient.raw}>")
        for param, value in envelope.mail.params.items():
            if param.keyword == "MT-PRIORITY":  # RFC 6710 4.1 (2) and 7
                lines[-1] += f" PRIORITY {value:d}"
    lines[-1] += ";"
    lines.append(date_time(now))
    return ("\r\n\t".join(lines) + "\r\n").encode()
