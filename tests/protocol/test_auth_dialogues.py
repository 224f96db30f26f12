"""The dialogues of RFC 4954 (AUTH) and RFC 7628 (OAUTHBEARER), played with a server."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

import pytest

from smtp_trio.protocol import Reply
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.sasl import Credentials, Mechanism, MechanismContext

from .driver import ServerDriver
from .test_rfc_dialogues import Dialogue, play


class Other(Mechanism):
    """A mechanism that is offered in the dialogues and not used."""

    cleartext = False

    def __init__(self, name: str) -> None:
        self.name = name


class Printed(bytes):
    """Octets whose hexadecimal form is that of the challenge which is printed."""

    def hex(self, *_: Any) -> str:
        return "4192942341.12828472"


GSSAPI, DIGEST_MD5 = Other("GSSAPI"), Other("DIGEST-MD5")
TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
REFUSED = Reply(
    535, "Username and Password not accepted. Learn more at\nhttp://support.example.com/mail/oauth", "5.7.1"
)


def check(expected: Credentials, refusal: Reply | None, credentials: Credentials) -> Reply | None:
    assert credentials == expected
    return refusal


def settings(expected: Credentials | None = None, refusal: Reply | None = None) -> dict[str, Any]:
    hooks = {"hooks": {"auth", "secret"}, "tls": True, "size": 35651584}
    return hooks if expected is None else {**hooks, "check_credentials": partial(check, expected, refusal)}


def store_the_secret(driver: ServerDriver) -> None:
    driver.secrets = {"rjs3": "1234"}
    driver.mechanism_context = MechanismContext("sourcefour.andrew.cmu.edu", lambda _: Printed(), bytes(32))


def set_certificate(driver: ServerDriver) -> None:
    driver.protocol.state.client_certificate = {"subject": ((("commonName", "test"),),)}


def message(text: str) -> str:
    """Return a message of OAUTHBEARER in base64, in which ^A is printed."""
    return base64.b64encode(text.replace("^A", "\1").encode()).decode()


UNTIL_TLS = """
        S: 220 smtp.example.com ESMTP Server
        C: EHLO client.example.com
        S: 250-smtp.example.com Hello client.example.com
        S: 250-AUTH GSSAPI DIGEST-MD5
        S: 250-ENHANCEDSTATUSCODES
        S: 250 STARTTLS
        C: STARTTLS
        S: 220 Ready to start TLS
        C: EHLO client.example.com
        S: 250-smtp.example.com Hello client.example.com
"""
PLAIN = Credentials("PLAIN", "test", "1234", "test")
# Some printed lines are those of the server only in part: the first line of the greeting has a hyphen in RFC 4954, a tag
# of IMAP is before AUTH in RFC 7628 4.1.
OAUTH = """
        S: 220 mx.example.com ESMTP 12sm2095603fks.9
        C: EHLO sender.example.com
        S: 250-mx.example.com at your service,[172.31.135.47]
        S: 250-SIZE 35651584
        S: 250-8BITMIME
        S: 250-AUTH LOGIN PLAIN OAUTHBEARER
        S: 250-ENHANCEDSTATUSCODES
        S: 250 PIPELINING
"""
OAUTH_EXTENSIONS = (Auth(cleartext=True, mechanisms=("LOGIN", "PLAIN", "OAUTHBEARER")),)
DIALOGUES = [
    Dialogue(
        "4954-4.1-initial-response",
        f"""{UNTIL_TLS.rstrip()}
        S: 250 AUTH GSSAPI DIGEST-MD5 PLAIN
        C: AUTH PLAIN dGVzdAB0ZXN0ADEyMzQ=
        S: 235 2.7.0 Authentication successful
        """,
        (Auth(mechanisms=(GSSAPI, DIGEST_MD5, "PLAIN")),),
        settings(PLAIN),
    ),
    Dialogue(
        "4954-4.1-challenge",
        f"""{UNTIL_TLS.rstrip()}
        S: 250 AUTH GSSAPI DIGEST-MD5 PLAIN
        C: AUTH PLAIN
        S: 334
        C: dGVzdAB0ZXN0ADEyMzQ=
        S: 235 2.7.0 Authentication successful
        """,
        (Auth(mechanisms=(GSSAPI, DIGEST_MD5, "PLAIN")),),
        settings(PLAIN),
    ),
    Dialogue(
        "4954-4.1-cram-md5",
        """
        S: 220 smtp.example.com ESMTP Server
        C: EHLO client.example.com
        S: 250-smtp.example.com Hello client.example.com
        S: 250-AUTH DIGEST-MD5 CRAM-MD5
        S: 250-ENHANCEDSTATUSCODES
        S: 250 STARTTLS
        C: AUTH CRAM-MD5
        S: 334 PDQxOTI5NDIzNDEuMTI4Mjg0NzJAc291cmNlZm91ci5hbmRyZXcuY211LmVkdT4=
        C: cmpzMyBlYzNhNTlmZWQzOTVhYmExZWM2MzY3YzRmNGI0MWFjMA==
        S: 235 2.7.0 Authentication successful
        """,
        (Auth(mechanisms=(DIGEST_MD5, "CRAM-MD5")),),
        settings(),
        prepare=store_the_secret,
    ),
    Dialogue(
        "4954-4.1-external",
        f"""{UNTIL_TLS.rstrip()}
        S: 250 AUTH EXTERNAL GSSAPI DIGEST-MD5 PLAIN
        C: AUTH EXTERNAL =
        S: 235 2.7.0 Authentication successful
        """,
        (Auth(mechanisms=("EXTERNAL", GSSAPI, DIGEST_MD5, "PLAIN")),),
        settings(Credentials("EXTERNAL", "test", "", "", {"subject": ((("commonName", "test"),),)})),
        prepare=set_certificate,
    ),
    Dialogue(
        "4954-5.1",
        """
        S: 220 smtp.example.com ESMTP Server
        C: EHLO client.example.com
        S: 250-smtp.example.com Hello client.example.com
        S: 250 AUTH PLAIN
        C: MAIL FROM:<e=mc2@example.com> AUTH=e+3Dmc2@example.com
        S: 250 OK
        C: RSET
        S: 250 OK
        C: MAIL FROM:<john+@example.org> AUTH=<>
        S: 250 OK
        """,
        (Auth(cleartext=True, mechanisms=("PLAIN",)),),
        settings(),
    ),
    Dialogue(
        "7628-4.1",
        f"""{OAUTH.rstrip()}
        C: AUTH OAUTHBEARER {message(f"n,a=user@example.com,^Ahost=server.example.com^Aport=587^Aauth=Bearer {TOKEN}^A^A")}
        S: 235 Authentication successful.
        """,
        OAUTH_EXTENSIONS,
        settings(Credentials("OAUTHBEARER", "user@example.com", TOKEN)),
    ),
    # Printed for IMAP; "*" cancels the exchange in SMTP too.
    Dialogue(
        "7628-4.3",
        f"""{OAUTH.rstrip()}
        C: AUTH OAUTHBEARER {message("n,a=user@example.com,^Ahost=server.example.com^Aport=143^Aauth=^A^A")}
        S: 334 eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIn0=
        C: AQ==
        S: 535 SASL authentication failed
        C: AUTH OAUTHBEARER {message("n,a=user@example.com,^Ahost=server.example.com^Aport=143^Aauth=^A^A")}
        S: 334 eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIn0=
        C: *
        S: 501 SASL authentication failed
        """,
        OAUTH_EXTENSIONS,
        settings(),
    ),
    # The RFC prints "n,user=" in place of "n,a=", which its syntax (RFC 5801 4) does not have.
    Dialogue(
        "7628-4.4",
        f"""{OAUTH.rstrip()}
        C: AUTH OAUTHBEARER {message(f"n,user=someuser@example.com,^Aauth=Bearer {TOKEN}^A^A")}
        S: 501 5.5.2 Malformed credentials
        C: AUTH OAUTHBEARER {message(f"n,a=someuser@example.com,^Aauth=Bearer {TOKEN}^A^A")}
        S: 334 eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NoZW1lcyI6ImJlYXJlciBtYWMifQ==
        C: AQ==
        S: 535-5.7.1 Username and Password not accepted. Learn more at
        S: 535 5.7.1 http://support.example.com/mail/oauth
        """,
        OAUTH_EXTENSIONS,
        settings(Credentials("OAUTHBEARER", "someuser@example.com", TOKEN), REFUSED),
    ),
]


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue.rfc)
def test_dialogue(dialogue: Dialogue) -> None:
    play(dialogue)
