"""`Strictness`: what a server accepts although the grammar of RFC 5321 does not allow it."""

from __future__ import annotations

from attrs import evolve, frozen

from . import syntax
from .arguments import check_type
from .syntax import Path
from .values import Value

# Clients send commands that the grammar does not allow, and their meaning is clear nevertheless. Whether to accept them
# is a decision of the administrator: a server that receives mail from everywhere accepts what senders in the field
# commonly do, a server for printers and scanners has to accept more, and a server that tests a client should accept
# nothing that another server might refuse. Each kind of deviation is one member of `Strictness`, and each mode is one
# value of that class, so the three values below are the table of all deviations.
#
# Parsers ask for the member of their deviation and never for the mode. What a parser returns depends on the mode, so the
# caches of parsed commands are separate for each value: `CommandParser.cache` by `SessionState.offer_key`, and those of
# MAIL and RCPT by `commands.path_decoders`.
#
# A deviation that is accepted is also repaired, so that hooks, stores and trace fields never get a value that is not
# valid: a path has a domain, and the name in EHLO is ASCII, or "" if the client sent none.


@frozen(kw_only=True, cache_hash=True, repr=False)
class Strictness(Value):
    """The deviations from the grammar that a server accepts. The modes are `STRICT`, `NORMAL` and `lenient_mode`.

    ``missing_brackets`` accepts ``MAIL FROM:a@example.org`` and ``spaces_at_colon`` accepts ``MAIL FROM: <…>`` (RFC
    5321 3.3 and 4.1.1.2). ``extra_space`` accepts several spaces, or tabs, between words (4.1.1).
    ``invalid_hello_name`` accepts names in HELO and EHLO that are not a domain or an address literal (4.1.1.1), such as
    one with an underscore.

    ``missing_hello_name`` accepts HELO and EHLO without a name; `Hello.domain` is "" then. ``non_ascii_hello_name``
    accepts a name that is not ASCII; `Hello.domain` is its form with A-labels, or "" if it has none.
    ``invalid_mailbox`` accepts mailboxes that are not `Path.well_formed` (4.1.2), such as ``a..b@example.org``.
    ``default_domain`` is the domain of mailboxes without one; None refuses them. ``trailing_dot`` removes a dot after
    the domain of a mailbox. ``extensions_after_helo`` accepts AUTH and other commands of extensions after HELO.
    """

    missing_brackets: bool = False
    spaces_at_colon: bool = False
    extra_space: bool = False
    invalid_hello_name: bool = False

    missing_hello_name: bool = False
    non_ascii_hello_name: bool = False
    invalid_mailbox: bool = False
    default_domain: str | None = None
    trailing_dot: bool = False
    extensions_after_helo: bool = False

    def repair_path(self, text: str) -> Path | None:
        """Return the path that a client meant with ``text``, which is not a path, or None if it cannot be repaired."""
        bracketed = text.startswith("<")
        if bracketed != text.endswith(">") or not (self.default_domain or self.trailing_dot):
            return None
        sent = text[1:-1] if bracketed else text
        match = syntax.INCOMPLETE_MAILBOX.fullmatch(sent)
        if match is None:
            return None
        local, domain = match.group("local", "domain")
        if domain is None:
            domain = self.default_domain
        elif not self.trailing_dot:
            return None
        path = None if domain is None else Path.parse(f"{local}@{domain}")
        return None if path is None else evolve(path, bracketed=bracketed, sent=sent)


#: Accept nothing but the grammar: for tests of a client.
STRICT = Strictness()
#: Accept what clients in the field commonly send: the default.
NORMAL = Strictness(missing_brackets=True, spaces_at_colon=True, extra_space=True, invalid_hello_name=True)


def lenient_mode(default_domain: str) -> Strictness:
    """Return the mode for devices, which accepts all deviations of `Strictness`.

    ``default_domain`` is a domain or an address literal. Raises ValueError if it is neither.
    """
    check_type(default_domain, "default_domain", str)
    normalized = syntax.parse_domain(default_domain)
    if normalized is None:
        raise ValueError(f"lenient needs a domain or an address literal as default domain, got {default_domain!r}")
    return evolve(
        NORMAL,
        missing_hello_name=True,
        non_ascii_hello_name=True,
        invalid_mailbox=True,
        default_domain=normalized,
        trailing_dot=True,
        extensions_after_helo=True,
    )


def select_mode(name: str, *, lenient: bool | str, strict: bool) -> Strictness:
    """Return the mode that these settings of a server select. ``lenient`` is the default domain; True means ``name``.

    Raises ValueError if the default domain is not valid, or if both modes are selected.
    """
    if not isinstance(lenient, bool | str):
        raise TypeError(f"lenient must be True, False or a domain, got {lenient!r}")
    if lenient is False:
        return STRICT if strict else NORMAL
    if strict:
        raise ValueError("strict cannot be combined with lenient")
    return lenient_mode(name if lenient is True else lenient)
