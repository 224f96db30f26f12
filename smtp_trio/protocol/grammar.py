"""`Grammar`: the extensions of one server or client, merged."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from attrs import evolve, frozen

from .arguments import check_items
from .commands import VERBS, Command, Hello
from .dialogue import BASE, Table
from .extension import Extension
from .limits import COMMAND_LINE_OCTETS
from .params import KnownParams, Param
from .replies import Reply
from .session_state import SessionState
from .values import Value


@frozen(eq=False, repr=False)
class Offer(Value):
    """The offer of the reply to EHLO in one `SessionState`: the reply, its keywords, and the parameters by command."""

    reply: Reply
    keywords: frozenset[str]
    params: Mapping[type[Command], KnownParams]


#: The offer to a client that has not sent EHLO.
NO_OFFER = Offer(Reply(250), frozenset(), {})


@final
class Grammar:
    """Several extensions merged: one state table, one set of verbs, one line limit.

    It is made once and shared by all sessions. ``line`` is the least line limit in octets; parameters of extensions can
    raise it. Raises ValueError if two extensions define the same keyword, verb or parameter, or if an extension
    requires another that is missing.
    """

    def __init__(self, extensions: Iterable[Extension], *, line: int = COMMAND_LINE_OCTETS) -> None:
        self.extensions: tuple[Extension, ...] = check_items(extensions, "extensions", Extension)
        self.table: Table = BASE.merge(extension.table for extension in self.extensions)
        keywords = [extension.keyword for extension in self.extensions]
        self.verbs: dict[str, type[Command]] = dict(VERBS)
        for extension in self.extensions:
            if keywords.count(extension.keyword) > 1:
                raise ValueError(f"duplicate extension {extension.keyword}")
            if missing := set(extension.requires) - set(keywords):
                raise ValueError(f"{extension.keyword} requires {', '.join(sorted(missing))}")
            for verb in extension.verbs:
                if self.verbs.setdefault(verb.verb, verb) is not verb:
                    raise ValueError(f"{extension.keyword} defines the verb {verb.verb}, which is already defined")
            for replaced in extension.replaces:
                del self.verbs[replaced.verb]
        #: The protocol is LMTP (RFC 2033) and not SMTP.
        self.lmtp: bool = self.has("LMTP")
        _check_unique(self._all_params())
        # RFC 5321 4.5.3.1.4 and 4.1.2: 512 octets, plus the increase that each extension specifies for its parameters.
        extra = sum({param: param.extra_octets for _, param in self._all_params()}.values())
        #: The longest command line in octets, including its CRLF.
        self.line_limit: int = max(line, COMMAND_LINE_OCTETS + extra)
        #: Longer limits, by verb.
        self.line_limits: dict[str, int] = {}
        #: The class of a line that continues an exchange, by phase.
        self.continuations: dict[enum.Enum, type[Command]] = {}
        for extension in self.extensions:
            self.line_limits.update(extension.line_limits)
            self.continuations.update(extension.continuations)
        #: The extensions that override `Extension.check_verb`.
        self.verb_checks: tuple[Extension, ...] = tuple(
            extension for extension in self.extensions if overrides(extension, "check_verb")
        )
        #: The extensions whose `Extension.check_command` is called, by command class or parameter.
        self.checks: dict[type[Command] | Param[Any], tuple[Extension, ...]] = {
            subject: tuple(other for other in self.extensions if subject in other.checks)
            for extension in self.extensions
            for subject in extension.checks
        }
        #: The extensions whose `Extension.accepted` is called, by command class.
        self.acceptors: dict[type[Command], Extension] = {
            verb: extension
            for extension in self.extensions
            if overrides(extension, "accepted")
            for verb in extension.verbs
        }
        #: The results of `Extension.check_verb` depend on `SessionState.offer_key` only, so that they can be cached.
        self.caches_verbs: bool = _depend_on_offer_key(self.verb_checks)
        #: Replies have enhanced status codes (RFC 2034).
        self.enhanced: bool = self.has("ENHANCEDSTATUSCODES")
        advertising = [extension for extension in self.extensions if overrides(extension, "advertise")]
        self._caches_offers = _depend_on_offer_key(advertising)
        self._offers: dict[tuple[object, ...], Offer] = {}
        #: The cache of `CommandParser`, shared by all sessions, by `SessionState.offer_key` and the keywords offered.
        self.command_cache: dict[tuple[object, ...], dict[enum.Enum, dict[str, Any]]] = {}

    def has(self, keyword: str) -> bool:
        """Return whether there is an extension with this keyword."""
        return any(extension.keyword == keyword for extension in self.extensions)

    def params(self, command: type[Command]) -> tuple[Param[Any], ...]:
        """Return the parameters that the extensions add to a command."""
        return tuple(dict.fromkeys(param for kind, param in self._all_params() if kind is command))

    def offer(self, state: SessionState, hello: Hello | None = None) -> Offer:
        """Return what EHLO offers in this state, or in the one that it becomes when ``hello`` is accepted.

        It is computed once for each `SessionState.offer_key`, unless an extension of another package takes part.
        """
        if not self._caches_offers:
            return self._make_offer(state if hello is None else evolve(state, hello=hello))
        key = state.offer_key
        offer = self._offers.get(key)
        if offer is None:
            offer = self._offers[key] = self._make_offer(state)
        return offer

    def _make_offer(self, state: SessionState) -> Offer:
        lines, keywords = [], set()
        offered: dict[type[Command], dict[str, Param[Any]]] = {}
        for extension in self.extensions:
            line = extension.advertise(state)
            if line is None:
                continue
            lines.append(line)
            keywords.add(extension.keyword)
            for command, params in extension.params.items():
                offered.setdefault(command, {}).update({param.keyword: param for param in params})
        # RFC 5321 4.1.1.1: the server's domain is in the first line, each further line names an extension.
        return Offer(Reply(250, "\n".join([state.name, *lines]), ""), frozenset(keywords), offered)

    def _all_params(self) -> Iterator[tuple[type[Command], Param[Any]]]:
        for extension in self.extensions:
            for command, params in extension.params.items():
                yield from ((command, param) for param in params)


def overrides(extension: Extension, method: str) -> bool:
    """Return whether the class of an extension defines this method itself."""
    return getattr(type(extension), method) is not getattr(Extension, method)


def _depend_on_offer_key(extensions: Iterable[Extension]) -> bool:
    """Return whether the methods of the extensions depend on nothing but `SessionState.offer_key`.

    This is known of the classes in this package. One from elsewhere, even a subclass, may look at the name in EHLO, at
    the clock, or at a list of clients, and a result that is right for one session must not be used in another.
    """
    return all(
        type(extension).__module__.startswith(f"{__package__}.extensions.") and not extension.offer_varies
        for extension in extensions
    )


def _check_unique(params: Iterable[tuple[type[Command], Param[Any]]]) -> None:
    """Raise ValueError if two different parameters of a command have the same keyword.

    Two extensions may share one parameter object, as 8BITMIME and BINARYMIME share BODY.
    """
    found: dict[tuple[type[Command], str], Param[Any]] = {}
    for command, param in params:
        if found.setdefault((command, param.keyword), param) is not param:
            raise ValueError(f"duplicate parameter {param.keyword} of {command.verb}")
