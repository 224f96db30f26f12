"""EXTERNAL (RFC 4422 appendix A) and ANONYMOUS (RFC 4505): no secret is sent.

With EXTERNAL the proof is the client's certificate, which TLS has verified before. ANONYMOUS has no proof at all. Both
have one message, which may be empty. A server offers them only if the application names them (`Auth`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ..errors import BadCommandError
from .credentials import (
    ANONYMOUS_USER,
    MAX_TRACE,
    AnonymousCredentials,
    ClientCredentials,
    Credentials,
    ExternalCredentials,
)
from .mechanism import (
    INVALID_CREDENTIALS,
    MALFORMED_CREDENTIALS,
    ClientExchange,
    Mechanism,
    MechanismContext,
    ServerExchange,
    ask_application,
    decode_printable,
    decode_user,
    expect_success,
)
from .saslprep import MAX_NAME

# Why are these not offered by default, although an `auth` hook has to accept them?
#
# The credentials have no password. A hook that was written for passwords may pass an empty one on, and an LDAP server
# takes a bind with an empty password as an anonymous one and reports success (RFC 4513 5.1.2). An application that
# names one of these mechanisms knows that its hook has to look at ``credentials.mechanism``.
#
# The user of EXTERNAL is always one that the certificate names, since nothing else was proved. A client without such a
# certificate could otherwise become any user by naming it, if the hook compares ``user`` and ``authzid`` only. With
# several names in the certificate the client chooses one of them by the authorization identity.


class External(Mechanism):
    """EXTERNAL (RFC 4422 appendix A)."""

    name = "EXTERNAL"
    credentials: ClassVar[type[ClientCredentials]] = ExternalCredentials
    # What is sent is of no use without the key of the certificate.
    cleartext = False
    supports_authzid = True
    reads_challenges = False
    needs: Literal["", "channel_binding", "client_certificate"] = "client_certificate"

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run EXTERNAL as a server: the message is the authorization identity, or empty."""
        authzid = decode_user((yield b"") if initial is None else initial)
        certificate = context.client_certificate
        users = certificate_users(certificate or {})
        if not users:
            raise BadCommandError(INVALID_CREDENTIALS)
        user = authzid if authzid in users else users[0]
        return (yield from ask_application(Credentials("EXTERNAL", user, "", authzid, certificate)))

    def client(self, credentials: ExternalCredentials, context: MechanismContext) -> ClientExchange:
        """Run EXTERNAL as a client."""
        expect_success((yield credentials.authzid.encode()))


class Anonymous(Mechanism):
    """ANONYMOUS (RFC 4505)."""

    name = "ANONYMOUS"
    credentials: ClassVar[type[ClientCredentials]] = AnonymousCredentials
    cleartext = False
    reads_challenges = False

    def server(self, initial: bytes | None, context: MechanismContext) -> ServerExchange:
        """Run ANONYMOUS as a server: the message is trace information, or empty."""
        trace = decode_printable((yield b"") if initial is None else initial)
        if len(trace) > MAX_TRACE:
            raise BadCommandError(MALFORMED_CREDENTIALS)
        return (yield from ask_application(Credentials("ANONYMOUS", ANONYMOUS_USER, trace)))

    def client(self, credentials: AnonymousCredentials, context: MechanismContext) -> ClientExchange:
        """Run ANONYMOUS as a client."""
        expect_success((yield credentials.trace.encode()))


def certificate_users(certificate: Mapping[str, Any]) -> list[str]:
    """Return the users that a client's certificate names: its mail addresses, or else its common names.

    Names are ignored that cannot be those of users: with control characters or more than 255 characters, and empty ones.
    """
    addresses = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "email"]
    names = [
        value for attributes in certificate.get("subject", ()) for kind, value in attributes if kind == "commonName"
    ]
    valid = ([name for name in each if name.isprintable() and 0 < len(name) <= MAX_NAME] for each in (addresses, names))
    return next(filter(None, valid), [])


EXTERNAL = External()
ANONYMOUS = Anonymous()
