"""``temporary`` of each exception tells whether another attempt may succeed."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import (
    BadCommandError,
    BodyError,
    LocalProtocolError,
    Mail,
    NotOfferedError,
    Path,
    Rcpt,
    RemoteProtocolError,
    Reply,
    ReplyError,
    SMTPError,
)

PATH = Path("<a@b.test>", "a", "b.test")


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (SMTPError("x"), True),
        (RemoteProtocolError("x"), True),
        (LocalProtocolError("x"), False),
        (NotOfferedError("x"), False),
        (BadCommandError(Reply(451, "x")), True),
        (BadCommandError(Reply(500, "x")), False),
        (BodyError("x"), True),
        (BodyError("x", Reply(452, "x")), True),
        (BodyError("x", Reply(552, "x")), False),
        (ReplyError(Mail(PATH), Reply(450, "x")), True),
        (ReplyError(Mail(PATH), Reply(552, "x")), False),
        (ReplyError(Rcpt(PATH), Reply(552, "x")), True),
        (ReplyError(Rcpt(PATH), Reply(550, "x")), False),
    ],
)
def test_temporary(error: SMTPError, temporary: bool) -> None:
    assert error.temporary is temporary
    assert error.result is None
