"""SASL (RFC 4422): how a client proves who it is. Each mechanism is a generator for each role, which knows no base64 and no commands.

The core's side of AUTH, in either role, puts their octets on the wire (`smtp_trio.protocol.extensions.auth`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Any, Literal

from attrs import frozen

from ..errors import LocalProtocolError
from . import cram, oauth, plain_login, scram
from .credentials import (
    FAILED,
    MALFORMED,
    Authenticated,
    BearerToken,
    ClientExchange,
    Credentials,
    Failed,
    MechanismContext,
    PasswordCredentials,
    Random,
    ScramSecret,
    Secret,
    SecretWanted,
    ServerExchange,
)

__all__ = [
    "FAILED",
    "MALFORMED",
    "MECHANISMS",
    "Authenticated",
    "BearerToken",
    "ClientExchange",
    "Credentials",
    "Failed",
    "Mechanism",
    "MechanismContext",
    "PasswordCredentials",
    "Random",
    "ScramSecret",
    "Secret",
    "SecretWanted",
    "ServerExchange",
    "choose",
]


@frozen
class Mechanism:
    """A mechanism, and what it takes.

    ``client`` is called with what the user has and a source of chance, ``server`` with the initial response (None: there is none)
    and the `MechanismContext`. ``asks`` is the hook that a server needs for it. ``cleartext``: whoever hears it can log in himself.
    ``delegates``: it can carry another name to act as.
    """

    name: str
    client: Callable[[Any, Random], ClientExchange]
    server: Callable[[bytes | None, MechanismContext], ServerExchange]
    takes: type[PasswordCredentials | BearerToken]
    asks: Literal["auth", "secret"]
    cleartext: bool
    delegates: bool = False
    needs: str = ""  # a library

    @property
    def missing(self) -> bool:
        """It cannot be used, for want of its library."""
        return bool(self.needs) and find_spec(self.needs) is None


#: All of them, best first (under TLS; without it those in clear text are the worst). CRAM-MD5 makes the server store the password.
MECHANISMS: dict[str, Mechanism] = {
    mechanism.name: mechanism
    for mechanism in (
        Mechanism(
            "SCRAM-SHA-256",
            scram.scram_client,
            scram.scram_server,
            PasswordCredentials,
            "secret",
            False,
            needs="scramp",
        ),
        Mechanism(
            "PLAIN",
            plain_login.plain_client,
            plain_login.plain_server,
            PasswordCredentials,
            "auth",
            True,
            delegates=True,
        ),
        Mechanism("LOGIN", plain_login.login_client, plain_login.login_server, PasswordCredentials, "auth", True),
        Mechanism("CRAM-MD5", cram.cram_client, cram.cram_server, PasswordCredentials, "secret", False),
        Mechanism("OAUTHBEARER", oauth.oauthbearer_client, oauth.oauthbearer_server, BearerToken, "auth", True),
        Mechanism("XOAUTH2", oauth.xoauth2_client, oauth.xoauth2_server, BearerToken, "auth", True),
    )
}


def choose(
    offered: Collection[str],
    credentials: PasswordCredentials | BearerToken,
    *,
    secure: bool,
    allow_cleartext: bool = False,
) -> Mechanism:
    """The best mechanism that a server offers for what the user has.

    ``secure``: the connection is under TLS. ``allow_cleartext``: without it, too, send what an eavesdropper could use (RFC 4954 4
    wants that to be asked for). Raises LocalProtocolError when none can be used; it says what is offered and what stands in the way.
    """
    words = {word.upper() for word in offered}
    usable, obstacles = [], []
    for mechanism in MECHANISMS.values():
        if isinstance(credentials, mechanism.takes):
            if mechanism.name not in words:
                obstacle = "is not offered"
            elif mechanism.missing:
                obstacle = f"needs {mechanism.needs}: install smtp-trio[scram]"
            elif mechanism.cleartext and not (secure or allow_cleartext):
                obstacle = "needs TLS, or leave to do without it"
            elif isinstance(credentials, PasswordCredentials) and credentials.authzid and not mechanism.delegates:
                obstacle = "cannot carry an authzid"
            else:
                usable.append(mechanism)
                continue
            obstacles.append(f"{mechanism.name} {obstacle}")
    if not usable:
        listed = ", ".join(sorted(words)) or "no mechanism"
        raise LocalProtocolError(f"the server offers {listed} to log in with: {'; '.join(obstacles)}")
    return usable[0] if secure else min(usable, key=lambda mechanism: mechanism.cleartext)
