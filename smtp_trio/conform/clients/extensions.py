"""SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), CHUNKING (RFC 3030)."""

from __future__ import annotations

from .._case import Level
from .._checks import Arrives, Declares, Fails, NoLine, NoText, Once, Sends, Succeeds, Then
from .._moves import Hangup
from .._scene import BASE, On
from ._laws import CARE, LOST, Law, scene

SIZE = Law(
    "RFC 1870 4", "Any attempt by a client to transfer a message which is larger than this fixed upper limit will fail."
)
SIZE_ZERO = Law("RFC 1870 3", "A parameter value of 0 (zero) indicates that no fixed maximum message size is in force.")
SIZE_NONE = Law(
    "RFC 1870 3", "If the parameter is omitted no information is conveyed about the server's fixed maximum message size"
)
EIGHT = Law(
    "RFC 6152 3",
    "the client SMTP must not, under any circumstances, attempt to transfer a content that contains characters outside of the "
    "US-ASCII octet range (hex 00-7F)",
)
BODY = Law(
    "RFC 6152 3",
    "The extended MAIL command is issued by a client SMTP when it wishes to transmit a content body consisting of a MIME message "
    "containing arbitrary lines of octet-aligned material.",
)
NO_UTF8 = Law(
    "RFC 6531 3.2",
    "If the SMTPUTF8 SMTP extension is not offered by the SMTP server, the SMTPUTF8-aware SMTP client MUST NOT transmit an "
    "internationalized email address and MUST NOT transmit a mail message containing internationalized mail headers",
)
UTF8_PARAMETER = Law(
    "RFC 6531 3.4",
    "If the envelope or message being sent requires the capabilities of the SMTPUTF8 extension, the SMTPUTF8-aware SMTP client "
    "MUST supply the SMTPUTF8 parameter with the MAIL command.",
)
CHUNKS = Law(
    "RFC 3030 2",
    "the transaction should be considered failed and the sender-SMTP MUST NOT send any additional BDAT segments",
)
BDAT = Law("RFC 3030 2", "The message data is sent immediately after the trailing <CR> <LF> of the BDAT command line.")
CHUNKING = (*BASE, "CHUNKING", "PIPELINING")

NO_EIGHT = Sends(rb"![\x80-\xff]", "octets outside of ASCII were sent")
HEADER_EIGHT = rb"(?s)\A(?:(?!\r\n\r\n).)*[\x80-\xff]"

SIZE_CASES = (
    scene(
        "size.too-small",
        "the message is larger than what SIZE allows: it is not sent",
        SIZE,
        checks=(NoText(), Fails()),
        offers=("SIZE 100", "8BITMIME"),
        level=Level.RECOMMENDED,
    ),
    scene("size.zero", "SIZE 0 means any size", SIZE_ZERO, checks=(Succeeds(),), offers=("SIZE 0",)),
    scene("size.none", "SIZE without a number says nothing", SIZE_NONE, checks=(Succeeds(),), offers=("SIZE",)),
    scene(
        "size.huge", "SIZE with 20 digits is a large number", SIZE, checks=(Succeeds(),), offers=(f"SIZE {'9' * 20}",)
    ),
    scene("size.odd", "SIZE with a word does no harm", CARE, checks=(Succeeds(),), offers=("SIZE unlimited",)),
)
ENCODING_CASES = (
    scene(
        "encoding.7bit",
        "8BITMIME is not offered: only ASCII is sent",
        EIGHT,
        checks=(NO_EIGHT,),
        offers=(),
        letter="8bit",
    ),
    scene(
        "encoding.8bit",
        "8BITMIME is offered: what is not ASCII is sent with BODY=8BITMIME",
        BODY,
        checks=(Declares(rb"[\x80-\xff]", rb"BODY=(8BITMIME|BINARYMIME)"), Succeeds()),
        letter="8bit",
    ),
    scene(
        "encoding.helo",
        "after HELO, only ASCII is sent",
        EIGHT,
        On("EHLO", b"502 5.5.1 Not here\r\n"),
        checks=(NO_EIGHT,),
        letter="8bit",
        lacks=("--require-tls", "--login"),
    ),
    scene(
        "encoding.utf8-rcpt",
        "SMTPUTF8 is not offered: no recipient outside of ASCII is sent",
        NO_UTF8,
        checks=(NoLine(rb"[\x80-\xff]"),),
        values={"to": "jörg@mx.test"},
    ),
    scene(
        "encoding.utf8-mail",
        "SMTPUTF8 is not offered: no sender outside of ASCII is sent",
        NO_UTF8,
        checks=(NoLine(rb"[\x80-\xff]"),),
        values={"from": "jörg@client.test"},
    ),
    scene(
        "encoding.utf8-header",
        "SMTPUTF8 is not offered: no header outside of ASCII is sent",
        NO_UTF8,
        checks=(Sends(b"!" + HEADER_EIGHT, "the header has octets outside of ASCII"),),
        letter="utf8",
    ),
    scene(
        "encoding.utf8-offered",
        "SMTPUTF8 is offered: for a header outside of ASCII it is asked for",
        UTF8_PARAMETER,
        checks=(Declares(HEADER_EIGHT, rb" SMTPUTF8"),),
        offers=(*BASE, "SMTPUTF8"),
        letter="utf8",
    ),
    scene(
        "encoding.utf8-needless",
        "SMTPUTF8 is offered: where it is not needed, it is not asked for",
        Law("RFC 6531 3.4", "it SHOULD NOT supply the SMTPUTF8 parameter with the MAIL command", Level.SHOULD),
        checks=(NoLine(rb"^MAIL.* SMTPUTF8"),),
        offers=(*BASE, "SMTPUTF8"),
    ),
)
CHUNKING_CASES = (
    scene(
        "chunking.message",
        "a message in chunks arrives as it is, with no dots put in",
        BDAT,
        On("BDAT", b"250 2.0.0 Ok\r\n"),
        checks=(Arrives(), Once()),
        offers=CHUNKING,
        letter="dots",
    ),
    scene(
        "chunking.large",
        "a megabyte in chunks arrives as it is",
        BDAT,
        On("BDAT", b"250 2.0.0 Ok\r\n"),
        checks=(Arrives(), Once()),
        offers=CHUNKING,
        letter="large",
    ),
    *(
        scene(
            f"chunking.refused-{code.decode()}",
            f"the first chunk is answered {code.decode()}: no more are sent",
            CHUNKS,
            On("BDAT", code + b" No\r\n"),
            checks=(Then("BDAT"), Fails()),
            offers=(*BASE, "CHUNKING"),
            letter="large",
        )
        for code in (b"451", b"452", b"500", b"552", b"554")
    ),
    scene(
        "chunking.closed",
        "the connection is closed in place of an answer to a chunk",
        LOST,
        On("BDAT", Hangup()),
        checks=(Fails(),),
        offers=CHUNKING,
    ),
    scene(
        "chunking.354",
        "a chunk is answered 354: that is no yes",
        CARE,
        On("BDAT", b"354 Go ahead\r\n"),
        checks=(Fails(),),
        offers=CHUNKING,
    ),
)
