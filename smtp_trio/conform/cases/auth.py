"""AUTH (RFC 4954, RFC 4616): most of it needs no account."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Ehlo, When
from ._common import MAIL, NOOP

PLAIN = ("AUTH PLAIN",)
ACCOUNT = ("AUTH PLAIN", "--user")
BASE64 = (
    "In particular, servers and clients MUST reject (and not ignore) any character not explicitly allowed by the BASE64 alphabet, "
    "and MUST reject any sequence of BASE64 characters that contains the pad character ('=') anywhere other than the end of the "
    "string"
)
LOGIN = Ask(b"AUTH PLAIN {plain}", "235")
#: A server that wants the response in the command (535, 504) is asked no further: for that there is a case of its own.
BEGUN = Ask(b"AUTH PLAIN", "334|5..")
AGAIN = (
    "If the server is unable to authenticate the client, it SHOULD reject the AUTH command with a 535 reply unless a more specific "
    "error code is appropriate."
)
BAD = (
    ("alphabet", b"####", "characters that are not of the alphabet"),
    ("pad-front", b"=AAA", "= at the beginning"),
    ("pad-middle", b"AAA=BBB=", "= in the middle"),
    ("space", b"AGEA YgBj", "a space"),
    ("url", b"-_-_", "the alphabet of URLs"),
    ("8bit", b"\xc3\xa9AAA", "octets above 127"),
)

CASES = (
    Case(
        id="auth.listed",
        title="EHLO lists AUTH with its mechanisms",
        section="RFC 4954 3",
        sentence="The AUTH EHLO keyword contains as a parameter a space-separated list of the names of available [SASL] mechanisms.",
        state=State.LOGIN,
        needs=("AUTH",),
        steps=(Ehlo(lists=r"AUTH( [A-Z0-9_-]{1,20})+"),),
    ),
    Case(
        id="auth.not-in-the-clear",
        title="no passwords in the clear: PLAIN and LOGIN are listed inside TLS only",
        section="RFC 4954 4",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.GREETED,
        needs=("STARTTLS",),
        steps=(Ehlo(lists=r"!AUTH[ =](.* )?(PLAIN|LOGIN)( .*)?"),),
    ),
    Case(
        id="auth.plain",
        title="PLAIN with the response in the command",
        section="RFC 4954 4",
        sentence="Should the client successfully complete the exchange, the SMTP server issues a 235 reply.",
        state=State.LOGIN,
        needs=ACCOUNT,
        steps=(LOGIN, NOOP),
    ),
    Case(
        id="auth.plain-challenge",
        title="PLAIN with an empty challenge",
        section="RFC 4954 4",
        sentence="a server challenge that contains no data is defined as a 334 reply with no text part. Note that there is still a "
        'space following the reply code, so the complete response line is "334 ".',
        state=State.LOGIN,
        needs=ACCOUNT,
        steps=(Ask(b"AUTH PLAIN", "334", "with no text", text=r"\A\Z"), Ask(b"{plain}", "235")),
    ),
    Case(
        id="auth.lower",
        title="auth in small letters",
        section="RFC 4954 8",
        sentence="Implementations MUST accept these strings in a case-insensitive fashion.",
        state=State.LOGIN,
        needs=ACCOUNT,
        steps=(Ask(b"auth PLAIN {plain}", "235"),),
    ),
    # RFC 4422 3.1 has only capitals in a mechanism's name, so this is not as sure as the verb.
    Case(
        id="auth.lower-mechanism",
        title="the mechanism in small letters",
        section="RFC 5321 2.4",
        sentence='Verbs and argument values (e.g., "TO:" or "to:" in the RCPT command and extension name keywords) are not '
        "case sensitive",
        level=Level.SHOULD,
        state=State.LOGIN,
        needs=ACCOUNT,
        steps=(Ask(b"AUTH plain {plain}", "235"),),
    ),
    Case(
        id="auth.login",
        title="LOGIN asks for a name and a password",
        section="RFC 4954 4",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.LOGIN,
        needs=("AUTH LOGIN", "--user"),
        steps=(Ask(b"AUTH LOGIN", "334"), Ask(b"{user}", "334"), Ask(b"{password}", "235")),
    ),
    Case(
        id="auth.wrong",
        title="a wrong password is refused, and another try allowed",
        section="RFC 4954 4",
        sentence=AGAIN,
        level=Level.SHOULD,
        state=State.LOGIN,
        needs=ACCOUNT,
        steps=(Ask(b"AUTH PLAIN {wrong}", "535"), LOGIN),
    ),
    Case(
        id="auth.unknown-user",
        title="somebody who has no account is refused",
        section="RFC 4954 4",
        sentence=AGAIN,
        level=Level.SHOULD,
        state=State.LOGIN,
        needs=PLAIN,
        steps=(Ask(b"AUTH PLAIN AG5vYm9keS1jb25mb3JtAHh5enp5", "535|454|534"), NOOP),
    ),
    Case(
        id="auth.again",
        title="AUTH after a login is out of order",
        section="RFC 4954 4",
        sentence="After a successful AUTH command completes, a server MUST reject any further AUTH commands with a 503 reply.",
        state=State.LOGIN,
        needs=ACCOUNT,
        steps=(LOGIN, Ask(b"AUTH PLAIN {plain}", "503")),
    ),
    Case(
        id="auth.ehlo-again",
        title="EHLO after a login does not undo it",
        section="RFC 4954 4",
        sentence="After a successful AUTH command completes, a server MUST reject any further AUTH commands with a 503 reply.",
        state=State.LOGIN,
        needs=ACCOUNT,
        steps=(LOGIN, Ehlo(), Ask(b"AUTH PLAIN {plain}", "503")),
    ),
    Case(
        id="auth.inside",
        title="AUTH in a transaction is out of order",
        section="RFC 4954 4",
        sentence="An AUTH command issued during a mail transaction MUST be rejected with a 503 reply.",
        state=State.LOGIN,
        needs=("AUTH PLAIN", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}>", "250|530"), When("250", (Ask(b"AUTH PLAIN {plain}", "503"),))),
    ),
    Case(
        id="auth.cancel",
        title="* ends the exchange",
        section="RFC 4954 4",
        sentence='If the client wishes to cancel the authentication exchange, it issues a line with a single "*". If the server '
        "receives such a response, it MUST reject the AUTH command by sending a 501 reply.",
        state=State.LOGIN,
        needs=PLAIN,
        steps=(BEGUN, When("334", (Ask(b"*", "501"),)), NOOP),
    ),
    Case(
        id="auth.cancel-login",
        title="* ends the exchange at the second challenge",
        section="RFC 4954 4",
        sentence="If the server receives such a response, it MUST reject the AUTH command by sending a 501 reply.",
        state=State.LOGIN,
        needs=("AUTH LOGIN",),
        steps=(Ask(b"AUTH LOGIN", "334"), Ask(b"bm9ib2R5", "334"), Ask(b"*", "501"), NOOP),
    ),
    Case(
        id="auth.no-command",
        title="a command in place of a response is no command",
        section="RFC 4954 4",
        sentence="If the server cannot [BASE64] decode any client response, it MUST reject the AUTH command with a 501 reply",
        state=State.LOGIN,
        needs=PLAIN,
        steps=(BEGUN, When("334", (Ask(b"MAIL FROM:<{from}>", "501"),)), NOOP),
    ),
    *(
        Case(
            id=f"auth.base64-{name}",
            title=f"{title} in a response",
            section="RFC 4954 4",
            sentence=BASE64,
            state=State.LOGIN,
            needs=PLAIN,
            steps=(
                BEGUN,
                When(
                    "334",
                    (Ask(response, "501"),),
                    (Ask(b"AUTH PLAIN " + response, "5.." if b" " in response else "501"),),
                ),
                NOOP,
            ),
        )
        for name, response, title in BAD
    ),
    Case(
        id="auth.base64-initial",
        title="what is no base64 in the command",
        section="RFC 4954 4",
        sentence=BASE64,
        state=State.LOGIN,
        needs=PLAIN,
        steps=(Ask(b"AUTH PLAIN ####", "501"), NOOP),
    ),
    Case(
        id="auth.empty-initial",
        title="= is an empty response, which is no login by PLAIN",
        section="RFC 4954 4",
        sentence="the client is transmitting an initial response of zero length, it MUST instead transmit the response as a single "
        'equals sign ("=").',
        state=State.LOGIN,
        needs=PLAIN,
        steps=(Ask(b"AUTH PLAIN =", "501|535"), NOOP),
    ),
    Case(
        id="auth.no-nul",
        title="PLAIN without its two NULs is no login",
        section="RFC 4616 2",
        sentence="message = [authzid] UTF8NUL authcid UTF8NUL passwd",
        state=State.LOGIN,
        needs=PLAIN,
        steps=(Ask(b"AUTH PLAIN dXNlcg==", "501|535"), NOOP),
    ),
    Case(
        id="auth.unknown-mechanism",
        title="a mechanism that nobody knows",
        section="RFC 4954 4",
        sentence="If the requested authentication mechanism is invalid (e.g., is not supported or requires an encryption layer), the "
        "server rejects the AUTH command with a 504 reply.",
        level=Level.SHOULD,
        state=State.LOGIN,
        needs=("AUTH",),
        steps=(Ask(b"AUTH XCONFORM", "504"), NOOP),
    ),
    Case(
        id="auth.no-mechanism",
        title="AUTH without a mechanism is refused",
        section="RFC 4954 8",
        sentence='auth-command = "AUTH" SP sasl-mech [SP initial-response]',
        state=State.LOGIN,
        needs=("AUTH",),
        steps=(Ask(b"AUTH", "5.."), NOOP),
    ),
    Case(
        id="auth.cram-initial",
        title="CRAM-MD5, in which the server begins, takes no response in the command",
        section="RFC 4954 4",
        sentence="If the client uses an initial-response argument to the AUTH command with a SASL mechanism in which the client does "
        "not begin the authentication exchange, the server MUST reject the AUTH command with a 501 reply.",
        state=State.LOGIN,
        needs=("AUTH CRAM-MD5",),
        steps=(Ask(b"AUTH CRAM-MD5 AAAA", "501"), NOOP),
    ),
    Case(
        id="auth.long",
        title="a response of 12,000 octets is not too long to be read",
        section="RFC 4954 4",
        sentence="Clients and servers MUST be able to handle the maximum encoded size of challenges and responses generated by their "
        "supported authentication mechanisms.",
        level=Level.RECOMMENDED,
        state=State.LOGIN,
        needs=PLAIN,
        steps=(BEGUN, When("334", (Ask(b"A" * 12000, "5..", or_close=True),))),
    ),
    Case(
        id="auth.helo",
        title="AUTH before EHLO is out of order",
        section="RFC 4954 4",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.GREETED,
        needs=("AUTH",),
        steps=(Ask(b"AUTH PLAIN", "5.."), NOOP),
    ),
    Case(
        id="auth.required",
        title="a server that wants a login answers 530",
        section="RFC 4954 6",
        sentence="530 5.7.0 Authentication required",
        level=Level.SHOULD,
        state=State.LOGIN,
        needs=("AUTH", "auth route"),
        steps=(Ask(b"MAIL FROM:<{from}>", "530"), NOOP),
    ),
    *(
        Case(
            id=f"auth.mail-{name}",
            title=f"MAIL with {parameter.decode()}",
            section="RFC 4954 5",
            sentence="",
            level=Level.RECOMMENDED,
            needs=("AUTH", "MAIL"),
            steps=(Ask(b"MAIL FROM:<{from}> " + parameter, codes), *after),
        )
        for name, parameter, codes, after in (
            ("null", b"AUTH=<>", "250", ()),
            ("xtext", b"AUTH=e+2Bmc2@example.com", "250", ()),
            ("bad", b"AUTH=e+zz", "5..", (MAIL,)),
        )
    ),
)
