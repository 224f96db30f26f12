"""DSN (RFC 3461)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask
from ._common import MAIL, RCPT, REFUSED

MAIL_SAME = (
    "A conforming SMTP server MUST NOT refuse a MAIL command based on the absence or presence of valid ENVID or RET parameters, or "
    "on their associated esmtp-values."
)
MAIL_501 = 'the server MUST issue the reply-code 501 with an appropriate message (e.g., "syntax error in parameter").'
RCPT_SAME = (
    "If an SMTP client issues a RCPT command containing any valid NOTIFY and/or ORCPT parameters, a conforming SMTP server MUST "
    "return the same response as it would to the same RCPT command without those NOTIFY and/or ORCPT parameters."
)
RCPT_501 = 'the server SHOULD issue the response "501 syntax error in parameter".'

CASES = (
    *(
        Case(
            id=f"dsn.{name}",
            title=f"MAIL with {parameter}",
            section="RFC 3461 5.1",
            sentence=MAIL_SAME,
            needs=("DSN", "MAIL"),
            steps=(Ask(f"MAIL FROM:<{{from}}> {parameter}".encode(), "250"), RCPT),
        )
        for name, parameter in (
            ("ret-full", "RET=FULL"),
            ("ret-hdrs", "ret=hdrs"),
            ("envid", "ENVID=QQ314159"),
            ("envid-xtext", "ENVID=a+2Bb+3Dc"),
            ("both", "RET=HDRS ENVID=QQ314159"),
        )
    ),
    *(
        Case(
            id=f"dsn.{name}",
            title=f"MAIL with {parameter} is refused with 501",
            section="RFC 3461 5.1",
            sentence=MAIL_501,
            level=level,
            needs=("DSN", "MAIL"),
            steps=(Ask(f"MAIL FROM:<{{from}}> {parameter}".encode(), "501"), MAIL),
        )
        for name, level, parameter in (
            ("ret-unknown", Level.MUST, "RET=BODY"),
            ("ret-empty", Level.MUST, "RET="),
            ("ret-twice", Level.MUST, "RET=FULL RET=HDRS"),
            # xtext may be empty (RFC 3461 4); it is the value of a parameter that may not (RFC 5321 4.1.2).
            ("envid-empty", Level.SHOULD, "ENVID="),
            ("envid-bad", Level.MUST, "ENVID=a+zz"),
            ("envid-twice", Level.MUST, "ENVID=a ENVID=b"),
        )
    ),
    *(
        Case(
            id=f"dsn.{name}",
            title=f"RCPT with {parameter}",
            section="RFC 3461 5.1",
            sentence=RCPT_SAME,
            needs=("DSN",),
            state=State.MAIL,
            steps=(Ask(f"RCPT TO:<{{to}}> {parameter}".encode(), "250|251"),),
        )
        for name, parameter in (
            ("notify-never", "NOTIFY=NEVER"),
            ("notify-one", "notify=success"),
            ("notify-all", "NOTIFY=SUCCESS,FAILURE,DELAY"),
            ("orcpt", "ORCPT=rfc822;a+2Bb@example.com"),
            ("notify-orcpt", "NOTIFY=FAILURE ORCPT=rfc822;a@example.com"),
        )
    ),
    *(
        Case(
            id=f"dsn.{name}",
            title=f"RCPT with {parameter} is refused with 501",
            section="RFC 3461 5.1",
            sentence=RCPT_501,
            level=Level.SHOULD,
            needs=("DSN",),
            state=State.MAIL,
            steps=(Ask(f"RCPT TO:<{{to}}> {parameter}".encode(), "501"), RCPT),
        )
        for name, parameter in (
            ("notify-mixed", "NOTIFY=NEVER,SUCCESS"),
            ("notify-unknown", "NOTIFY=ALWAYS"),
            ("notify-empty", "NOTIFY="),
            ("notify-twice", "NOTIFY=SUCCESS NOTIFY=FAILURE"),
            ("orcpt-no-type", "ORCPT=a@example.com"),
            ("orcpt-bad", "ORCPT=rfc822;a+zz@example.com"),
            ("orcpt-twice", "ORCPT=rfc822;a@example.com ORCPT=rfc822;b@example.com"),
        )
    ),
    Case(
        id="dsn.not-listed",
        title="RET that is not listed is refused",
        section="RFC 5321 4.1.1.11",
        sentence="If the server SMTP does not recognize or cannot implement one or more of the parameters associated with a "
        "particular MAIL FROM or RCPT TO command, it will return code 555.",
        lacks=("DSN",),
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<{from}> RET=FULL", REFUSED),),
    ),
)
