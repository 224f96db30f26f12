"""The grammar of RFC 5321 4.1.2 as values and pure functions: paths, domains, address literals, xtext.

Lines are parsed as text that has already been decoded (ASCII or UTF-8) and cleared of control characters. Every expression is
linear: no two branches of it can match the same character, so no input makes it backtrack.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Final

from attrs import field, frozen

# RFC 6531 3.3 adds UTF-8 beyond ASCII to atext, qtext, sub-domain and esmtp-value. Whether it was allowed here is asked later.
# So the sets of characters name what is not in them: to compile one that names all of Unicode takes milliseconds.
C1: Final = r"\x7f-\x9f"  # DEL and the controls behind it
# Local-part = Dot-string / Quoted-string. Dots in odd places (".a", "a..b", "a.") are taken, as every large receiver takes them.
ATOM: Final = rf'[^\0-\x20"(),:;<>@\[\\\]{C1}]+'
QUOTED: Final = rf'"(?:[^\0-\x1f"\\{C1}]|\\[ -~])*"'
# Domain = sub-domain *("." sub-domain). The underscore is not in it, but it is in the world.
LABEL: Final = r"[^\0-,./:-@\[-^`\x7b-\x9f]+"
DOMAIN: Final = rf"{LABEL}(?:\.{LABEL})*"
LITERAL: Final = r"\[[!-Z^-~]+\]"
# A-d-l ":" of RFC 5321 4.1.2: a source route. It MUST be accepted and SHOULD be ignored (RFC 5321 4.1.1.3, appendix C).
ROUTE: Final = rf"@{DOMAIN}(?:,@{DOMAIN})*:"
MAILBOX: Final = rf"(?P<local>{ATOM}|{QUOTED})@(?P<domain>{DOMAIN}|{LITERAL})"

# Where the path of a MAIL or RCPT ends and its parameters begin. The colon may stand between spaces and the brackets may be
# missing, as Postfix and most others have it; strictly neither is allowed (RFC 5321 3.3).
ARGUMENT = re.compile(
    rf"""(?P<word>(?i:FROM|TO))\ *:\ *
         (?P<path> < (?:{ROUTE})? (?: {QUOTED} | [^">] )* > | [^\ ]+ )
         (?:\ +(?P<params>.*))?""",
    re.VERBOSE,
)
PATH = re.compile(rf"(?:{ROUTE})?(?P<mailbox>{MAILBOX})")
PARAMETER = re.compile(rf"(?P<keyword>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>[^\0-\x20={C1}]+))?")
# No command holds one of these. (The last two are line breaks to some programs that read logs.)
CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029]")
DIGITS = re.compile(r"[0-9]{1,20}")
XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
XTEXT_HEX = re.compile(r"\+([0-9A-F]{2})")
XTEXT_SPECIAL = re.compile(rb"[^!-*,-<>-~]")

LOCAL_OCTETS, PATH_OCTETS = 64, 256  # RFC 5321 4.5.3.1.1 and .3


@frozen(cache_hash=True)
class Path:
    """A reverse-path or forward-path (RFC 5321 4.1.2), without its brackets and without its source route.

    ``raw`` is the mailbox as it was sent, "" for the null reverse-path. ``local`` keeps its case (RFC 5321 2.4) and its quotes.
    ``domain`` is in lower case with A-labels, "[…]" for an address literal, None for the bare ``<Postmaster>`` and for ``<>``.
    ``bracketed`` is false when the brackets, which the grammar wants, were missing.
    """

    raw: str
    local: str
    domain: str | None
    bracketed: bool = True
    #: ASCII, and no longer than RFC 5321 4.5.3.1 wants every path to be: what needs no further look, known before it is asked.
    is_ordinary: bool = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "is_ordinary", self.is_ascii and not self.is_too_long)

    @property
    def is_null(self) -> bool:
        """The null reverse-path ``<>``, which mail about mail comes from (RFC 5321 4.5.5)."""
        return not self.raw

    @property
    def is_postmaster(self) -> bool:
        """The one mailbox that every server takes, with a domain or without, in any case (RFC 5321 4.5.1)."""
        return self.local.lower() == "postmaster"

    @property
    def user(self) -> str:
        """The local part up to its first "+": ``fred`` of ``fred+lists``."""
        return self.local.partition("+")[0]

    @property
    def detail(self) -> str | None:
        """The local part behind its first "+" (RFC 5233 calls it the detail), or None."""
        _, plus, detail = self.local.partition("+")
        return detail if plus else None

    @property
    def is_ascii(self) -> bool:
        """False for a path that only SMTPUTF8 can carry (RFC 6531 3.3)."""
        return self.raw.isascii()

    @property
    def is_too_long(self) -> bool:
        """Beyond the lengths of RFC 5321 4.5.3.1.1 to .3, which a receiver need not hold others to."""
        # A domain of more than 255 octets makes a path that is too long whatever else it holds.
        return len(self.local.encode()) > LOCAL_OCTETS or len(self.raw.encode()) + len("<>") > PATH_OCTETS

    def __str__(self) -> str:
        return self.local if self.domain is None else f"{self.local}@{self.domain}"

    @classmethod
    def parse(cls, text: str) -> Path | None:
        """The path that ``text`` spells, in brackets or without; None when it spells none."""
        bracketed = text.startswith("<")
        inner = text[1:-1] if bracketed else text
        if bracketed != text.endswith(">"):
            return None
        if not inner:
            return NULL if bracketed else None
        match = PATH.fullmatch(inner)
        if match is None:
            return cls(inner, inner, None, bracketed) if inner.lower() == "postmaster" else None
        mailbox, local, domain = match.group("mailbox", "local", "domain")
        canonical = canonical_domain(domain)
        return None if canonical is None else cls(mailbox, local, canonical, bracketed)


NULL = Path("", "", None)


@functools.lru_cache(maxsize=1024)
def parse_path(text: str) -> Path | None:
    """`Path.parse` with a memory: clients send to and from few addresses, again and again."""
    return Path.parse(text)


def parse_argument(argument: str) -> tuple[str, str, Path | None, str] | None:
    """The argument of MAIL or RCPT: "FROM" or "TO", the path as sent and as parsed (None: it is none), and the parameters' text.

    None when it is no such argument at all.
    """
    match = ARGUMENT.fullmatch(argument)
    if match is None:
        return None
    word, path, params = match.group("word", "path", "params")
    return word.upper(), path, parse_path(path), params or ""


def canonical_domain(text: str) -> str | None:
    """A domain in lower case and with A-labels (RFC 5890), an address literal checked; None when it can be neither."""
    if text.startswith("["):
        return text if is_literal(text) else None
    if text.isascii():
        return text.lower()
    import idna  # here, since it is slow to import and most servers never see a U-label

    try:
        return idna.encode(text, uts46=True).decode("ascii").lower()
    except idna.IDNAError:
        return None


def is_literal(text: str) -> bool:
    """Whether ``[…]`` is an address literal of RFC 5321 4.1.3. IPv6 is the only tag that was ever registered."""
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            return ipaddress.IPv6Address(inner[5:]).scope_id is None
        ipaddress.IPv4Address(inner)
    except ValueError:
        return False
    return True


def decode_xtext(text: str) -> str | None:
    """xtext of RFC 3461 4: "+" and two upper-case hex digits stand for an octet. None when it is not xtext, or not UTF-8 inside."""
    if XTEXT.fullmatch(text) is None:
        return None
    octets = XTEXT_HEX.sub(lambda match: chr(int(match[1], 16)), text)
    try:
        return octets.encode("latin-1").decode()
    except UnicodeDecodeError:
        return None


def encode_xtext(text: str) -> str:
    """The xtext (RFC 3461 4) that ``decode_xtext`` turns back into ``text``."""
    return XTEXT_SPECIAL.sub(lambda match: b"+%02X" % match[0][0], text.encode()).decode("ascii")
