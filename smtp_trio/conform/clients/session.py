"""An ordinary server, and all that is not seen every day in its greeting and its answer to EHLO."""

from __future__ import annotations

from .._case import Level
from .._checks import Arrives, Fails, NeverSays, NoLine, Quits, Says, Succeeds, Then, Waits
from .._moves import Hangup, Pause
from .._scene import On
from ._laws import CARE, EHLO_FIRST, FALL_BACK, FIRST_DIGIT, LOST, ORDER, QUIT, TEMPORARY, WAIT_FOR_GREETING, Law, scene

NO_OPTIONS = ("--require-tls", "--login")
NOT_UNDERSTOOD = (b"500 5.5.1 What?", b"502 5.5.1 Not here")
CASELESS = Law(
    "RFC 5321 2.4",
    'Verbs and argument values (e.g., "TO:" or "to:" in the RCPT command and extension name keywords) are not case '
    "sensitive",
)
EHLO_ALONE = Law("RFC 5321 4.1.1.1", "Normally, the response to EHLO will be a multiline reply.")
REJECTED = Law(
    "RFC 5321 3.1", "a 554 response MAY be given in the initial connection opening message instead of the 220"
)

CASES = (
    scene(
        "session.order",
        "EHLO, MAIL, RCPT, DATA, in this order",
        ORDER,
        checks=(Says("EHLO|HELO", "MAIL", "RCPT", "DATA|BDAT"), Succeeds()),
    ),
    scene(
        "session.message",
        "the message that arrives is the one that was sent",
        ORDER,
        checks=(Arrives(),),
        needs=("--command",),
    ),
    scene(
        "session.ehlo", "EHLO comes first, and HELO is not needed", EHLO_FIRST, checks=(Says("EHLO"), NeverSays("HELO"))
    ),
    scene("session.quit", "QUIT comes last, and nothing after it", QUIT, checks=(Quits(),)),
    scene(
        "session.quit-refused",
        "QUIT is answered 500: the message was taken nevertheless",
        QUIT,
        On("QUIT", b"500 5.5.1 Stay\r\n", Hangup()),
        checks=(Succeeds(),),
        level=Level.RECOMMENDED,
    ),
    scene(
        "session.quit-unanswered",
        "the connection is closed on QUIT: the message was taken nevertheless",
        QUIT,
        On("QUIT", Hangup()),
        checks=(Succeeds(),),
        level=Level.RECOMMENDED,
    ),
    scene(
        "session.closed-after",
        "the connection is closed after the message was taken: it was taken",
        LOST,
        On("BODY", b"250 2.0.0 Taken\r\n", Hangup()),
        checks=(Succeeds(),),
        level=Level.RECOMMENDED,
    ),
    scene(
        "session.greeting-waits",
        "nothing is said before the greeting, even if that takes a second",
        WAIT_FOR_GREETING,
        On("GREETING", Pause(1), b"220 mx.test ESMTP\r\n"),
        checks=(Waits("GREETING"), Succeeds()),
    ),
    scene(
        "session.greeting-554",
        "the greeting is 554: nothing but QUIT follows",
        REJECTED,
        On("GREETING", b"554 mx.test takes no mail\r\n"),
        checks=(Then("GREETING", ("QUIT",)), Fails()),
    ),
    scene(
        "session.greeting-521",
        "the greeting is 521: nothing but QUIT follows",
        Law(
            "RFC 7504 3",
            "reserving it for use at connection-opening time to indicate that the host does not accept mail under any circumstances",
        ),
        On("GREETING", b"521 mx.test takes no mail\r\n"),
        checks=(Then("GREETING", ("QUIT",)), Fails()),
    ),
    scene(
        "session.greeting-421",
        "the greeting is 421, and the connection is closed",
        TEMPORARY,
        On("GREETING", b"421 mx.test is too busy\r\n", Hangup()),
        checks=(Fails(),),
    ),
    scene(
        "session.greeting-450",
        "the greeting is 450: no mail is sent",
        TEMPORARY,
        On("GREETING", b"450 mx.test is too busy\r\n"),
        checks=(NeverSays("MAIL"), Fails()),
    ),
    scene(
        "session.greeting-354",
        "the greeting is 354: no mail is sent",
        FIRST_DIGIT,
        On("GREETING", b"354 mx.test go ahead\r\n"),
        checks=(NeverSays("MAIL"), Fails()),
    ),
    scene(
        "session.greeting-http",
        "there is another kind of server: no mail is sent",
        CARE,
        On("GREETING", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", Hangup()),
        checks=(NeverSays("MAIL"), Fails()),
    ),
    scene(
        "session.greeting-ssh",
        "there is another kind of server that waits: no mail is sent",
        CARE,
        On("GREETING", b"SSH-2.0-OpenSSH_9.2\r\n"),
        checks=(NeverSays("MAIL"), Fails()),
    ),
    scene(
        "session.greeting-closed", "the connection is closed at once", LOST, On("GREETING", Hangup()), checks=(Fails(),)
    ),
    *(
        scene(
            f"session.helo-{reply[:3].decode()}",
            f"EHLO is answered {reply[:3].decode()}: HELO follows",
            FALL_BACK,
            On("EHLO", reply + b"\r\n"),
            checks=(Says("EHLO", "HELO", "MAIL", "RCPT", "DATA"), Succeeds()),
            offers=(),
            lacks=NO_OPTIONS,
        )
        for reply in NOT_UNDERSTOOD
    ),
    scene(
        "session.helo-no-parameters",
        "after HELO, MAIL and RCPT have no parameters",
        Law(
            "RFC 5321 4.1.1",
            "In the absence of specific extensions offered by the server and accepted by the client, clients "
            "MUST NOT send such parameters",
        ),
        On("EHLO", b"500 5.5.1 What?\r\n"),
        checks=(NoLine(rb"^(MAIL|RCPT)[^>]*> *[A-Z]"),),
        offers=(),
        lacks=NO_OPTIONS,
    ),
    scene(
        "session.helo-too",
        "EHLO and HELO are refused: no mail is sent",
        FALL_BACK,
        On("EHLO", b"502 5.5.1 Not here\r\n"),
        On("HELO", b"502 5.5.1 Not here\r\n", always=False),
        checks=(NeverSays("MAIL"), Fails()),
        lacks=NO_OPTIONS,
    ),
    scene(
        "session.ehlo-421",
        "EHLO is answered 421: nothing more is said in this connection",
        TEMPORARY,
        On("EHLO", b"421 mx.test is too busy\r\n"),
        checks=(Then("EHLO", ("QUIT",)), Fails()),
        lacks=NO_OPTIONS,
        level=Level.RECOMMENDED,
    ),
    scene(
        "session.ehlo-354",
        "EHLO is answered 354: no mail is sent",
        FIRST_DIGIT,
        On("EHLO", b"354 go ahead\r\n"),
        On("HELO", b"354 go ahead\r\n", always=False),
        checks=(NeverSays("MAIL"), Fails()),
        lacks=NO_OPTIONS,
    ),
    scene(
        "session.ehlo-one-line",
        "the answer to EHLO is one line",
        EHLO_ALONE,
        On("EHLO", b"250 mx.test\r\n"),
        checks=(Succeeds(),),
        lacks=NO_OPTIONS,
    ),
    scene(
        "session.ehlo-greets",
        "the first line of the answer to EHLO looks like an extension, and is none",
        EHLO_ALONE,
        On("EHLO", b"250-SIZE 10\r\n250 HELP\r\n"),
        checks=(NoLine(rb"^MAIL.*SIZE="), Succeeds()),
        lacks=NO_OPTIONS,
        level=Level.RECOMMENDED,
    ),
    scene(
        "session.ehlo-unknown",
        "extensions that nobody knows are passed over",
        EHLO_ALONE,
        offers=("XYZZY", "X-NOTHING a=b c", "SIZE 10485760", "FUTURE1 2 3", "8BITMIME"),
        checks=(Succeeds(),),
    ),
    scene(
        "session.ehlo-small",
        "keywords in small letters are keywords",
        CASELESS,
        offers=("size 10485760", "8bitmime", "pipelining", "help"),
        checks=(Succeeds(),),
    ),
    scene(
        "session.ehlo-many",
        "a hundred extensions are listed",
        EHLO_ALONE,
        offers=tuple(f"X-EXTENSION-{number}" for number in range(100)),
        checks=(Succeeds(),),
        level=Level.RECOMMENDED,
    ),
    scene(
        "session.ehlo-odd",
        "lines without words, and with too many spaces, do no harm",
        CARE,
        On("EHLO", b"250-mx.test\r\n250-\r\n250-  SIZE   10485760  \r\n250-8BITMIME \r\n250 \r\n"),
        checks=(Succeeds(),),
        lacks=NO_OPTIONS,
    ),
    scene("session.ehlo-closed", "the connection is closed at EHLO", LOST, On("EHLO", Hangup()), checks=(Fails(),)),
)
