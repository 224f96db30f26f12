"""The dialogues that the RFCs of extensions print, played with a server: its replies have the codes that are printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from attrs import frozen

from smtp_trio.protocol import Command, Extension, Reply
from smtp_trio.protocol.extensions import (
    AtrnExtension,
    Auth,
    BurlExtension,
    DeliverBy,
    Dsn,
    EtrnExtension,
    Lmtp,
    MtPriority,
    NoSoliciting,
    RequireRecipientValidSince,
    RequireTls,
    standard,
)
from smtp_trio.protocol.extensions.no_soliciting import refuse_classes
from smtp_trio.protocol.extensions.rrvs import OWNER_CHANGED

from .driver import ServerDriver

#: A reply as it is printed: the code, whether more lines follow, the status if there is one, and the text.
PRINTED = re.compile(r"([0-9]{3})([- ])(?:([245]\.[0-9]+\.[0-9]+) )?(.*)")


@frozen
class Dialogue:
    """A printed dialogue. ``replies`` are those of the application, by the beginning of the command."""

    rfc: str
    text: str
    extensions: tuple[Extension, ...] = ()
    settings: Mapping[str, Any] = {}
    replies: Mapping[str, Reply] = {}
    user: str | None = None
    #: What follows STARTTLS, or the first line without it.
    prepare: Callable[[ServerDriver], None] = lambda _: None
    #: Of LMTP, to the end of a message.
    recipient_replies: Mapping[str, Reply] = {}


#: The server of RFC 4468 3.4 shows its sources before AUTH, which is allowed (3.1 (3)).
BURL_BEFORE_AUTH = BurlExtension(authenticated=False)
#: Replies for its dialogues.
BURL_REPLIES = {
    "MAIL": Reply(250, "Address Ok.", "2.5.0"),
    "RCPT TO:<ron": Reply(250, "ron@gryffindor.example.com OK.", "2.1.5"),
    "RCPT TO:<malfoy": Reply(550, "Relaying not allowed: malfoy@slitherin.example.com", "5.7.1"),
    "BURL imap://harry@gryffindor.example.com/outbox;uidvalidity=1078863300/;uid=25;urlauth=submit+harry:internal:7": Reply(
        554, "IMAP URL authorization failed", "5.7.0"
    ),
    "BURL": Reply(250, "Ok.", "2.5.0"),
}


DIALOGUES = [
    Dialogue(
        "2852-6-submission",
        """
        S: 220 acme.net SMTP server here
        C: EHLO bigbiz.com
        S: 250-acme.net
        S: 250 DELIVERBY
        C: MAIL FROM:<eljefe@bigbiz.com> BY=120;R
        S: 250 <eljefe@bigbiz.com> sender ok
        C: RCPT TO:<topbanana@other.com>
        S: 250 <topbanana@wherever.com> recipient ok
        """,
        (DeliverBy(),),
    ),
    Dialogue(
        "2852-6-minimum",
        """
        S: 220 mail.other.com ESMTP server at your service
        C: EHLO acme.net
        S: 250-mail.other.com
        S: 250 DELIVERBY 240
        C: QUIT
        """,
        (DeliverBy(240),),
    ),
    Dialogue(
        "2852-6-relay",
        """
        S: 220 mail.other.com ESMTP server at your service
        C: EHLO acme.net
        S: 250-mail.other.com
        S: 250 DELIVERBY 30
        C: MAIL FROM:<eljefe@bigbiz.com> BY=98;R
        S: 250 <eljefe@bigbiz.com> Sender okay
        C: RCPT TO:<topbanana@other.com>
        S: 250 <topbanana@wherever.com> Recipient okay
        """,
        (DeliverBy(30),),
    ),
    Dialogue(
        "6710-8-submission",
        """
        S: 220 example.com SMTP server here
        C: EHLO mua.example.com
        S: 250-example.com
        S: 250-DSN
        S: 250-DELIVERBY
        S: 250-ENHANCEDSTATUSCODES
        S: 250 MT-PRIORITY MIXER
        C: MAIL FROM:<eljefe@example.com> BY=125;R ENVID=QQ314159 MT-PRIORITY=3
        S: 250 2.1.0 <eljefe@example.com> sender ok
        C: RCPT TO:<topbanana@example.net>
        S: 250 2.1.5 <topbanana@example.net> recipient ok
        C: RCPT TO:<Dana@Ivory.example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Dana@Ivory.example.net
        S: 250 2.1.5 <Dana@Ivory.example.net> recipient ok
        C: DATA
        S: 354 okay, send message
        C: (message goes here)
        C: .
        S: 250 message accepted
        C: QUIT
        S: 221 2.0.0 goodbye
        """,
        (Dsn(), DeliverBy(), MtPriority("MIXER")),
        user="eljefe",
    ),
    Dialogue(
        "6710-8-assigned",
        """
        S: 220 example.com SMTP server here
        C: EHLO mua.example.com
        S: 250-example.com
        S: 250-DSN
        S: 250-DELIVERBY
        S: 250-ENHANCEDSTATUSCODES
        S: 250 MT-PRIORITY
        C: MAIL FROM:<eljefe@example.com> BY=125;R ENVID=QQ314159
        S: 250 2.1.0 <eljefe@example.com> sender ok
        C: RCPT TO:<topbanana@example.net>
        S: 250 2.1.5 <topbanana@example.net> recipient ok
        C: RCPT TO:<Dana@Ivory.example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Dana@Ivory.example.net
        S: 250 2.1.5 <Dana@Ivory.example.net> recipient ok
        C: DATA
        S: 354 okay, send message
        C: (message goes here)
        C: .
        S: 250 2.3.6 3 is the new priority assigned to the message
        C: QUIT
        S: 221 2.0.0 goodbye
        """,
        (Dsn(), DeliverBy(), MtPriority()),
        replies={".": Reply(250, "3 is the new priority assigned to the message", "2.3.6")},
    ),
    Dialogue(
        "6710-8-relay",
        """
        S: 220 example.net SMTP server here
        C: EHLO example.com
        S: 250-example.net
        S: 250-DSN
        S: 250-DELIVERBY
        S: 250 MT-PRIORITY STANAG4406
        C: MAIL FROM:<eljefe@example.com> BY=120;R ENVID=QQ314159 MT-PRIORITY=3
        S: 250 <eljefe@example.com> sender ok
        C: RCPT TO:<topbanana@example.net>
        S: 250 <topbanana@example.net> recipient ok
        C: RCPT TO:<Dana@Ivory.example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Dana@Ivory.example.net
        S: 250 <Dana@Ivory.example.net> recipient ok
        C: DATA
        S: 354 okay, send message
        C: (message goes here)
        C: .
        S: 250 message accepted
        C: QUIT
        S: 221 goodbye
        """,
        # The other server is trusted without AUTH, so its priority is not lowered.
        (Dsn(), DeliverBy(), MtPriority("STANAG4406", untrusted=9)),
    ),
    Dialogue(
        "7293-12.1",
        """
        S: 220 server.example.com ESMTP ready
        C: EHLO client.example.net
        S: 250-server.example.com
        S: 250 RRVS
        C: MAIL FROM:<sender@example.net>
        S: 250 OK
        C: RCPT TO:<receiver@example.com> RRVS=2014-04-03T23:01:00Z
        S: 550 5.7.17 receiver@example.com is no longer valid
        C: QUIT
        S: 221 So long!
        """,
        (RequireRecipientValidSince(),),
        replies={"RCPT": OWNER_CHANGED},
    ),
    Dialogue(
        "8689-A.1",
        """
        S: 220 mail.example.net ESMTP
        C: EHLO mail.example.org
        S: 250-mail.example.net Hello example.org [192.0.2.1]
        S: 250-SIZE 52428800
        S: 250-8BITMIME
        S: 250-PIPELINING
        S: 250-STARTTLS
        S: 250 HELP
        C: STARTTLS
        S: 220 TLS go ahead
        C: EHLO mail.example.org
        S: 250-mail.example.net Hello example.org [192.0.2.1]
        S: 250-SIZE 52428800
        S: 250-8BITMIME
        S: 250-PIPELINING
        S: 250-REQUIRETLS
        S: 250 HELP
        C: MAIL FROM:<roger@example.org> REQUIRETLS
        S: 250 OK
        C: RCPT TO:<editor@example.net>
        S: 250 Accepted
        C: DATA
        S: 354 Enter message, ending with "." on a line by itself
        C: .
        S: 250 OK
        C: QUIT
        """,
        (RequireTls(),),
        {"tls": True, "size": 52428800},
    ),
    Dialogue(
        "3865-2.3",
        """
        S: 220 trusted.example.com SMTP service ready
        C: EHLO untrusted.example.com
        S: 250-trusted.example.com says hello
        S: 250 NO-SOLICITING net.example:ADV
        C: MAIL FROM:<save@example.com> SOLICIT=org.example:ADV:ADLT
        S: 250 Ok
        C: RCPT TO:<coupon_clipper@moonlink.example.com>
        S: 250 <coupon_clipper@moonlink.example.com>... Recipient ok
        C: RCPT TO:<grumpy_old_boy@example.net>
        S: 550 <grumpy_old_boy@example.net> SOLICIT=org.example:ADV:ADLT
        """,
        (NoSoliciting(["net.example:ADV"]),),
        replies={"RCPT TO:<grumpy": refuse_classes(["org.example:ADV:ADLT"])},
    ),
    Dialogue(
        "1985-7",
        """
        S: 220 sigurd.innosoft.com -- Server SMTP (PMDF V4.2-6 #1992)
        C: EHLO ymir.claremont.edu
        S: 250-sigurd.innosoft.com
        S: 250-EXPN
        S: 250-HELP
        S: 250 ETRN
        C: ETRN
        S: 500 Syntax Error
        C: ETRN localname
        S: 501 Syntax Error in Parameters
        C: ETRN uu.net
        S: 458 Unable to queue messages for node uu.net
        C: ETRN sigurd.innosoft.com
        S: 250 OK, queuing for node sigurd.innosoft.com started
        C: ETRN mysoft.com
        S: 253 OK, 14 pending messages for node mysoft.com started
        C: ETRN foo.bar
        S: 459 Node foo.bar not allowed: Unable to resolve name.
        C: QUIT
        S: 221 Goodbye
        """,
        (EtrnExtension(),),
        {"hooks": {"etrn", "expn"}},
        {
            "ETRN uu.net": Reply(458, "Unable to queue messages for node uu.net"),
            "ETRN sigurd": Reply(250, "OK, queuing for node sigurd.innosoft.com started"),
            "ETRN mysoft.com": Reply(253, "OK, 14 pending messages for node mysoft.com started"),
            "ETRN foo.bar": Reply(459, "Node foo.bar not allowed: Unable to resolve name."),
        },
    ),
    Dialogue(
        "2033-4.2",
        """
        S: 220 foo.edu LMTP server ready
        C: LHLO foo.edu
        S: 250-foo.edu
        S: 250-PIPELINING
        S: 250 SIZE
        C: MAIL FROM:<chris@bar.com>
        S: 250 OK
        C: RCPT TO:<pat@foo.edu>
        S: 250 OK
        C: RCPT TO:<jones@foo.edu>
        S: 550 No such user here
        C: RCPT TO:<green@foo.edu>
        S: 250 OK
        C: DATA
        S: 354 Start mail input; end with <CRLF>.<CRLF>
        C: Blah blah blah...
        C: ...etc. etc. etc.
        C: .
        S: 250 OK
        S: 452 <green@foo.edu> is temporarily over quota
        C: QUIT
        S: 221 foo.edu closing connection
        """,
        (Lmtp(),),
        {},
        {"RCPT TO:<jones": Reply(550, "No such user here")},
        recipient_replies={"green@foo.edu": Reply(452, "<green@foo.edu> is temporarily over quota")},
    ),
    Dialogue(
        "4468-3.4",
        """
        S: 220 owlry.example.com ESMTP
        C: EHLO potter.example.com
        S: 250-owlry.example.com
        S: 250-8BITMIME
        S: 250-BURL imap
        S: 250-AUTH PLAIN
        S: 250-DSN
        S: 250 ENHANCEDSTATUSCODES
        C: AUTH PLAIN aGFycnkAaGFycnkAYWNjaW8=
        S: 235 2.7.0 PLAIN authentication successful.
        C: MAIL FROM:<harry@gryffindor.example.com>
        S: 250 2.5.0 Address Ok.
        C: RCPT TO:<ron@gryffindor.example.com>
        S: 250 2.1.5 ron@gryffindor.example.com OK.
        C: BURL imap://harry@gryffindor.example.com/outbox
                ;uidvalidity=1078863300/;uid=25;urlauth=submit+harry
                :internal:91354a473744909de610943775f92038 LAST
        S: 250 2.5.0 Ok.
        """,
        (BURL_BEFORE_AUTH, Auth(mechanisms=["PLAIN"]), Dsn()),
        {"hooks": {"auth", "burl"}, "secure": True, "check_credentials": lambda _: None},
        BURL_REPLIES,
    ),
    Dialogue(
        "4468-3.4-pipelining",
        """
        S: 220 owlry.example.com ESMTP
        C: EHLO potter.example.com
        S: 250-owlry.example.com
        S: 250-8BITMIME
        S: 250-PIPELINING
        S: 250-BURL imap
        S: 250-AUTH PLAIN
        S: 250-DSN
        S: 250 ENHANCEDSTATUSCODES
        C: AUTH PLAIN aGFycnkAaGFycnkAYWNjaW8=
        C: MAIL FROM:<harry@gryffindor.example.com>
        C: RCPT TO:<ron@gryffindor.example.com>
        C: BURL imap://harry@gryffindor.example.com/outbox
                ;uidvalidity=1078863300/;uid=25;urlauth=submit+harry
                :internal:91354a473744909de610943775f92038 LAST
        S: 235 2.7.0 PLAIN authentication successful.
        S: 250 2.5.0 Address Ok.
        S: 250 2.1.5 ron@gryffindor.example.com OK.
        S: 250 2.5.0 Ok.
        """,
        (BURL_BEFORE_AUTH, Auth(mechanisms=["PLAIN"]), Dsn()),
        {"hooks": {"auth", "burl"}, "secure": True, "check_credentials": lambda _: None},
        BURL_REPLIES,
    ),
    # The failures are printed without the beginning of their session, and without the end of the first transaction.
    Dialogue(
        "4468-3.4-failures",
        """
        S: 220 owlry.example.com ESMTP
        C: EHLO potter.example.com
        S: 250-owlry.example.com
        S: 250-8BITMIME
        S: 250-PIPELINING
        S: 250-BURL imap
        S: 250-AUTH PLAIN
        S: 250-DSN
        S: 250 ENHANCEDSTATUSCODES
        C: AUTH PLAIN aGFycnkAaGFycnkAYWNjaW8=
        C: MAIL FROM:<harry@gryffindor.example.com>
        C: RCPT TO:<ron@gryffindor.example.com>
        C: BURL imap://harry@gryffindor.example.com/outbox
                ;uidvalidity=1078863300/;uid=25;urlauth=submit+harry
                :internal:91354a473744909de610943775f92038 LAST
        S: 235 2.7.0 PLAIN authentication successful.
        S: 250 2.5.0 Address Ok.
        S: 250 2.1.5 ron@gryffindor.example.com OK.
        S: 250 2.5.0 Ok.
        C: MAIL FROM:<harry@gryffindor.example.com>
        C: RCPT TO:<malfoy@slitherin.example.com>
        C: BURL imap://harry@gryffindor.example.com/outbox
                ;uidvalidity=1078863300/;uid=25;urlauth=submit+harry
                :internal:91354a473744909de610943775f92038 LAST
        S: 250 2.5.0 Address Ok.
        S: 550 5.7.1 Relaying not allowed: malfoy@slitherin.example.com
        S: 554 5.5.0 No recipients have been specified.
        C: RSET
        S: 250 2.0.0 Ok
        C: MAIL FROM:<harry@gryffindor.example.com>
        C: RCPT TO:<ron@gryffindor.example.com>
        C: BURL imap://harry@gryffindor.example.com/outbox
                ;uidvalidity=1078863300/;uid=25;urlauth=submit+harry
                :internal:71354a473744909de610943775f92038 LAST
        S: 250 2.5.0 Address Ok.
        S: 250 2.1.5 ron@gryffindor.example.com OK.
        S: 554 5.7.0 IMAP URL authorization failed
        """,
        (BURL_BEFORE_AUTH, Auth(mechanisms=["PLAIN"]), Dsn()),
        {"hooks": {"auth", "burl"}, "secure": True, "check_credentials": lambda _: None},
        BURL_REPLIES,
    ),
    Dialogue(
        "2645-6",
        """
        S: 220 EXAMPLE.NET on-demand mail relay server ready
        C: EHLO example.org
        S: 250-EXAMPLE.NET
        S: 250 ATRN
        C: ATRN example.org,example.com
        S: 250 OK now reversing the connection
        """,
        (AtrnExtension(),),
        {"hooks": {"atrn"}},
        {"ATRN": Reply(250, "OK now reversing the connection")},
        user="example.org",
    ),
]


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue.rfc)
def test_dialogue(dialogue: Dialogue) -> None:
    play(dialogue)


def play(dialogue: Dialogue) -> None:
    """Send the lines of the client; check the replies."""
    lines: list[str] = []
    for printed_line in map(str.strip, dialogue.text.strip().splitlines()):
        if printed_line.startswith(("C: ", "S: ")):
            lines.append(printed_line)
        else:  # RFC 4468 3.4: the line break is for editorial clarity only
            lines[-1] += printed_line

    def answer(command: Command) -> Reply | None:
        line = command.encode()
        return next((reply for start, reply in dialogue.replies.items() if line.startswith(start)), None)

    extensions = standard(*dialogue.extensions)
    driver = ServerDriver(name=lines[0].split()[2], extensions=extensions, answer=answer, **dialogue.settings)
    driver.recipient_replies |= dialogue.recipient_replies
    replies = driver.send(b"")
    group: list[str] = []
    for line, following in pairwise([*lines, ""]):
        kind, _, text = line.partition(": ")
        if kind == "C":
            assert not replies, (line, replies)
            group.append(text)
            if following.startswith("C: "):
                continue
            replies = driver.send(b"".join(each.encode() + b"\r\n" for each in group))
            group.clear()
            if text.startswith("STARTTLS") or "C: STARTTLS" not in lines:
                dialogue.prepare(driver)
            if dialogue.user is not None and text.startswith("EHLO"):
                driver.protocol.set_authenticated(dialogue.user)
            continue
        printed = PRINTED.fullmatch(text if len(text) > 3 else f"{text} ")  # a reply without text ends with a space
        assert printed is not None, line
        sent = replies[0].split("\n")
        if printed[1] == "250" and len(sent) > 1:
            # The order of the lines and further extensions do not matter.
            assert printed[4].split()[0] in sent[0] or any(
                printed[4] in (other[4:], other[4:].split()[0]) for other in sent[1:]
            ), line
        else:
            assert sent[0][:3] == printed[1], line
            assert printed[3] is None or sent[0][4:].split()[0] == printed[3], line
        if printed[2] == " ":
            del replies[0]
