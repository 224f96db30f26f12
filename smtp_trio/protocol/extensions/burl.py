"""BURL, RFC 4468: parts of a submitted message that the server fetches, from an IMAP server for example.

Adds the verb BURL and the EHLO line ``BURL [sources]``, which is shown when the server has the hook ``burl``. Not in
`STANDARD`: it is for message submission only (RFC 4468 3.1), so it can be used after AUTH.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from attrs import field, frozen

from .. import replies
from ..arguments import argument, check_items, check_type
from ..commands import CountedCommand
from ..dialogue import Table
from ..errors import BadCommandError
from ..extension import Commands, Extension
from ..params import KnownParams
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value
from .chunking import CHUNK, CHUNK_CODES, LAST_CHUNK, REFUSED_CHUNK, split_last

# RFC 3986 4.3: absolute-URI
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", re.ASCII)

#: A source: an ehlo-param (RFC 5321 4.1.1.1).
SOURCE = re.compile(r"[!-~]+", re.ASCII)

AUTH_FIRST = Reply(530, "Authentication required", "5.7.0")
NO_RECIPIENTS = Reply(554, "No recipients have been specified", "5.5.0")
RECIPIENT_FIRST = Reply(503, "Valid RCPT TO required before BURL", "5.5.0")
WAITING = Reply(250, "Waiting for additional BURL or BDAT commands", "2.5.0")
#: Refusals of the hook (RFC 4468 6; RFC 5248 has 5.7.14 in place of 5.7.8).
NOT_TRUSTED = Reply(554, "URL resolution requires trust relationship", "5.7.14")
CANNOT_FETCH = Reply(554, "URL resolution failed", "5.6.6")
UNAVAILABLE = Reply(451, "Server of the URL unavailable", "4.4.1")
CONVERSION_REQUIRED = replies.CONVERSION_REQUIRED

# BURL is a BDAT whose octets do not follow the line. The state table and the reply codes are the same, and the two can
# be mixed in one message (RFC 4468 3.2). The core gets the octets from the application (`ServerProtocol.add_fetched`)
# and treats them like those of a chunk: line ends, NUL, the size and the header are checked.


def check_url(url: str) -> str:
    """Return ``url``. Raises TypeError and ValueError if it is not an absolute URI."""
    check_type(url, "url", str)
    if URL.fullmatch(url) is None:
        raise ValueError(f"url must be an absolute URI (RFC 3986 4.3), got {url!a}")
    return url


@frozen(eq=False, repr=False)
class Burl(CountedCommand):
    """BURL: the octets at ``url`` are the next part of the message (RFC 4468 3.2)."""

    url: str = ""
    size: int = field(init=False, default=0)

    verb = "BURL"
    usage = "BURL url [LAST]"
    groupable = True
    fetched = True
    hook: ClassVar[str | None] = "burl"
    default_reply: ClassVar[Reply] = replies.NOT_IMPLEMENTED
    chunk_reply: ClassVar[Reply] = WAITING
    codes: ClassVar[frozenset[int]] = CHUNK_CODES

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return f"BURL {self.url}{' LAST' if self.last else ''}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Burl:
        """Parse the argument. Raises `BadCommandError` if it is not valid."""
        (url, *rest), last = split_last(argument)
        if URL.fullmatch(url) is None or rest:
            # In LMTP, the client counts the replies to the end of a message, whatever is wrong with the command.
            raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.4"), verb="BURL", last=last)
        return BurlLast(url) if last else Burl(url)


class BurlLast(Burl):
    """BURL url LAST: the last part, whose reply is the reply to the message."""

    __slots__ = ()

    last = True


def _check_sources(sources: Iterable[str]) -> tuple[str, ...]:
    found = check_items(sources, "sources", str)
    if not all(map(SOURCE.fullmatch, found)):
        raise ValueError(f"sources must be words of the reply to EHLO, such as 'imap' or a URL, got {list(found)}")
    return found


@frozen(eq=False, repr=False)
class BurlExtension(Extension, Value):
    """Message parts that the server fetches (RFC 4468). Not in `STANDARD`, because it is for message submission only.

    ``sources`` are the arguments of the EHLO line, shown after AUTH: "imap" if the hook fetches from IMAP servers by
    URLAUTH, and URLs of servers that trust this server. With ``authenticated=False`` clients need not authenticate.
    """

    sources: tuple[str, ...] = field(default=("imap",), converter=_check_sources)
    authenticated: bool = field(default=True, validator=argument(check_type, bool))

    keyword = "BURL"
    rfc = 4468
    verbs: ClassVar[Commands] = (Burl,)
    table: ClassVar[Table] = Table(
        accepted={Burl: CHUNK, BurlLast: LAST_CHUNK},
        refused={Burl: REFUSED_CHUNK, BurlLast: LAST_CHUNK},
    )
    requires: ClassVar[Sequence[str]] = ("8BITMIME", "CHUNKING")  # RFC 4468 4 and 3.2

    def advertise(self, state: SessionState) -> str | None:
        """Return the EHLO line, without sources before AUTH (RFC 4468 3.1 (3)), or None without the hook."""
        if super().advertise(state) is None:
            return None
        usable = state.user is not None or not self.authenticated
        return " ".join([self.keyword, *(self.sources if usable else ())])

    def parse_offer(self, words: Sequence[str]) -> BurlExtension:
        """Return an extension with the sources that the server accepts."""
        return BurlExtension(filter(SOURCE.fullmatch, words))

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        """Refuse BURL before AUTH, and without recipients (RFC 4468 6)."""
        if verb != "BURL":
            return None
        if self.authenticated and state.user is None:
            return AUTH_FIRST
        if not state.rcpts:
            return NO_RECIPIENTS if state.rejected_rcpts else RECIPIENT_FIRST
        return None
