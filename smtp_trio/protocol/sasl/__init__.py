"""SASL (RFC 4422): the mechanisms by which a client proves its identity. `mechanism` describes how they work."""

from __future__ import annotations

from .cram import CRAM_MD5
from .credentials import (
    Authenticated,
    BearerToken,
    Credentials,
    PasswordCredentials,
    ScramSecret,
    Secret,
    SecretRequest,
)
from .mechanism import (
    INVALID_CREDENTIALS,
    MALFORMED_CREDENTIALS,
    AuthenticationFailedError,
    ClientExchange,
    Mechanism,
    MechanismContext,
    RandomBytes,
    ServerExchange,
    choose_mechanism,
)
from .oauth import OAUTHBEARER, XOAUTH2
from .plain_login import LOGIN, PLAIN
from .scram import SCRAM_SHA_256

#: All mechanisms by name, in order of preference under TLS. CRAM-MD5 comes after PLAIN, since it makes the server store passwords.
MECHANISMS: dict[str, Mechanism] = {
    mechanism.name: mechanism for mechanism in (SCRAM_SHA_256, PLAIN, LOGIN, CRAM_MD5, OAUTHBEARER, XOAUTH2)
}

__all__ = [
    "INVALID_CREDENTIALS",
    "MALFORMED_CREDENTIALS",
    "MECHANISMS",
    "Authenticated",
    "AuthenticationFailedError",
    "BearerToken",
    "ClientExchange",
    "Credentials",
    "Mechanism",
    "MechanismContext",
    "PasswordCredentials",
    "RandomBytes",
    "ScramSecret",
    "Secret",
    "SecretRequest",
    "ServerExchange",
    "choose_mechanism",
]
