"""STARTTLS (RFC 3207) and AUTH (RFC 4954)."""

from __future__ import annotations

from .._case import Level
from .._checks import Fails, NeverSays, NoLine, NoSecond, Says, SomeLine, Succeeds, Waits
from .._moves import Hangup, Pause, Shake
from .._scene import BASE, On
from ._laws import CARE, LOST, MULTILINE, PERMANENT, TEMPORARY, Law, scene

TLS = (*BASE, "STARTTLS")
GO = b"220 2.0.0 Go ahead\r\n"
AUTHS = "AUTH PLAIN LOGIN"
SHAKES = On("STARTTLS", GO, Shake())

FIRST = Law("RFC 3207 4", "the client MUST start the TLS negotiation before giving any other SMTP commands")
LAST = Law("RFC 3207 4", "the STARTTLS command must be the last command in a group")
EHLO = Law(
    "RFC 3207 4.2",
    "The client SHOULD send an EHLO command as the first command after a successful TLS negotiation.",
    Level.SHOULD,
)
FORGET = Law(
    "RFC 3207 4.2",
    "The client MUST discard any knowledge obtained from the server, such as the list of SMTP service extensions, which was "
    "not obtained from the TLS negotiation itself.",
)
AGAIN = Law("RFC 3207 4.2", "A client MUST NOT attempt to start a TLS session if a TLS session is already active.")
REQUIRED = Law(
    "RFC 3207 6",
    "both clients and servers MUST be able to be configured to require successful TLS negotiation of an appropriate cipher "
    "suite for selected hosts before messages can be successfully transferred",
)
CHECKED = Law(
    "RFC 3207 6",
    "Both the SMTP client and server must check the result of the TLS negotiation to see whether an acceptable degree of "
    "authentication and privacy was achieved.",
)
CANCEL = Law(
    "RFC 4954 4",
    'If the client cannot BASE64 decode any of the server\'s challenges, it MUST cancel the authentication using the "*" '
    "response.",
)
PLAIN_UNSAFE = Law(
    "RFC 4954 14",
    "If the server has not provided any certificate, or if the certificate verification fails, the client MUST NOT attempt to "
    "authenticate using the SASL PLAIN mechanism.",
)
CERTIFICATES = {
    "name": "for another name",
    "authority": "by nobody who is known",
    "expired": "that has expired",
}
NOT_IN_CLEAR = NeverSays("MAIL", "RCPT", "DATA", "BDAT", "AUTH", "RESPONSE", clear=True)
INSIST = ("--require-tls",)
LOGIN = ("--login",)

STARTTLS_CASES = (
    scene(
        "starttls.order",
        "after STARTTLS there is an EHLO, and then mail",
        EHLO,
        SHAKES,
        checks=(Says("EHLO", "STARTTLS", "EHLO", "MAIL"), Succeeds()),
        offers=TLS,
    ),
    scene(
        "starttls.alone",
        "nothing is sent behind STARTTLS",
        LAST,
        SHAKES,
        checks=(Waits("STARTTLS"), Succeeds()),
        offers=(*TLS, "PIPELINING"),
        hold=0.2,
    ),
    scene(
        "starttls.forgets",
        "what was listed before TLS is forgotten",
        FORGET,
        SHAKES,
        checks=(NoLine(rb"^MAIL.*(SIZE|BODY)="), Succeeds()),
        offers=TLS,
        inside=(),
    ),
    scene(
        "starttls.learns",
        "what is listed inside TLS is taken",
        FORGET,
        SHAKES,
        checks=(NeverSays("BDAT"), Succeeds()),
        offers=("STARTTLS", "CHUNKING"),
        inside=BASE,
    ),
    scene(
        "starttls.again",
        "STARTTLS is listed inside TLS, and not said again",
        AGAIN,
        SHAKES,
        checks=(Says("STARTTLS", "EHLO"), Says("MAIL"), NoSecond("STARTTLS")),
        offers=TLS,
        inside=TLS,
    ),
    scene(
        "starttls.lines",
        "the answer to STARTTLS has two lines",
        MULTILINE,
        On("STARTTLS", b"220-2.0.0 Go\r\n220 ahead\r\n", Shake()),
        checks=(Succeeds(),),
        offers=TLS,
    ),
    scene(
        "starttls.slow",
        "the server takes a moment before its handshake",
        FIRST,
        On("STARTTLS", GO, Pause(0.5), Shake()),
        checks=(Succeeds(),),
        offers=TLS,
    ),
    scene(
        "starttls.stripped",
        "STARTTLS is not listed: a client that wants TLS sends no mail",
        REQUIRED,
        checks=(NOT_IN_CLEAR, Fails()),
        offers=BASE,
        bare=True,
        needs=INSIST,
    ),
    *(
        scene(
            f"starttls.refused-{code.decode()}",
            f"STARTTLS is answered {code.decode()}: a client that wants TLS sends no mail",
            REQUIRED,
            On("STARTTLS", code + b" No\r\n"),
            checks=(NOT_IN_CLEAR, Fails()),
            offers=TLS,
            needs=INSIST,
        )
        for code in (b"250", b"354", b"421", b"454", b"500", b"501", b"502", b"554")
    ),
    *(
        scene(
            f"starttls.wrong-{name}",
            f"the certificate is one {text}: a client that wants TLS sends no mail",
            CHECKED,
            SHAKES,
            checks=(NeverSays("MAIL", "AUTH"), Fails()),
            offers=TLS,
            certificate=name,
            needs=INSIST,
        )
        for name, text in CERTIFICATES.items()
    ),
    scene(
        "starttls.closed",
        "the connection is closed after 220: a client that wants TLS sends no mail",
        REQUIRED,
        On("STARTTLS", GO, Hangup()),
        checks=(NOT_IN_CLEAR, Fails()),
        offers=TLS,
        needs=INSIST,
    ),
    scene(
        "starttls.garbage",
        "220, and then no TLS: a client that wants TLS sends no mail",
        REQUIRED,
        On("STARTTLS", GO, b"250-mx.test\r\n250 AUTH PLAIN\r\n", Hangup()),
        checks=(NOT_IN_CLEAR, Fails()),
        offers=TLS,
        needs=INSIST,
    ),
    scene(
        "starttls.helo",
        "EHLO is not understood: a client that wants TLS sends no mail",
        REQUIRED,
        On("EHLO", b"500 5.5.1 What?\r\n"),
        checks=(NOT_IN_CLEAR, Fails()),
        needs=INSIST,
    ),
    scene(
        "starttls.closed-inside",
        "the connection is closed inside TLS, at EHLO",
        LOST,
        SHAKES,
        On("EHLO", Hangup(), secure=True),
        checks=(NOT_IN_CLEAR, Fails()),
        offers=TLS,
        needs=INSIST,
    ),
)
AUTH_CASES = (
    scene(
        "auth.order",
        "AUTH comes after EHLO and before MAIL",
        Law("RFC 4954 4", "The AUTH command is not permitted during a mail transaction."),
        checks=(Says("EHLO", "AUTH", "MAIL"), Succeeds()),
        needs=LOGIN,
    ),
    *(
        scene(
            f"auth.{mechanism.lower()}",
            f"{mechanism} is offered, and nothing else",
            CARE,
            checks=(Says("AUTH"), Succeeds()),
            offers=(*BASE, f"AUTH {mechanism}"),
            needs=LOGIN,
        )
        for mechanism in ("PLAIN", "LOGIN")
    ),
    scene(
        "auth.unknown",
        "only what nobody knows is offered: no password is sent",
        CARE,
        checks=(NeverSays("RESPONSE"), NoLine(rb"^AUTH (PLAIN|LOGIN)")),
        offers=(*BASE, "AUTH X-SECRET"),
        needs=LOGIN,
    ),
    scene(
        "auth.lines",
        "the answer to AUTH has two lines",
        MULTILINE,
        On("AUTH", b"235-2.7.0 Welcome\r\n235 to mx.test\r\n"),
        checks=(Succeeds(),),
        offers=(*BASE, "AUTH PLAIN"),
        needs=LOGIN,
    ),
    *(
        scene(
            f"auth.refused-{code.decode()}",
            f"AUTH is answered {code.decode()}: no mail is sent",
            law,
            On("AUTH", code + b" No\r\n"),
            checks=(NeverSays("MAIL"), Fails()),
            needs=LOGIN,
            level=Level.RECOMMENDED,
        )
        for code, law in ((b"454", TEMPORARY), (b"500", PERMANENT), (b"534", PERMANENT), (b"535", PERMANENT))
    ),
    scene(
        "auth.354",
        "AUTH is answered 354: that is no yes",
        CARE,
        On("AUTH", b"354 Go ahead\r\n"),
        checks=(NeverSays("MAIL"), Fails()),
        needs=LOGIN,
    ),
    scene(
        "auth.closed",
        "the connection is closed in place of an answer to AUTH",
        LOST,
        On("AUTH", Hangup()),
        checks=(Fails(),),
        needs=LOGIN,
    ),
    scene(
        "auth.challenge",
        "a challenge that is no base64 is answered with *",
        CANCEL,
        On("AUTH", b"334 %%%\r\n"),
        checks=(SomeLine(rb"^\*\r\n", "*"), Fails()),
        offers=(*BASE, "AUTH PLAIN"),
        needs=LOGIN,
    ),
    scene(
        "auth.endless",
        "there is a challenge after each answer: it ends",
        CARE,
        On("AUTH", b"334 \r\n"),
        On("RESPONSE", b"334 \r\n", always=False),
        checks=(Fails(),),
        offers=(*BASE, "AUTH PLAIN"),
        needs=LOGIN,
    ),
    scene(
        "auth.clear",
        "AUTH is offered, and TLS is not: a client that wants TLS sends no password",
        PLAIN_UNSAFE,
        checks=(NOT_IN_CLEAR, Fails()),
        offers=(*BASE, AUTHS),
        bare=True,
        needs=(*LOGIN, *INSIST),
    ),
    *(
        scene(
            f"auth.wrong-{name}",
            f"the certificate is one {text}: no password is sent",
            PLAIN_UNSAFE,
            SHAKES,
            checks=(NeverSays("AUTH"), Fails()),
            offers=TLS,
            inside=(*BASE, AUTHS),
            certificate=name,
            needs=(*LOGIN, *INSIST),
        )
        for name, text in CERTIFICATES.items()
    ),
)
