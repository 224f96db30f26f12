"""Credentials of clients, and the secrets that servers store for users.

A client has `PasswordCredentials` or a `BearerToken`. A server that runs a mechanism needs one of two things from the
application: a check of the `Credentials` that the client sent, or the `Secret` that is stored for a user
(`SecretRequest`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from attrs import field, frozen

from .. import syntax
from ..arguments import check_number, check_type
from ..errors import LocalProtocolError
from ..replies import Reply

#: b64token, the syntax of a bearer token (RFC 6750 2.1).
BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
#: The smallest iteration count that SCRAM-SHA-256 allows (RFC 7677 4).
MIN_ITERATIONS = 4096
#: Octets of a key: the output of SHA-256.
KEY_OCTETS = 32


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


def _user_problem(name: str, value: str) -> str | None:
    if problem := _text_problem(name, value):
        return problem
    if not value or syntax.CONTROL.search(value):
        return f"{name} must not be empty or contain control characters"
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


@frozen(init=False)
class PasswordCredentials:
    """A user name and a password for a client to log in with.

    ``authzid`` is the authorization identity, the user to act as; "" means the user itself (RFC 4616 2).

    Raises ValueError for values that no mechanism can carry: an empty name or password, NUL, or control characters in a
    name.
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


@frozen(init=False)
class BearerToken:
    """A user name and an OAuth 2.0 bearer token (RFC 6750) for a client to log in with.

    Raises ValueError for an empty name, for control characters in it, and for an invalid token.
    """

    user: str
    token: str = field(repr=False)

    def __init__(self, user: str, token: str) -> None:
        """Check the values and store them."""
        if problem := _user_problem("user", user) or _token_problem(token):
            del token, self  # whose repr would fail
            raise ValueError(problem)
        self.__attrs_init__(user, token)


# --- what a server asks the application, and gets ---------------------------------------------------------------------


@frozen
class Credentials:
    """A user name and a password that a client sent, for the `Hooks.auth` hook to check.

    ``mechanism`` is the mechanism's name in upper case. With OAUTHBEARER and XOAUTH2 ``password`` is the bearer token.
    ``authzid`` is the user that the client wants to act as, "" if it did not name one (RFC 4616 2).
    """

    mechanism: str
    user: str
    password: str = field(repr=False)
    authzid: str = ""


@frozen
class SecretRequest:
    """A server's request for the stored secret of ``user``. The answer is a `Secret`, or None for an unknown user."""

    user: str


@frozen
class Computation:
    """A computation that takes milliseconds of processor time or more, such as the derivation of SCRAM's keys.

    A mechanism yields it, and is sent what ``compute`` returned, so that the caller decides where it runs: in a thread,
    for example, where it does not delay other sessions. ``compute`` may run in any thread, while the mechanism waits.
    """

    compute: Callable[[], Any] = field(repr=False)


@frozen
class ScramSecret:
    """A secret for SCRAM-SHA-256, from which the password cannot be recovered (RFC 5802 3, RFC 7677).

    `from_password` computes one. ``salt`` has 12 to 64 octets, ``iterations`` is 4096 or more, and both keys have 32
    octets; other values raise ValueError.
    """

    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        """Check the values."""
        if not 12 <= len(self.salt) <= 64:
            raise ValueError(f"salt must have 12 to 64 octets, got {len(self.salt)}")
        if self.iterations < MIN_ITERATIONS:
            raise ValueError(f"iterations must be >= {MIN_ITERATIONS} (RFC 7677 4), got {self.iterations}")
        if len(self.stored_key) != KEY_OCTETS or len(self.server_key) != KEY_OCTETS:
            raise ValueError(f"stored_key and server_key must have {KEY_OCTETS} octets each, the output of SHA-256")

    @classmethod
    def from_password(cls, password: str, salt: bytes, iterations: int = MIN_ITERATIONS) -> ScramSecret:
        """Compute the secret for ``password``. 4096 iterations take about a millisecond of processor time.

        Raises ValueError for a password that SASLprep (RFC 4013) does not allow, and LocalProtocolError when scramp is
        not installed.
        """
        check_type(password, "password", str, shown=False)
        check_type(salt, "salt", bytes)
        check_number(iterations, "iterations", MIN_ITERATIONS, integer=True)
        scramp = load_scramp()
        try:
            salt, stored, server, i = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info(password, iterations, salt)
        except scramp.ScramException as error:
            raise ValueError(str(error)) from None
        return cls(salt, i, stored, server)


#: What a server can store for a user: the password itself, or what SCRAM derives from it.
Secret = str | ScramSecret


@frozen
class Authenticated:
    """The result of a successful exchange: the user, and the hook's reply if it is not the default (235)."""

    user: str
    reply: Reply | None = None


def load_scramp() -> ModuleType:
    """Import scramp, the library that implements SCRAM. Raises LocalProtocolError when it is not installed.

    It is an optional dependency (the extra ``scram``), so it is imported when a SCRAM exchange begins, not with this
    package.
    """
    try:
        return import_module("scramp")
    except ImportError:
        raise LocalProtocolError("SCRAM-SHA-256 needs scramp: install smtp-trio[scram]") from None
