"""Mechanisms that send the password as it is: PLAIN (RFC 4616), and LOGIN, which was never standardized."""

from __future__ import annotations

from ..errors import BadCommandError
from .credentials import (
    MALFORMED,
    ClientExchange,
    Credentials,
    MechanismContext,
    PasswordCredentials,
    Random,
    ServerExchange,
    challenge,
    end,
    judged,
    name,
    text,
)


def plain_server(initial: bytes | None, at: MechanismContext) -> ServerExchange:
    """PLAIN, server: ``[authzid] NUL authcid NUL password`` in UTF-8 (RFC 4616 2)."""
    message = (yield b"") if initial is None else initial
    parts = message.split(b"\0")
    if len(parts) != 3:
        raise BadCommandError(MALFORMED)
    return (yield from judged(Credentials("PLAIN", name(parts[1]), text(parts[2]), name(parts[0]))))


def plain_client(credentials: PasswordCredentials, token: Random) -> ClientExchange:
    """PLAIN, client: everything in the first response."""
    end((yield f"{credentials.authzid}\0{credentials.user}\0{credentials.password}".encode()))


def login_server(initial: bytes | None, at: MechanismContext) -> ServerExchange:
    """LOGIN, server: asks for the user name, then for the password. An initial response is the user name, by convention."""
    user = name((yield b"Username:") if initial is None else initial)
    return (yield from judged(Credentials("LOGIN", user, text((yield b"Password:")))))


def login_client(credentials: PasswordCredentials, token: Random) -> ClientExchange:
    """LOGIN, client: the answers to two questions, whatever they say."""
    challenge((yield None))
    challenge((yield credentials.user.encode()))
    end((yield credentials.password.encode()))
