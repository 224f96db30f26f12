"""EXTERNAL (RFC 4422 appendix A) and ANONYMOUS (RFC 4505): the messages, the user that a certificate names, and invalid values."""

from __future__ import annotations

from typing import Any

import pytest

from smtp_trio.protocol import BadCommandError
from smtp_trio.protocol.sasl import (
    INVALID_CREDENTIALS,
    MALFORMED_CREDENTIALS,
    MECHANISMS,
    AnonymousCredentials,
    Credentials,
    ExternalCredentials,
    Mechanism,
    MechanismContext,
)

FRED = {"subject": ((("countryName", "AT"),), (("commonName", "fred"),))}
ADDRESS = {
    **FRED,
    "subjectAltName": (("DNS", "client.test"), ("email", "fred@client.test"), ("email", "f@client.test")),
}


def context(certificate: dict[str, Any] | None = None) -> MechanismContext:
    return MechanismContext("mx.test", bytes, client_certificate=certificate)


@pytest.mark.parametrize(
    ("certificate", "message", "user", "authzid"),
    [
        (FRED, b"", "fred", ""), (ADDRESS, b"", "fred@client.test", ""), (ADDRESS, b"joe", "fred@client.test", "joe"),
        (ADDRESS, b"f@client.test", "f@client.test", "f@client.test"), (ADDRESS, b"fred", "fred@client.test", "fred"),
        (FRED, b"fred", "fred", "fred"), (FRED, b"joe", "fred", "joe"),
        ({**FRED, "subjectAltName": (("email", ""), ("email", "fr\ned@client.test"))}, b"", "fred", ""),
        ({"subject": ((("commonName", "a"), ("commonName", "b")), (("commonName", "c"),))}, b"c", "c", "c"),
        ({"subject": ((("commonName", "x" * 256),), (("commonName", "x" * 255),))}, b"", "x" * 255, ""),
    ],
)  # fmt: skip
def test_user_of_a_certificate(certificate: dict[str, Any], message: bytes, user: str, authzid: str) -> None:
    question = next(MECHANISMS["EXTERNAL"].server(message, context(certificate)))
    assert question == Credentials("EXTERNAL", user, "", authzid, certificate)


NAMELESS: list[dict[str, Any] | None] = [
    None, {}, {"subject": ()}, {"subject": ((("commonName", "fr\ned"),),)}, {"subject": ((("commonName", ""),),)},
    {"subject": ((("organizationName", "joe"),),), "subjectAltName": (("DNS", "joe"), ("URI", "joe"))},
]  # fmt: skip


@pytest.mark.parametrize("message", [b"", b"joe"])
@pytest.mark.parametrize("certificate", NAMELESS)
def test_external_without_a_user_is_refused(certificate: dict[str, Any] | None, message: bytes) -> None:
    """The client cannot choose the name that its certificate does not have."""
    with pytest.raises(BadCommandError) as caught:
        next(MECHANISMS["EXTERNAL"].server(message, context(certificate)))
    assert caught.value.reply == INVALID_CREDENTIALS


@pytest.mark.parametrize(
    ("trace", "valid"), [("", True), ("fred@client.test", True), ("x" * 255, True), ("x" * 256, False), ("a\n", False)]
)
def test_trace_information(trace: str, valid: bool) -> None:
    server = MECHANISMS["ANONYMOUS"].server(trace.encode(), context())
    if valid:
        assert next(server) == Credentials("ANONYMOUS", "anonymous", trace)
        assert next(MECHANISMS["ANONYMOUS"].client(AnonymousCredentials(trace), context())) == trace.encode()
        return
    with pytest.raises(BadCommandError) as caught:
        next(server)
    assert caught.value.reply == MALFORMED_CREDENTIALS
    with pytest.raises(ValueError, match="trace must"):
        AnonymousCredentials(trace)


def test_credentials_of_clients() -> None:
    assert (ExternalCredentials().user, ExternalCredentials("joe").user) == ("", "joe")
    assert AnonymousCredentials("fred@client.test").user == "anonymous"
    with pytest.raises(ValueError, match="authzid"):
        ExternalCredentials("a\0b")


def test_mechanism_without_methods() -> None:
    mechanism = Mechanism()
    with pytest.raises(NotImplementedError):
        mechanism.server(None, context())
    with pytest.raises(NotImplementedError):
        mechanism.client(None, context())
