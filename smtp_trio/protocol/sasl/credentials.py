"""Credentials of clients, and the secrets that servers store for users.

A client has `PasswordCredentials` or a `BearerToken`. A server that runs a mechanism needs one of two things from the
application: a check of the `Credentials` that the client sent, or the `Secret` that is stored for a user
(`SecretRequest`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from .. import syntax
from ..replies import Reply
from ..values import Value
from .saslprep import MAX_NAME
from .scram_secret import ScramSecret

#: The user of a session whose client used ANONYMOUS.
ANONYMOUS_USER = "anonymous"
#: The most characters of the trace information of ANONYMOUS (RFC 4505 2).
MAX_TRACE = 255
#: b64token, the syntax of a bearer token (RFC 6750 2.1).
BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


# --- what a client logs in with ---------------------------------------------------------------------------------------
#
# Validation happens here, once, rather than in each mechanism: a NUL or a control character would let one field of a
# message run into the next (PLAIN separates its fields with NUL, OAUTHBEARER with ^A), and text with lone surrogates
# has no UTF-8 form.


#
# It happens in the constructors, and not in validators of attrs: an exception in one of those would have frames whose
# variables hold the password, and such variables are part of many reports of errors. The functions below return what is
# wrong, and each constructor forgets the secret before it raises.


def _text_problem(name: str, value: object) -> str | None:
    if not isinstance(value, str):
        return f"{name} must be a str, got {type(value).__name__}"
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"{name} must be encodable as UTF-8"
    return None


def _user_problem(name: str, value: str, limit: int = MAX_NAME) -> str | None:
    if problem := _text_problem(name, value):
        return problem
    if not value or syntax.CONTROL.search(value):
        return f"{name} must not be empty or contain control characters"
    if len(value) > limit:
        return f"{name} must have up to {limit} characters, got {len(value)}"
    return None


def _password_problem(value: str) -> str | None:
    if problem := _text_problem("password", value):
        return problem
    return "password must not be empty or contain NUL" if not value or "\0" in value else None


def _token_problem(value: str) -> str | None:
    if problem := _text_problem("token", value):
        return problem
    if not BEARER_TOKEN.fullmatch(value):
        return "token must be a bearer token: letters, digits and -._~+/ (RFC 6750 2.1)"
    return None


@frozen(init=False, eq=False, repr=False)
class PasswordCredentials(Value):
    """A user name and a password for a client to log in with.

    ``authzid`` is the authorization identity, the user to act as; "" means the user itself (RFC 4616 2).

    Raises ValueError for values that no mechanism can carry: an empty name or password, NUL, or control characters in a
    name. A name has up to 255 characters (RFC 4616 2); SCRAM takes passwords of up to 1024.
    """

    user: str
    password: str = field(repr=False)
    authzid: str = ""

    def __init__(self, user: str, password: str, authzid: str = "") -> None:
        """Check the values and store them."""
        problem = _user_problem("user", user) or _password_problem(password)
        if authzid != "":
            problem = problem or _user_problem("authzid", authzid)
        if problem:
            del password, self  # whose repr would fail
            raise ValueError(problem)
        self.__attrs_init__(user, password, authzid)


@frozen(init=False, eq=False, repr=False)
class BearerToken(Value):
    """A user name and an OAuth 2.0 bearer token (RFC 6750) for a client to log in with.

    Raises ValueError for an empty name, for control characters in it, for one of more than 255 characters, and for an
    invalid token.
    """

    user: str
    token: str = field(repr=False)

    def __init__(self, user: str, token: str) -> None:
        """Check the values and store them."""
        if problem := _user_problem("user", user) or _token_problem(token):
            del token, self  # whose repr would fail
            raise ValueError(problem)
        self.__attrs_init__(user, token)


@frozen(init=False, eq=False, repr=False)
class ExternalCredentials(Value):
    """A client that has proved its identity in the TLS handshake, by its certificate (EXTERNAL, RFC 4422 appendix A).

    ``authzid`` is the user to act as; "" means the user that the server derives from the certificate.

    Raises ValueError for control characters in ``authzid``, and for more than 255 characters.
    """

    authzid: str = ""

    def __init__(self, authzid: str = "") -> None:
        """Check the value and store it."""
        if authzid != "" and (problem := _user_problem("authzid", authzid)):
            raise ValueError(problem)
        self.__attrs_init__(authzid)

    @property
    def user(self) -> str:
        """The user to act as."""
        return self.authzid


@frozen(init=False, eq=False, repr=False)
class AnonymousCredentials(Value):
    """A client without an identity (ANONYMOUS, RFC 4505). ``trace`` is for the operator of the server.

    ``trace`` is a mail address or any other text of up to 255 characters, or "". Other values raise ValueError.
    """

    trace: str = ""

    def __init__(self, trace: str = "") -> None:
        """Check the value and store it."""
        if trace != "" and (problem := _user_problem("trace", trace, MAX_TRACE)):
            raise ValueError(problem)
        self.__attrs_init__(trace)

    @property
    def user(self) -> str:
        """The name "anonymous"."""
        return ANONYMOUS_USER


#: What a client can log in with.
ClientCredentials = PasswordCredentials | BearerToken | ExternalCredentials | AnonymousCredentials


# --- what a server asks the application, and gets ---------------------------------------------------------------------


@frozen(eq=False, repr=False)
class Credentials(Value):
    """The values by which a client proves its identity, usually a user name and a password, for the `Hooks.auth` hook.

    ``mechanism`` is the mechanism's name in upper case. With OAUTHBEARER and XOAUTH2 ``password`` is the bearer token.
    ``authzid`` is the user that the client wants to act as, "" if it did not name one (RFC 4616 2).

    With EXTERNAL ``password`` is empty. ``certificate`` is the client's, in the form of `ssl.SSLSocket.getpeercert`, and
    ``user`` a mail address in it, or else the common name of its subject: the one that is ``authzid``, or else the first. A
    client whose certificate has neither is refused before the hook. With ANONYMOUS ``user`` is "anonymous", and ``password``
    the client's trace information.
    """

    mechanism: str
    user: str
    password: str = field(repr=False)
    authzid: str = ""
    certificate: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)


@frozen(eq=False, repr=False)
class SecretRequest(Value):
    """A server's request for the stored secret of ``user``. The answer is a `Secret`, or None for an unknown user."""

    user: str


@frozen(eq=False, repr=False)
class Computation(Value):
    """A computation that takes milliseconds of processor time or more, such as the derivation of SCRAM's keys.

    A mechanism yields it, and is sent what ``compute`` returned, so that the caller decides where it runs: in a thread,
    for example, where it does not delay other sessions. ``compute`` may run in any thread, while the mechanism waits.
    """

    compute: Callable[[], Any] = field(repr=False)


#: What a server can store for a user: the password itself, or what SCRAM derives from it.
Secret = str | ScramSecret


@frozen(eq=False, repr=False)
class Authenticated(Value):
    """The result of a successful exchange: the user, and the hook's reply if it is not the default (235)."""

    user: str
    reply: Reply | None = None
