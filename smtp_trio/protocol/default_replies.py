"""What a command is answered with when nobody has another idea."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from .commands import Command, Connect, Ehlo, Helo, Help, Quit
from .grammar import Grammar
from .replies import Reply
from .session_state import SessionState


def default_reply(command: Command, state: SessionState, grammar: Grammar) -> Reply:
    """The reply that this command gets as a rule."""
    words = WORDS.get(type(command))
    return words(command, state, grammar) if words is not None else command.default_reply


def _help(command: Help, state: SessionState, grammar: Grammar) -> Reply:
    topic, verbs = command.topic, grammar.verbs
    if not topic:
        return Reply(214, f"Commands: {' '.join(verbs)}\nHELP command tells how it is written", "2.0.0")
    about = verbs.get(topic.upper() if topic.isascii() else "")
    if about is None:  # RFC 5321 4.3.2: 504 for a topic that is unknown
        return Reply(504, f"No help for {topic!a}", "5.5.4")
    return Reply(214, f"Syntax: {about.usage}", "2.0.0")


@cache
def greeting(name: str) -> Reply:
    """The greeting of the server with this name."""
    return Reply(220, f"{name} ESMTP", "")


@cache
def hello(name: str) -> Reply:
    """Its answer to HELO."""
    return Reply(250, name, "")


@cache
def goodbye(name: str) -> Reply:
    """Its answer to QUIT."""
    return Reply(221, f"{name} Goodbye", "2.0.0")


#: Those whose usual answer is no constant. RFC 5321 4.2: greeting, hello and goodbye begin with the server's name.
WORDS: Mapping[type[Command], Callable[[Any, SessionState, Grammar], Reply]] = {
    Connect: lambda _, state, __: greeting(state.name),
    Ehlo: lambda _, state, grammar: grammar.offer(state).reply,
    Helo: lambda _, state, __: hello(state.name),
    Quit: lambda _, state, __: goodbye(state.name),
    Help: _help,
}
