"""The dialogues that the RFCs of SMTP itself and of its oldest extensions print. `test_rfc_dialogues` has those of the others.

Each message is printed in part, and its lines are shortened here. "SIZE" has the argument that our server adds (RFC 1870 4),
and EHLO does not list VRFY, which is no extension.
"""

from __future__ import annotations

import pytest

from smtp_trio.protocol import Reply
from smtp_trio.protocol.extensions import BinaryMime, RequireRecipientValidSince
from smtp_trio.protocol.extensions.rrvs import OWNER_CHANGED

from .test_rfc_dialogues import Dialogue, play

NO_SUCH_USER = Reply(550, "No such user here", "5.1.1")
FORWARDING = Reply(551, "Forwarding to remote hosts disabled\nSelect another host to act as your forwarder", "5.7.1")
NOT_ALLOWED = Reply(550, "remote mail not allowed", "5.7.1")

DIALOGUES = [
    Dialogue(
        "5321-D.1",
        """
        S: 220 foo.com Simple Mail Transfer Service Ready
        C: EHLO bar.com
        S: 250-foo.com greets bar.com
        S: 250-8BITMIME
        S: 250-SIZE 0
        S: 250-DSN
        S: 250 HELP
        C: MAIL FROM:<Smith@bar.com>
        S: 250 OK
        C: RCPT TO:<Jones@foo.com>
        S: 250 OK
        C: RCPT TO:<Green@foo.com>
        S: 550 No such user here
        C: RCPT TO:<Brown@foo.com>
        S: 250 OK
        C: DATA
        S: 354 Start mail input; end with <CRLF>.<CRLF>
        C: Blah blah blah...
        C: ...etc. etc. etc.
        C: .
        S: 250 OK
        C: QUIT
        S: 221 foo.com Service closing transmission channel
        """,
        settings={"size": 0},
        replies={"RCPT TO:<Green": NO_SUCH_USER},
    ),
    Dialogue(
        "5321-D.2",
        """
        S: 220 foo.com Simple Mail Transfer Service Ready
        C: EHLO bar.com
        S: 250-foo.com greets bar.com
        S: 250 HELP
        C: MAIL FROM:<Smith@bar.com>
        S: 250 OK
        C: RCPT TO:<Jones@foo.com>
        S: 250 OK
        C: RCPT TO:<Green@foo.com>
        S: 550 No such user here
        C: RSET
        S: 250 OK
        C: QUIT
        S: 221 foo.com Service closing transmission channel
        """,
        replies={"RCPT TO:<Green": NO_SUCH_USER},
    ),
    Dialogue(
        "5321-D.3",
        """
        S: 220 xyz.com Simple Mail Transfer Service Ready
        C: EHLO foo.com
        S: 250 xyz.com is on the air
        C: MAIL FROM:<JQP@bar.com>
        S: 250 OK
        C: RCPT TO:<Jones@XYZ.COM>
        S: 250 OK
        C: DATA
        S: 354 Start mail input; end with <CRLF>.<CRLF>
        C: Received: from bar.com by foo.com ; Thu, 21 May 1998
        C: Subject:  The Next Meeting of the Board
        C: .
        S: 250 OK
        C: QUIT
        S: 221 xyz.com Service closing transmission channel
        """,
    ),
    Dialogue(
        "5321-D.4",
        """
        S: 220 foo.com Simple Mail Transfer Service Ready
        C: EHLO bar.com
        S: 250-foo.com greets bar.com
        S: 250-8BITMIME
        S: 250 HELP
        C: VRFY Crispin
        S: 250 Mark Crispin <Admin.MRC@foo.com>
        C: MAIL FROM:<EAK@bar.com>
        S: 250 OK
        C: RCPT TO:<Admin.MRC@foo.com>
        S: 250 OK
        C: DATA
        S: 354 Start mail input; end with <CRLF>.<CRLF>
        C: Blah blah blah...
        C: .
        S: 250 OK
        C: QUIT
        S: 221 foo.com Service closing transmission channel
        """,
        replies={"VRFY": Reply(250, "Mark Crispin <Admin.MRC@foo.com>")},
    ),
    Dialogue(
        "1846-3",
        """
        S: 220 relay.imag.fr ready
        C: HELO client.inria.fr
        S: 250 relay.imag.fr Hello client.inria.fr
        C: MAIL FROM: <user1@client.inria.fr>
        S: 250 <user1@client.inria.fr>... Sender Ok
        C: RCPT TO: <user2@nomail.imag.fr>
        S: 556 nomail.imag.fr does not accept mail
        C: QUIT
        S: 221 relay.imag.fr closing connection
        """,
        # RFC 7504 2 and 3 replace the printed 521 to RCPT by 556.
        replies={"RCPT": Reply(556, "nomail.imag.fr does not accept mail", "5.1.10")},
    ),
    Dialogue(
        "1870-8",
        """
        S: 220 sigurd.innosoft.com -- Server SMTP (PMDF V4.2-6 #1992)
        C: EHLO ymir.claremont.edu
        S: 250-sigurd.innosoft.com
        S: 250-EXPN
        S: 250-HELP
        S: 250 SIZE 1000000
        C: MAIL FROM:<ned@thor.innosoft.com> SIZE=500000
        S: 250 Address Ok.
        C: RCPT TO:<ned@innosoft.com>
        S: 250 ned@innosoft.com OK; can accomodate 500000 byte message
        C: RCPT TO:<ned@ymir.claremont.edu>
        S: 552 Channel size limit exceeded: ned@YMIR.CLAREMONT.EDU
        C: RCPT TO:<ned@hmcvax.claremont.edu>
        S: 452 Insufficient channel storage: ned@hmcvax.CLAREMONT.EDU
        C: DATA
        S: 354 Send message, ending in CRLF.CRLF.
        C: (message)
        C: .
        S: 250 Some recipients OK
        C: QUIT
        S: 221 Goodbye
        """,
        settings={"hooks": {"expn"}, "size": 1000000},
        replies={
            "RCPT TO:<ned@ymir": Reply(552, "Channel size limit exceeded"),
            "RCPT TO:<ned@hmcvax": Reply(452, "Insufficient channel storage"),
        },
    ),
    Dialogue(
        "2034-5",
        """
        S: 220 dbc.mtview.ca.us SMTP service ready
        C: EHLO ymir.claremont.edu
        S: 250-dbc.mtview.ca.us says hello
        S: 250 ENHANCEDSTATUSCODES
        C: MAIL FROM:<ned@ymir.claremont.edu>
        S: 250 2.1.0 Originator <ned@ymir.claremont.edu> ok
        C: RCPT TO:<mrose@dbc.mtview.ca.us>
        S: 250 2.1.5 Recipient <mrose@dbc.mtview.ca.us> ok
        C: RCPT TO:<nosuchuser@dbc.mtview.ca.us>
        S: 550 5.1.1 Mailbox "nosuchuser" does not exist
        C: RCPT TO:<remoteuser@isi.edu>
        S: 551-5.7.1 Forwarding to remote hosts disabled
        S: 551 5.7.1 Select another host to act as your forwarder
        C: DATA
        S: 354 Send message, ending in CRLF.CRLF.
        C: (message)
        C: .
        S: 250 2.6.0 Message accepted
        C: QUIT
        S: 221 2.0.0 Goodbye
        """,
        replies={
            "RCPT TO:<nosuchuser": NO_SUCH_USER,
            "RCPT TO:<remoteuser": FORWARDING,
            ".": Reply(250, "Message accepted", "2.6.0"),
        },
    ),
    Dialogue(
        "2920-4-without",
        """
        S: 220 Innosoft.com SMTP service ready
        C: HELO dbc.mtview.ca.us
        S: 250 Innosoft.com
        C: MAIL FROM:<mrose@dbc.mtview.ca.us>
        S: 250 sender <mrose@dbc.mtview.ca.us> OK
        C: RCPT TO:<ned@innosoft.com>
        S: 250 recipient <ned@innosoft.com> OK
        C: RCPT TO:<dan@innosoft.com>
        S: 250 recipient <dan@innosoft.com> OK
        C: RCPT TO:<kvc@innosoft.com>
        S: 250 recipient <kvc@innosoft.com> OK
        C: DATA
        S: 354 enter mail, end with line containing only "."
        C: (message)
        C: .
        S: 250 message sent
        C: QUIT
        S: 221 goodbye
        """,
    ),
    Dialogue(
        "2920-4-pipelining",
        """
        S: 220 innosoft.com SMTP service ready
        C: EHLO dbc.mtview.ca.us
        S: 250-innosoft.com
        S: 250 PIPELINING
        C: MAIL FROM:<mrose@dbc.mtview.ca.us>
        C: RCPT TO:<ned@innosoft.com>
        C: RCPT TO:<dan@innosoft.com>
        C: RCPT TO:<kvc@innosoft.com>
        C: DATA
        S: 250 sender <mrose@dbc.mtview.ca.us> OK
        S: 250 recipient <ned@innosoft.com> OK
        S: 250 recipient <dan@innosoft.com> OK
        S: 250 recipient <kvc@innosoft.com> OK
        S: 354 enter mail, end with line containing only "."
        C: (message)
        C: .
        C: QUIT
        S: 250 message sent
        S: 221 goodbye
        """,
    ),
    Dialogue(
        # The RFC allows 354 too, and prints a dialogue with it; then the message is refused with 554.
        "2920-4-refused",
        """
        S: 220 innosoft.com SMTP service ready
        C: EHLO dbc.mtview.ca.us
        S: 250-innosoft.com
        S: 250 PIPELINING
        C: MAIL FROM:<mrose@dbc.mtview.ca.us>
        C: RCPT TO:<nsb@thumper.bellcore.com>
        C: RCPT TO:<galvin@tis.com>
        C: DATA
        S: 250 sender <mrose@dbc.mtview.ca.us> OK
        S: 550 remote mail to <nsb@thumper.bellore.com> not allowed
        S: 550 remote mail to <galvin@tis.com> not allowed
        S: 554 no valid recipients given
        C: QUIT
        S: 221 goodbye
        """,
        replies={"RCPT": NOT_ALLOWED},
    ),
    Dialogue(
        "3030-4.1",
        """
        S: 220 cnri.reston.va.us SMTP service ready
        C: EHLO ymir.claremont.edu
        S: 250-cnri.reston.va.us says hello
        S: 250 CHUNKING
        C: MAIL FROM:<Sam@Random.com>
        S: 250 <Sam@Random.com> Sender ok
        C: RCPT TO:<Susan@Random.com>
        S: 250 <Susan@random.com> Recipient ok
        C: BDAT 86 LAST
        C: To: Susan@random.com
        C: From: Sam@random.com
        C: Subject: This is a bodyless test message
        S: 250 Message OK, 86 octets received
        C: QUIT
        S: 221 Goodbye
        """,
    ),
    Dialogue(
        "3030-4.2",
        """
        S: 220 cnri.reston.va.us SMTP service ready
        C: EHLO ymir.claremont.edu
        S: 250-cnri.reston.va.us says hello
        S: 250-PIPELINING
        S: 250-BINARYMIME
        S: 250 CHUNKING
        C: MAIL FROM:<ned@ymir.claremont.edu> BODY=BINARYMIME
        C: RCPT TO:<gvaudre@cnri.reston.va.us>
        C: RCPT TO:<jstewart@cnri.reston.va.us>
        S: 250 <ned@ymir.claremont.edu>... Sender and BINARYMIME ok
        S: 250 <gvaudre@cnri.reston.va.us>... Recipient ok
        S: 250 <jstewart@cnri.reston.va.us>... Recipient ok
        C: BDAT 9
        C: (First)
        C: BDAT 13
        C: (Remaining)
        C: BDAT 0 LAST
        S: 250 100000 octets received
        S: 250 324 octets received
        S: 250 Message OK, 100324 octets received
        C: QUIT
        S: 221 Goodbye
        """,
        (BinaryMime(),),
    ),
    Dialogue(
        "3207-5",
        """
        S: 220 mail.imc.org SMTP service ready
        C: EHLO mail.example.com
        S: 250-mail.imc.org offers a warm hug of welcome
        S: 250-8BITMIME
        S: 250-STARTTLS
        S: 250 DSN
        C: STARTTLS
        S: 220 Go ahead
        C: EHLO mail.example.com
        S: 250-mail.imc.org touches your hand gently for a moment
        S: 250-8BITMIME
        S: 250 DSN
        """,
        settings={"tls": True},
    ),
    Dialogue(
        "6152-3",
        """
        S: 220 dbc.mtview.ca.us SMTP service ready
        C: EHLO ymir.claremont.edu
        S: 250-dbc.mtview.ca.us says hello
        S: 250 8BITMIME
        C: MAIL FROM:<ned@ymir.claremont.edu> BODY=8BITMIME
        S: 250 <ned@ymir.claremont.edu>... Sender and 8BITMIME ok
        C: RCPT TO:<mrose@dbc.mtview.ca.us>
        S: 250 <mrose@dbc.mtview.ca.us>... Recipient ok
        C: DATA
        S: 354 Send 8BITMIME message, ending in CRLF.CRLF.
        C: \u00e9
        C: .
        S: 250 OK
        C: QUIT
        S: 221 Goodbye
        """,  # 250 is printed as the reply to QUIT, which RFC 5321 4.3.2 does not allow
    ),
    Dialogue(
        "7293-12.2",
        """
        S: 220 server.example.com ESMTP ready
        C: HELO client.example.net
        S: 250 server.example.com
        C: MAIL FROM:<sender@example.net>
        S: 250 OK
        C: RCPT TO:<receiver@example.com>
        S: 250 OK
        C: DATA
        S: 354 Ready for message content
        C: Require-Recipient-Valid-Since: receiver@example.com; Sat, 1 Jun 2013 09:23:01 -0700
        C: .
        S: 550 5.7.17 receiver@example.com is no longer valid
        C: QUIT
        S: 221 So long!
        """,
        (RequireRecipientValidSince(),),
        replies={".": OWNER_CHANGED},
    ),
]


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue.rfc)
def test_dialogue(dialogue: Dialogue) -> None:
    play(dialogue)
