"""The grammar of RFC 5321 4.1.2: paths, domains, address literals and xtext, as values and pure functions.

The functions expect text that has been decoded (from ASCII or UTF-8) and checked for control characters.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Final

from attrs import field, frozen

from .lazy import lazy_pattern
from .limits import LOCAL_PART_OCTETS, PATH_OCTETS
from .values import Value

# All expressions below run in linear time: of two alternatives at one place, no character can begin both, so no input
# makes them backtrack. The possessive quantifiers (``++``, ``*+``) tell this to the `re` module, which otherwise keeps the
# positions to go back to and tries each of them when a long argument turns out to be malformed.
#
# RFC 6531 3.3 adds UTF-8 beyond ASCII to atext, qtext, sub-domain and esmtp-value. The expressions always allow it;
# whether the command may contain it is checked later, when the parameter SMTPUTF8 is known. The character sets exclude
# what is not allowed rather than list what is, because compiling a set that lists Unicode takes milliseconds.
#
# There are two sets of expressions. The first one is the grammar. The other one also accepts what is in use although the
# grammar does not allow it: dots at odd places of a local part (".a", "a..b", "a."), and underscores and misplaced
# hyphens in domains. `Path.parse` accepts both and notes the difference in `Path.well_formed`, because a client has to
# be able to send mail to such an address. `Strictness` decides whether a server accepts it (RFC 5321 4.1.2: it "MUST be
# rejected"), and which deviations of the whole command.

#: DEL and the C1 control characters.
C1: Final = r"\x7f-\x9f"
# Local-part = Dot-string / Quoted-string; Dot-string = Atom *("." Atom)
ATOM: Final = rf'[^\0-\x20"(),.:;<>@\[\\\]{C1}]+'
DOT_STRING: Final = rf"{ATOM}(?:\.{ATOM})*"
LOOSE_DOT_STRING: Final = rf'[^\0-\x20"(),:;<>@\[\\\]{C1}]+'
QUOTED: Final = rf'"(?:[^\0-\x1f"\\{C1}]|\\[ -~])*"'
# Domain = sub-domain *("." sub-domain); sub-domain = Let-dig [Ldh-str], which does not end with a hyphen
LET_DIG: Final = r"[^\0-/:-@\[-`\x7b-\x9f]++"
LABEL: Final = rf"{LET_DIG}(?:-++{LET_DIG})*+"
DOMAIN: Final = rf"{LABEL}(?:\.{LABEL})*+"
LOOSE_LABEL: Final = r"[^\0-,./:-@\[-^`\x7b-\x9f]+"
LOOSE_DOMAIN: Final = rf"{LOOSE_LABEL}+(?:\.{LOOSE_LABEL}+)*+"
ADDRESS_LITERAL: Final = r"\[[!-Z^-~]+\]"
# A-d-l ":", a source route. It MUST be accepted and SHOULD be ignored (RFC 5321 4.1.1.3, appendix C).
# Since it is ignored, its domains need not be exact.
SOURCE_ROUTE: Final = rf"@{LOOSE_DOMAIN}(?:,@{LOOSE_DOMAIN})*:"
MAILBOX: Final = rf"(?P<local>{DOT_STRING}|{QUOTED})@(?P<domain>{DOMAIN}|{ADDRESS_LITERAL})"
LOOSE_LOCAL: Final = rf"(?P<local>{LOOSE_DOT_STRING}|{QUOTED})"
LOOSE_MAILBOX: Final = rf"{LOOSE_LOCAL}@(?P<domain>{LOOSE_DOMAIN}|{ADDRESS_LITERAL})"

# The argument of MAIL or RCPT: the path, then the parameters. A quoted local part may contain ">" and spaces.
ARGUMENT = lazy_pattern(
    rf"""(?P<word>(?i:FROM|TO))\ *:\ *
         (?P<path> < (?:{SOURCE_ROUTE})? (?: {QUOTED} | [^">]++ )*+ > | [^\ ]+ )
         (?:\ +(?P<params>.*))?""",
    re.VERBOSE,
)
PATH = lazy_pattern(rf"(?:{SOURCE_ROUTE})?(?P<mailbox>{MAILBOX})")
LOOSE_PATH = lazy_pattern(rf"(?:{SOURCE_ROUTE})?(?P<mailbox>{LOOSE_MAILBOX})")
#: The characters that UTS 46 takes for the dot between labels.
DOTS: Final = ".\u3002\uff0e\uff61"
#: A path as devices send it: without a domain ("user", "user@"), or with a dot after it. The dot may be a character that
#: a label can have.
INCOMPLETE_MAILBOX = lazy_pattern(
    rf"(?:{SOURCE_ROUTE})?{LOOSE_LOCAL}(?:@(?:(?P<domain>{LOOSE_LABEL}(?:\.{LOOSE_LABEL})*)[{DOTS}])?)?"
)
WHOLE_DOT_STRING = lazy_pattern(DOT_STRING)
QUOTED_PAIR = lazy_pattern(r"\\(.)")
QUOTE_OR_BACKSLASH = lazy_pattern(r'["\\]')
HELLO_DOMAIN = lazy_pattern(DOMAIN)
DOMAIN_OR_LITERAL = lazy_pattern(rf"{LOOSE_DOMAIN}|{ADDRESS_LITERAL}")
PARAMETER = lazy_pattern(rf"(?P<keyword>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>[^\0-\x20={C1}]+))?")
#: Characters that no command contains: controls, and U+2028 and U+2029, which some readers of log files take for line
#: breaks.
CONTROL = lazy_pattern(r"[\0-\x1f\x7f-\x9f\u2028\u2029]")
#: A quoted string, or white space outside of one. A quoted string that is not closed extends to the end.
WHITE_SPACE = lazy_pattern(r'("(?:[^"\\]|\\.?)*"?)|[ \t]+')
DIGITS = lazy_pattern(r"[0-9]{1,20}")
XTEXT = lazy_pattern(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
XTEXT_HEX = lazy_pattern(r"\+([0-9A-F]{2})")
XTEXT_SPECIAL = lazy_pattern(rb"[^!-*,-<>-~]")


# White space in command lines. RFC 5321 4.1.1 has a single SP between words. It asks servers to tolerate white space at
# the end of a line only, but clients in the field send several spaces, and tabs. What they mean is clear, so the rule is the
# same for all verbs, and for the lines of an AUTH exchange: a run of spaces and tabs counts as one space, and is ignored
# at the end of the line. `normalize_space` is the only place that knows it; the parsers of arguments see single spaces.
# In a quoted local part (RFC 5321 4.1.2) a space is a character of the name, so quoted strings are left as they are.


def normalize_space(line: str) -> str:
    """Return a line with single spaces between its words, and without white space at its end."""
    if "\t" in line or "  " in line:
        line = WHITE_SPACE.sub(lambda match: match[1] or " ", line)
    return line.rstrip(" ")


@frozen(cache_hash=True, repr=False)
class Path(Value):
    """A reverse-path or forward-path (RFC 5321 4.1.2), without its brackets and its source route.

    ``raw`` is the mailbox as it was sent, "" for the null reverse-path. ``local`` is the local part with its case (RFC
    5321 2.4), in the form with the fewest quotes, because all quoted forms are equivalent (4.1.2): ``fred`` for
    ``"fred"``. ``domain`` is in lower case with A-labels, "[…]" for an address literal, and None for ``<Postmaster>``
    without a domain and for ``<>``. ``bracketed`` is false if the brackets were missing.
    ``well_formed`` is false if the local part or the domain has a dot, a hyphen or an underscore where the grammar does
    not allow it.

    Paths are equal if they were sent in the same form. To compare mailboxes, use ``str(path)`` or `lower`.

    If a lenient server has repaired the mailbox (`Strictness`), ``raw`` is the repaired one, and ``sent`` what the
    client sent, with its source route. ``sent`` is None for all others, and is not compared.
    """

    raw: str
    local: str
    domain: str | None
    bracketed: bool = True
    sent: str | None = field(default=None, eq=False)
    well_formed: bool = field(default=True, eq=False)
    #: ASCII and within the lengths of RFC 5321 4.5.3.1, so that no further check is needed.
    # It is computed once, because `parse_path` returns the same object for an address again and again.
    is_ordinary: bool = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "is_ordinary", self.is_ascii and not self.is_too_long)

    @property
    def is_null(self) -> bool:
        """True if this is the null reverse-path ``<>`` of notifications (RFC 5321 4.5.5)."""
        return not self.raw

    @property
    def is_postmaster(self) -> bool:
        """True if the local part is postmaster, in any case and whatever the domain is.

        Every server must accept it without a domain and for each of its own domains (RFC 5321 4.5.1).
        """
        return self.local.lower() == "postmaster"

    @property
    def user(self) -> str:
        """The local part up to the first "+": ``fred`` of ``fred+lists``."""
        return self.local.partition("+")[0]

    @property
    def detail(self) -> str | None:
        """The local part after the first "+" (the detail of RFC 5233), or None."""
        _, plus, detail = self.local.partition("+")
        return detail if plus else None

    @property
    def is_ascii(self) -> bool:
        """True if the path can be sent without SMTPUTF8 (RFC 6531 3.3)."""
        return self.raw.isascii()

    @property
    def is_too_long(self) -> bool:
        """True if the path is longer than RFC 5321 4.5.3.1.1 to 4.5.3.1.3 allow. Servers may accept longer ones."""
        # The limit of the domain, 255 octets, needs no check: a path with a longer domain is too long as a whole.
        return len(self.local.encode()) > LOCAL_PART_OCTETS or len(self.raw.encode()) + len("<>") > PATH_OCTETS

    def __str__(self) -> str:
        return self.local if self.domain is None else f"{self.local}@{self.domain}"

    def lower(self) -> str:
        """Return the mailbox with its ASCII letters in lower case, to look it up without regard to case.

        Two mailboxes are the same, by RFC 5321 2.4, if their ``str()`` is equal: the case of a local part matters in
        principle, and that of a domain does not. A server decides about its own mailboxes, and nearly all ignore case;
        compare what this method returns then. Letters that are not ASCII stay as they are, since some that are
        different letters, such as K and the Kelvin sign, have the same lower case.
        """
        return str(self).encode().lower().decode()

    @classmethod
    def parse(cls, text: str) -> Path | None:
        """Parse a path, with or without brackets. Return None if ``text`` is not a path."""
        bracketed = text.startswith("<")
        inner = text[1:-1] if bracketed else text
        if bracketed != text.endswith(">"):
            return None
        if not inner:
            return NULL if bracketed else None
        well_formed = PATH.fullmatch(inner)
        match = well_formed or LOOSE_PATH.fullmatch(inner)
        if match is None:
            return cls(inner, inner, None, bracketed) if inner.lower() == "postmaster" else None
        mailbox, local, domain = match.group("mailbox", "local", "domain")
        normalized = normalize_domain(domain)
        if normalized is None:
            return None
        if local.startswith('"'):
            local = minimal_quoting(local)
        return cls(mailbox, local, normalized, bracketed, well_formed=well_formed is not None)


def minimal_quoting(quoted: str) -> str:
    """Return the form of a quoted local part that needs the fewest quotes and backslashes (RFC 5321 4.1.2)."""
    content = QUOTED_PAIR.sub(r"\1", quoted[1:-1])
    return content if WHOLE_DOT_STRING.fullmatch(content) else '"' + QUOTE_OR_BACKSLASH.sub(r"\\\g<0>", content) + '"'


NULL = Path("", "", None)


#: The longest path that is cached, and the longest argument of MAIL or RCPT: one of 256 octets (RFC 5321 4.5.3.1.3), with
#: some room. Longer ones are rare, and a thousand of them would be some MiB.
CACHED_OCTETS = 320


@functools.lru_cache(maxsize=1024)
def parse_path(text: str) -> Path | None:
    """Call `Path.parse` with a cache: a client uses the same few addresses again and again."""
    return Path.parse(text)


def parse_argument(argument: str) -> tuple[str, str, Path | None, str] | None:
    """Split the argument of a MAIL or RCPT. Return None if it does not have the form of one.

    The result is "FROM" or "TO", the path as sent, the parsed path (None if it is malformed), and the text of the
    parameters.
    """
    match = ARGUMENT.fullmatch(argument)
    if match is None:
        return None
    word, path, params = match.group("word", "path", "params")
    # As in commands.py, only what has the length of an ordinary path is cached.
    parse = parse_path if len(path) <= CACHED_OCTETS else Path.parse
    return word.upper(), path, parse(path), params or ""


def parse_domain(text: str) -> str | None:
    """Return `normalize_domain` of a domain or an address literal, or None if ``text`` is neither."""
    return normalize_domain(text) if DOMAIN_OR_LITERAL.fullmatch(text) else None


def normalize_domain(text: str) -> str | None:
    """Return a domain in lower case with A-labels (RFC 5890). An address literal is only checked.

    ``text`` has the form of one of them. Return None if it is not valid.
    """
    if text.startswith("["):
        return text if is_address_literal(text) else None
    if text.isascii():
        return text.lower()
    import idna  # slow to import, and needed for U-labels only

    try:
        domain = idna.encode(text, uts46=True).decode("ascii").lower()
    except idna.IDNAError:
        return None
    return None if domain.endswith(".") else domain  # as `DOMAIN`, but after U+3002 and the like became dots


def is_hello_name(text: str) -> bool:
    """Return whether ``text`` is a name that HELO and EHLO may have (RFC 5321 4.1.1.1)."""
    if text.startswith("["):
        return text.endswith("]") and is_address_literal(text)
    return HELLO_DOMAIN.fullmatch(text) is not None


def is_address_literal(text: str) -> bool:
    """Return whether ``text``, in square brackets, is an address literal (RFC 5321 4.1.3).

    "IPv6" is the only tag that has been registered.
    """
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            return ipaddress.IPv6Address(inner[5:]).scope_id is None
        ipaddress.IPv4Address(inner)
    except ValueError:
        return False
    return True


def decode_xtext(text: str) -> str | None:
    """Decode xtext (RFC 3461 4), in which "+" and two upper-case hexadecimal digits stand for an octet.

    Return None if ``text`` is not xtext, or does not decode to UTF-8.
    """
    if XTEXT.fullmatch(text) is None:
        return None
    octets = XTEXT_HEX.sub(lambda match: chr(int(match[1], 16)), text)
    try:
        return octets.encode("latin-1").decode()
    except UnicodeDecodeError:
        return None


def encode_xtext(text: str) -> str:
    """Encode ``text`` as xtext (RFC 3461 4)."""
    return XTEXT_SPECIAL.sub(lambda match: b"+%02X" % match[0][0], text.encode()).decode("ascii")
