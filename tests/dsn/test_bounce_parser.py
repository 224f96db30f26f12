"""Reports are understood by the bounce parser of Mailman (flufl.bounce)."""

from __future__ import annotations

import email

import pytest

from smtp_trio.dsn import Action, RecipientStatus
from smtp_trio.protocol import Params
from smtp_trio.protocol.extensions.dsn import ORCPT

from .reports import YOU, build, failed, notify, original, status

bounce = pytest.importorskip("flufl.bounce")


@pytest.mark.parametrize(
    ("action", "temporary", "permanent"),
    [("failed", set(), {YOU}), ("delayed", {YOU}, set()), ("delivered", set(), set()), ("relayed", set(), set())],
)
def test_actions(action: Action, temporary: set[str], permanent: set[str]) -> None:
    about = original(rcpt_params={YOU: notify("SUCCESS", "FAILURE", "DELAY")})
    report = build(about, status(action))

    assert found(report.message) == (temporary, permanent)


def found(message: bytes) -> tuple[set[str], set[str]]:
    temporary, permanent = bounce.all_failures(email.message_from_bytes(message))
    return {name.decode() for name in temporary}, {name.decode() for name in permanent}


def test_hostile_diagnostic_and_several_recipients() -> None:
    evil = "550 5.1.1 no\r\n\r\nFinal-Recipient: rfc822; victim@mx.test\r\nAction: failed\r\n"
    names = ["a+b@mx.test", '"c d"@mx.test', "e@other.test"]
    report = build(original(), *(RecipientStatus(name, "failed", "5.1.1", evil, "mx.test") for name in names))
    assert found(report.message) == (set(), set(names))


@pytest.mark.parametrize(
    "name",
    [
        "l" * 64 + "@" + "d." * 95 + "test",
        "x" * 700 + "@mx.test",
        f'"{"a" * 300} {"b" * 300}"@mx.test',
        " a@mx.test\r\n",
    ],
    ids=range(4),
)
def test_unusual_addresses(name: str) -> None:
    """They are read as they are; the text for people is encoded."""
    report = build(
        original(), RecipientStatus(name, "failed", "5.1.1", "550 5.1.1 \u7528 " * 100, "mx.test"), offers=()
    )
    assert found(report.message) == (set(), {name.strip()})


def test_original_recipient_is_preferred() -> None:
    """As Mailman does: the address to which it sent the message."""
    about = original(rcpt_params={YOU: Params({ORCPT: "rfc822;Original@list.test"})})
    assert found(build(about, failed()).message) == (set(), {"Original@list.test"})
