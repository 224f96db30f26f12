"""The default reply to each command, used when no hook has returned one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .commands import Command, Ehlo, Help, Mail, Rcpt
from .grammar import Grammar
from .params import NO_PARAMS
from .replies import Reply
from .session_state import SessionState

#: Returns the verbs that are allowed now. Only HELP needs them, so they are found only for it.
UsableVerbs = Callable[[], Sequence[str]]


def _path(command: Mail | Rcpt, *_: object) -> Reply:
    reply = None if command.params is NO_PARAMS else command.params.reply
    return reply or command.default_reply


def _help(command: Help, state: SessionState, grammar: Grammar, usable: UsableVerbs) -> Reply:
    # RFC 5321 4.1.1.8 leaves the text to the server. A list of all verbs would send a client to commands that are
    # refused: STARTTLS inside TLS, MAIL before AUTH, DATA before RCPT. The syntax of a verb does not depend on the
    # session, so it is shown for all of them.
    topic, verbs = command.topic, grammar.verbs
    if not topic:
        return Reply(214, f"Commands: {' '.join(usable())}\nHELP followed by a command shows its syntax", "2.0.0")
    about = verbs.get(topic.upper() if topic.isascii() else "")
    if about is None:  # RFC 5321 4.3.2: 504 for an unknown topic
        return Reply(504, f"No help for {topic!a}", "5.5.4")
    return Reply(214, f"Syntax: {about.usage}", "2.0.0")


def _ehlo(command: Ehlo, state: SessionState, grammar: Grammar, usable: UsableVerbs) -> Reply:
    return grammar.offer(state, command).reply


# These three are the same in every session of a server, so each is built once per server name.


@lru_cache(maxsize=64)
def greeting(name: str, protocol: str) -> Reply:
    """Return the greeting of the server called ``name``."""
    return Reply(220, f"{name} {protocol}", "")


def _greeting(_: Command, state: SessionState, grammar: Grammar, __: UsableVerbs) -> Reply:
    return greeting(state.name, "LMTP" if grammar.lmtp else "ESMTP")


@lru_cache(maxsize=64)
def helo_reply(name: str) -> Reply:
    """Return the reply to HELO of the server called ``name``."""
    return Reply(250, name, "")


@lru_cache(maxsize=64)
def quit_reply(name: str) -> Reply:
    """Return the reply to QUIT of the server called ``name``."""
    return Reply(221, f"{name} Goodbye", "2.0.0")


#: Default replies that are computed, by verb; those of all other commands are constants, `Command.default_reply`.
#: RFC 5321 4.2 and 4.3.1: the greeting and the replies to EHLO, HELO and QUIT begin with the server's name.
COMPUTED: Mapping[str, Callable[[Any, SessionState, Grammar, UsableVerbs], Reply]] = {
    "CONNECT": _greeting,
    "XCLIENT": _greeting,
    "EHLO": _ehlo,
    "LHLO": _ehlo,
    "HELO": lambda _, state, *__: helo_reply(state.name),
    "QUIT": lambda _, state, *__: quit_reply(state.name),
    "HELP": _help,
    "MAIL": _path,
    "RCPT": _path,
}
