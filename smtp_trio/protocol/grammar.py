"""Several extensions merged."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from attrs import frozen

from .commands import VERBS, Command
from .dialogue import BASE, Table
from .extension import Extension
from .params import Param
from .replies import Reply
from .session_state import SessionState


@frozen
class Offer:
    """What a client with given facts is offered: the answer to its EHLO, and the parameters by command."""

    reply: Reply
    keywords: frozenset[str]
    grammar: Mapping[type[Command], Mapping[str, Param[Any]]]


NOTHING = Offer(Reply(250), frozenset(), {})


@final
class Grammar:
    """Extensions merged: one table, one set of verbs, one line limit. Made once, shared by all sessions.

    Raises ValueError when two of them own one verb or keyword, or one lacks another that it needs.
    """

    def __init__(self, extensions: Iterable[Extension], *, line: int = 512) -> None:
        self.extensions: tuple[Extension, ...] = tuple(extensions)
        self.table: Table = BASE.merge(extension.table for extension in self.extensions)
        keywords = [extension.keyword for extension in self.extensions]
        self.verbs: dict[str, type[Command]] = dict(VERBS)
        for extension in self.extensions:
            if keywords.count(extension.keyword) > 1:
                raise ValueError(f"{extension.keyword} is there twice")
            if missing := set(extension.requires) - set(keywords):
                raise ValueError(f"{extension.keyword} needs {', '.join(sorted(missing))} too")
            for verb in extension.verbs:
                if self.verbs.setdefault(verb.verb, verb) is not verb:
                    raise ValueError(f"{extension.keyword} claims {verb.verb}, which is taken")
        _check_owners(self._all_params())
        #: RFC 5321 4.5.3.1.4: 512 octets, and what every extension adds; never less than what the server grants anyway.
        self.line_limit: int = max(
            line, 512 + sum({param: param.extra_octets for _, param in self._all_params()}.values())
        )
        self.line_limits: dict[str, int] = {}
        self.continuations: dict[enum.Enum, type[Command]] = {}
        for extension in self.extensions:
            self.line_limits.update(extension.line_limits)
            self.continuations.update(extension.continuations)
        self.verb_checks: tuple[Extension, ...] = tuple(
            e for e in self.extensions if type(e).check_verb is not Extension.check_verb
        )
        self.checks: dict[type[Command] | Param[Any], tuple[Extension, ...]] = {
            subject: tuple(e for e in self.extensions if subject in e.checks)
            for extension in self.extensions
            for subject in extension.checks
        }
        self._offers: dict[tuple[object, ...], Offer] = {}
        #: What `CommandParser` has found to be in order, for clients with the same facts; all sessions share it.
        self.command_cache: dict[tuple[object, ...], dict[enum.Enum, dict[str, Any]]] = {}

    def has(self, keyword: str) -> bool:
        """Whether an extension of that keyword is among these."""
        return any(extension.keyword == keyword for extension in self.extensions)

    def params(self, command: type[Command]) -> tuple[Param[Any], ...]:
        """The parameters that any of these extensions gives to this command."""
        return tuple(dict.fromkeys(param for kind, param in self._all_params() if kind is command))

    def offer(self, state: SessionState) -> Offer:
        """What a client with these facts is offered. Made once for each combination of facts that differs."""
        key = state.offer_key
        offer = self._offers.get(key)
        if offer is None:
            offer = self._offers[key] = self._make_offer(state)
        return offer

    def _make_offer(self, state: SessionState) -> Offer:
        lines, keywords = [], set()
        grammar: dict[type[Command], dict[str, Param[Any]]] = {}
        for extension in self.extensions:
            line = extension.advertise(state)
            if line is None:
                continue
            lines.append(line)
            keywords.add(extension.keyword)
            for command, params in extension.params.items():
                grammar.setdefault(command, {}).update({param.keyword: param for param in params})
        # RFC 5321 4.1.1.1: the server's domain stands in the first line, an extension in each of the others.
        return Offer(Reply(250, "\n".join([state.name, *lines]), ""), frozenset(keywords), grammar)

    def _all_params(self) -> Iterator[tuple[type[Command], Param[Any]]]:
        for extension in self.extensions:
            for command, params in extension.params.items():
                yield from ((command, param) for param in params)


def _check_owners(params: Iterable[tuple[type[Command], Param[Any]]]) -> None:
    """Two extensions may share one parameter object (BODY, say), but not one keyword."""
    owners: dict[tuple[type[Command], str], Param[Any]] = {}
    for command, param in params:
        if owners.setdefault((command, param.keyword), param) is not param:
            raise ValueError(f"{param.keyword} of {command.verb} is defined twice")
