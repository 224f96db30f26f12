"""SASL (RFC 4422): the mechanisms by which a client proves its identity. `mechanism` describes how they work."""

from __future__ import annotations

from .cram import CRAM_MD5
from .credentials import (
    Authenticated,
    BearerToken,
    Computation,
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
    decode_challenge,
    usable_mechanisms,
)
from .oauth import OAUTHBEARER, XOAUTH2
from .plain_login import LOGIN, PLAIN
from .scram import SCRAM_SHA_256

# The order of preference under TLS, where an eavesdropper sees nothing:
#
# * SCRAM first: neither side has to trust the other with the password.
# * PLAIN and LOGIN before CRAM-MD5, which would be the better one on an open line. Under TLS its challenge protects
#   nothing more, and a server can check a PLAIN password against a one-way hash, but has to store the password itself
#   for CRAM-MD5. A client that prefers PLAIN does not give the server a reason to.
# * The bearer-token mechanisms never compete with the others, since they take other credentials; the standard one comes
#   first.
#
# Without TLS `usable_mechanisms` puts those that reveal the password last, and uses them only with ``allow_cleartext``.

#: All mechanisms by name, in order of preference.
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
    "Computation",
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
    "decode_challenge",
    "usable_mechanisms",
]
